"""MLflow's data of a store whose path holds what URIs give a meaning to, and of one that moved."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from lilora.methods.seqlora import SeqLoRA
from orchestrator.errors import UserError
from orchestrator.planning.lowering import lower
from orchestrator.results.reading import ResultReader
from orchestrator.storage.store import Store
from orchestrator.tracking.listener import track
from orchestrator.tracking.place import default_uri, files_uri, follow_move, put_right
from tests.orchestrator.fake_results import fake_store, fake_study, fill

NAMES = ("plain", "a b", "ä ü", "a#b", "a%20b", "a%b", "a?b", "a?b=c&d", "a[1]", "a;b", "a:b@c", "a'b", 'a"b', "%C3%A4")


@pytest.mark.parametrize("name", NAMES)
def test_the_database_lies_in_the_store_whatever_its_path_holds(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / name)
    store.root.mkdir()
    engine = create_engine(default_uri(store))
    with engine.begin() as connection:
        connection.execute(text("create table things (name text)"))
    engine.dispose()
    assert make_url(default_uri(store)).database == str(store.root / "mlflow.db")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in store.root.iterdir()] == ["mlflow.db"]


def database(store: Store, place: str) -> None:
    """MLflow's tables as far as they hold places, with a user's own experiment beside ours; model_versions lacks."""
    store.root.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(store.root / "mlflow.db")) as made, made:
        made.execute("create table experiments (name text, artifact_location text)")
        made.execute("create table runs (artifact_uri text)")
        made.execute("create table logged_models (artifact_location text)")
        rows = [("ours", place), ("own", "file:///elsewhere/mine"), ("bucket", "s3://bucket/mlartifacts")]
        made.executemany("insert into experiments values (?, ?)", rows)
        uris = [(f"{place}/1/artifacts",), (f"{place}-other/1",), ("file:///elsewhere/mine/2",)]
        made.executemany("insert into runs values (?)", uris)
        made.execute("insert into logged_models values (?)", (f"{place}/models/m-1/artifacts",))


def places(store: Store) -> list[str]:
    with closing(sqlite3.connect(store.root / "mlflow.db")) as read:
        return [
            value
            for query in ("artifact_location from experiments", "artifact_uri from runs", "* from logged_models")
            for (value,) in read.execute(f"select {query}")
        ]


def test_in_a_store_that_moved_only_our_own_files_are_looked_for_at_the_new_place(tmp_path: Path) -> None:
    old, store = "file:///old%20place/ä'%/mlartifacts", Store(tmp_path / "new ?%20 place")
    database(store, old)
    follow_move(store)
    here = files_uri(store)
    moved = [
        here, "file:///elsewhere/mine", "s3://bucket/mlartifacts",
        f"{here}/1/artifacts", f"{old}-other/1", "file:///elsewhere/mine/2", f"{here}/models/m-1/artifacts",
    ]  # fmt: skip
    assert places(store) == moved
    follow_move(store)
    assert places(store) == moved


def test_a_store_without_a_database_or_with_one_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    follow_move(store)
    assert not store.root.exists()
    store.root.mkdir()
    (store.root / "mlflow.db").touch()
    follow_move(store)
    assert (store.root / "mlflow.db").stat().st_size == 0


def test_a_database_that_cannot_be_put_right_is_refused_with_the_remedy(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.root.mkdir()
    (store.root / "mlflow.db").write_text("no database at all, and long enough to be seen as none" * 20)
    with pytest.raises(UserError, match="cannot be put right.*make it writable, or move .* run `lilora track`"):
        follow_move(store)


@pytest.mark.slow
def test_a_study_tracked_in_a_store_that_moved_is_whole_there_and_nothing_is_written_at_the_old_place(
    tmp_path: Path,
) -> None:
    from mlflow import MlflowClient
    from mlflow.tracking._tracking_service import utils

    lowered = lower(fake_study((SeqLoRA(),), tasks=("ScienceQA", "TextVQA")))
    before = fake_store(tmp_path / "a?b %20#ä", lowered, until=1)
    track(lowered, ResultReader(before))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a?b %20#ä"]
    (tmp_path / "a?b %20#ä").rename(tmp_path / "moved [1]")
    store = Store(tmp_path / "moved [1]")
    fill(lowered, store)
    # As in another process: MLflow keeps in mind where it has written before.
    utils._artifact_repos_cache.clear()
    track(lowered, ResultReader(store))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved [1]"]
    client = MlflowClient(default_uri(store))
    [experiment] = [one for one in client.search_experiments() if one.name == "fake"]
    assert experiment.artifact_location == files_uri(store)
    runs = client.search_runs([experiment.experiment_id])
    assert {item.path for run in runs for item in client.list_artifacts(run.info.run_id)} >= {"matrix", "table.csv"}
    for model in client.search_logged_models([experiment.experiment_id]):
        assert client.list_logged_model_artifacts(model.model_id)


@pytest.mark.slow
def test_a_database_of_an_earlier_mlflow_is_brought_up_to_date_and_of_a_newer_one_refused(tmp_path: Path) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow import MlflowClient
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    store = Store(tmp_path / "store")
    store.root.mkdir()
    config = _get_alembic_config(default_uri(store))
    earlier = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][8]
    Base.metadata.create_all(create_engine(default_uri(store)))
    command.upgrade(config, earlier)
    put_right(store)
    assert (store.root / f"mlflow-{earlier}.db").is_file()
    assert MlflowClient(default_uri(store)).search_experiments()

    with sqlite3.connect(store.root / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
    with pytest.raises(UserError, match=r"version ffffffffffff.*bring MLflow up to date.*or move .* `lilora track`"):
        put_right(store)
