"""The place of a store's MLflow data: the URIs of its database and files, also after the store has moved.

MLflow writes down where an experiment's files are, as a whole path. In a store that was moved or copied since, they
would be looked for, and written, at the old place: before the database is opened, they are put right in it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from urllib.parse import quote

from orchestrator.errors import UserError
from orchestrator.storage.store import Store

DATABASE, FILES = "mlflow.db", "mlartifacts"
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
            f"{path} says that the store was elsewhere, and cannot be put right ({error}): make it writable, or remove "
            "it and run `lilora track` on each study, which rebuilds it from the store"
        ) from error


def _has(database: sqlite3.Connection, table: str, column: str) -> bool:
    return any(row[1] == column for row in database.execute(f"pragma table_info({table})"))


def _old_places(database: sqlite3.Connection, here: str) -> list[str]:
    """Where our experiments' files were; a user's own experiments lie elsewhere and stay there."""
    rows = database.execute("select distinct artifact_location from experiments").fetchall()
    return [old for (old,) in rows if old and old.startswith("file:") and old.endswith(f"/{FILES}") and old != here]
