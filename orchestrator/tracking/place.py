"""The place of a store's MLflow data: the URIs of its database and files, also after the store has moved.

MLflow writes down where an experiment's files are, as a whole path. In a store that was moved or copied since, they
would be looked for, and written, at the old place. And MLflow opens no database of another version. Before the
database is opened, both are put right in it, or it is refused: being a view, it can be written anew at any time.
"""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from orchestrator.errors import UserError
from orchestrator.storage.store import Store
from orchestrator.tracking.experiment import STUDY_TAG
from orchestrator.tracking.pages.first_page import VIEW_TAG, first_page

DATABASE, FILES = "mlflow.db", "mlartifacts"
#: Where `lilora ui` serves its pages, unless the port is taken.
HOST, PORT = "127.0.0.1", 5000
#: Columns of MLflow's tables that hold the place of files.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def default_uri(store: Store) -> str:
    """Where MLflow keeps this store's runs unless another place is named.

    Raises:
        UserError: the database's path cannot be written as a URI.
    """
    path = str(store.root / DATABASE)
    if "?" not in path and "%" not in path:
        return f"sqlite:///{path}"
    from sqlalchemy import make_url

    # Under the plain scheme MLflow would make a folder of the quoted name beside.
    uri = f"sqlite+pysqlite:///{quote(path)}"
    if make_url(uri).database != path:
        raise UserError(
            f"the path of the store {store.root} has '?' or '%' in it, which this SQLAlchemy does not read in a URI: "
            "bring it up to date (pip install -U 'sqlalchemy>=2.1'), move the store, or say --tracking URI or none"
        )
    return uri


def files_uri(store: Store) -> str:
    """Where MLflow keeps the files of this store's runs."""
    return (store.root / FILES).as_uri()


def write_anew(database: Path) -> str:
    """The remedy that always helps."""
    return f"move {database} away and run `lilora track` on each study, which writes it anew from the store"


def put_right(store: Store) -> None:
    """Have the store's MLflow database open, with the MLflow that is installed, where the store is now.

    Raises:
        UserError: a newer MLflow wrote it, it cannot be brought up to date, or it cannot be written.
    """
    follow_move(store)
    bring_up_to_date(store)


def bring_up_to_date(store: Store) -> None:
    """Have MLflow migrate the store's database where an earlier one wrote it; a copy of what it was stays beside.

    Raises:
        UserError: a newer MLflow wrote it, or the migration failed.
    """
    path = store.root / DATABASE
    version = _version(path) if path.is_file() else None
    if version is None:
        return
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    found = importlib.util.find_spec("mlflow")
    assert found is not None and found.submodule_search_locations
    scripts = ScriptDirectory(str(Path(found.submodule_search_locations[0]) / "store" / "db_migrations"))
    if version == scripts.get_current_head():
        return
    try:
        scripts.get_revision(version)
    except CommandError as error:
        raise UserError(
            f"{path} was written by another MLflow than this one can read (its version {version} is not known): bring "
            f"MLflow up to date (pip install -U mlflow), or {write_anew(path)}"
        ) from error
    kept = path.with_name(f"{path.stem}-{version}{path.suffix}")
    shutil.copy2(path, kept)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", default_uri(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.copy2(kept, path)
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise UserError(f"{path} is of an earlier MLflow and cannot be brought up to date ({last}): {write_anew(path)}")


def _version(path: Path) -> str | None:
    """The version of the database's tables; None where it has none, as before its first use."""
    try:
        with closing(sqlite3.connect(path, timeout=30)) as database:
            rows = database.execute("select version_num from alembic_version").fetchall()
    except sqlite3.Error:
        return None
    return str(rows[0][0]) if rows else None


@dataclass(frozen=True)
class Page:
    """A study's first page: the experiment's name in MLflow and its id, the study's, and its address on `lilora ui`."""

    name: str
    study: str
    experiment: str
    address: str


def pages_in(store: Store, port: int = PORT) -> list[Page]:
    """The studies that a store tracks, the last written first; none where the database cannot be read."""
    try:
        with closing(sqlite3.connect(store.root / DATABASE, timeout=30)) as database:
            rows = database.execute(
                "select e.name, s.value, e.experiment_id from experiments e "
                "join experiment_tags s on s.experiment_id = e.experiment_id and s.key = ? "
                "join experiment_tags v on v.experiment_id = e.experiment_id and v.key = ? "
                "where e.lifecycle_stage = 'active' order by e.last_update_time desc, e.experiment_id desc",
                (STUDY_TAG, VIEW_TAG),
            ).fetchall()
    except sqlite3.Error:
        return []
    server = f"http://{HOST}:{port}"
    return [Page(name, study, str(number), server + first_page(str(number))) for name, study, number in rows]


def follow_move(store: Store) -> None:
    """Have the store's MLflow database look for files where the store is now; nothing where it has not moved.

    Raises:
        UserError: it has moved, and the database cannot be written.
    """
    path = store.root / DATABASE
    if not path.is_file():
        return
    here = files_uri(store)
    try:
        with closing(sqlite3.connect(path, timeout=30)) as database, database:
            places = [place for place in _PLACES if _has(database, *place)]
            for old in _old_places(database, here) if _PLACES[0] in places else ():
                for table, column in places:
                    database.execute(
                        f"update {table} set {column} = ? || substr({column}, ?) "
                        f"where {column} = ? or substr({column}, 1, ?) = ?",
                        (here, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
    except sqlite3.Error as error:
        raise UserError(
            f"{path} says that the store was elsewhere, and cannot be put right ({error}): make it writable, or "
            f"{write_anew(path)}"
        ) from error


def _has(database: sqlite3.Connection, table: str, column: str) -> bool:
    return any(row[1] == column for row in database.execute(f"pragma table_info({table})"))


def _old_places(database: sqlite3.Connection, here: str) -> list[str]:
    """Where our experiments' files were; a user's own experiments lie elsewhere and stay there."""
    rows = database.execute("select distinct artifact_location from experiments").fetchall()
    return [old for (old,) in rows if old and old.startswith("file:") and old.endswith(f"/{FILES}") and old != here]
