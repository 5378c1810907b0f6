"""Removing what no study needs, checking and copying a store: nothing in use goes, nothing half done stays."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.errors import UserError
from orchestrator.execution.executor import execute_inline
from orchestrator.resolving.catalogue import Target
from orchestrator.resolving.keeping import digests_of
from orchestrator.resolving.resolve import resolve
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage import copy as copying
from orchestrator.storage import integrity
from orchestrator.storage import store as store_module
from orchestrator.storage.copy import copy_artifacts
from orchestrator.storage.garbage import age, collect, garbage
from orchestrator.storage.store import RETENTION, Store
from tests.orchestrator.resolving.test_search import searching
from tests.orchestrator.storage.test_remote import objects_of
from tests.orchestrator.toy_steps import number

FORK = multiprocessing.get_context("fork")
DAY = 86400.0
STUDY = """
from tests.orchestrator.toy_steps import number


def NAME():
    return number(2, number(1))
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    store.leases.poll_seconds = 0.02
    return store


def made(store: Store, *steps: Any) -> Plan:
    plan = Plan.of(steps)
    assert execute_inline(plan, store).ok
    return plan


def grown_old(store: Store) -> None:
    """As if everything had been written two days ago."""
    past = time.time() - 2 * DAY
    for folder in ("artifacts", "scratch", "logs", "damaged"):
        for path in (store.root / folder).glob("*"):
            os.utime(path, (past, past))


def referring_to(step: Step) -> Step:
    like = number(2, kind="refer")
    return Step("state", like.call, like.config, (("previous", step),))


def names(found: Any, folder: str = "artifacts") -> set[str]:
    return {item.name for item in found if item.folder == folder}


# What goes and what stays


def test_what_no_study_needs_goes_and_what_one_needs_stays_with_what_it_refers_to(store: Store) -> None:
    base, other = number(1), number(9)
    state = referring_to(base)
    made(store, state, other)
    grown_old(store)
    # The study asks for the state alone; what it refers to is needed with it.
    assert names(garbage(store, frozenset({state.digest}), DAY)) == {other.digest}
    assert store.digests() == {base.digest, state.digest, other.digest}, "looking removes nothing"
    assert names(collect(store, frozenset({state.digest}), DAY)) == {other.digest}
    assert store.digests() == {base.digest, state.digest}
    assert [item.name for item in garbage(store, frozenset(), DAY)] == [state.digest, base.digest], "referring first"


def test_what_is_younger_than_the_least_age_stays(store: Store) -> None:
    plan = made(store, number(1))
    assert garbage(store, frozenset(), DAY) == []
    assert names(garbage(store, frozenset(), 0.0)) == set(plan.by_digest)


def test_what_a_running_driver_uses_stays_and_goes_when_it_is_dead(store: Store) -> None:
    plan = made(store, number(2, number(1)))
    grown_old(store)

    def drive(ready: Any) -> None:
        with Store(store.root).using(plan.by_digest):
            ready.set()
            time.sleep(60)

    ready = FORK.Event()
    driver = FORK.Process(target=drive, args=(ready,))
    driver.start()
    try:
        assert ready.wait(30)
        assert collect(store, frozenset(), DAY) == []
    finally:
        driver.kill()
        driver.join(30)
    assert names(collect(store, frozenset(), DAY)) == set(plan.by_digest)
    store.prepare()
    assert list((store.root / "running").iterdir()) == [], "its list goes with it"


def test_a_run_that_begins_while_things_are_removed_waits_until_that_is_done(store: Store) -> None:
    def drive(queue: Any) -> None:
        with Store(store.root).using(["a"]):
            queue.put(time.monotonic())

    queue = FORK.Queue()
    with store.leases.held(RETENTION):
        driver = FORK.Process(target=drive, args=(queue,))
        driver.start()
        time.sleep(0.4)
        assert queue.empty()
        removed = time.monotonic()
    looked = queue.get(timeout=30)
    driver.join(30)
    assert looked >= removed


def test_scratch_and_logs_go_where_the_step_is_finished_or_unknown_and_nobody_makes_it(store: Store) -> None:
    finished, needed, unknown, held = (number(value) for value in (1, 2, 3, 4))
    made(store, finished)
    for step in (finished, needed, unknown, held):
        (store.scratch(step.digest) / "checkpoint").write_text("12345678")
        store.log(step.digest).write_text("said")
    (store.root / "damaged").mkdir()
    (store.root / "damaged" / "x.1").write_text("old")
    grown_old(store)
    with store.lock(held.digest):
        found = garbage(store, frozenset({finished.digest, needed.digest}), DAY)
    assert names(found, "scratch") == {finished.digest, unknown.digest}
    assert names(found, "logs") == {f"{step.digest}.log" for step in (finished, unknown)}
    assert names(found, "damaged") == {"x.1"}
    assert {item.size for item in found if item.folder == "scratch"} == {8}


def test_while_a_search_is_open_the_tables_of_all_its_options_are_needed(store: Store) -> None:
    study = searching()
    needed = digests_of(Target("rows", study), store)
    both = resolve(study, store).plan.by_digest.keys()
    assert both < needed, "more than the search and the first values"
    assert len(resolve(study, store).table.trials) == len(study.trials)


def test_an_object_store_is_cleaned_in_the_same_way(tmp_path: Path) -> None:
    store = Store(f"memory://bucket/{secrets.token_hex(4)}", tmp_path)
    store.prepare()
    kept, gone = number(1), number(2)
    made(store, kept, gone)
    objects = objects_of(store)
    objects.write(f"artifacts/{'e' * 64}/{'0' * 64}/half.txt", b"an upload that died")
    assert garbage(store, frozenset({kept.digest}), DAY) == []
    assert names(collect(store, frozenset({kept.digest}), 0.0)) == {gone.digest, "e" * 64}
    assert store.digests() == {kept.digest}
    assert objects.sizes(f"artifacts/{gone.digest}") == {}
    assert not store.path(gone.digest).exists()


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("90", 90), ("30m", 1800), ("12h", 43200), ("1.5d", 129600)])
def test_an_age_is_read_with_its_unit(text: str, seconds: float) -> None:
    assert age(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "1w", "-1h", "soon"])
def test_an_age_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="write 30m, 12h or 1d"):
        age(text)


# Copying


def killed_when(function: Callable[[], None], there: Callable[[], bool]) -> None:
    """Run `function` in a process, and kill -9 it once `there()`."""
    child = FORK.Process(target=function)
    child.start()
    deadline = time.monotonic() + 30
    while not there():
        assert time.monotonic() < deadline and child.is_alive()
        time.sleep(0.005)
    child.kill()
    child.join(30)
    assert child.exitcode == -9


def test_a_copy_that_is_killed_leaves_whole_artifacts_and_the_next_goes_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = made(store, number(3, number(2, number(1))))
    other = Store(tmp_path / "other")

    def slow(source: Path, target: Path) -> None:
        time.sleep(0.15)
        target.write_bytes(source.read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(copying.shutil, "copyfile", slow)
        killed_when(
            lambda: copy_artifacts(store, other, plan.by_digest) and None,
            lambda: len(other.digests()) == 1 and any((other.root / "staging").iterdir()),
        )
    before = other.digests()
    assert len(before) == 1
    assert {other.problems(digest, "bytes") for digest in before} == {()}
    done = copy_artifacts(store, other, plan.by_digest)
    assert (len(done.copied), len(done.there)) == (2, 1)
    assert list((other.root / "staging").iterdir()) == []
    assert [other.record(digest) == store.record(digest) for digest in plan.by_digest] == [True] * 3
    again = copy_artifacts(store, other, plan.by_digest)
    assert (again.copied, len(again.there), again.size) == ([], 3, 0)


def test_a_damaged_artifact_is_not_copied_nor_what_refers_to_it(store: Store, tmp_path: Path) -> None:
    base, sound = number(1), number(5)
    state = referring_to(base)
    made(store, state, sound)
    (store.path(base.digest) / "sum.json").write_text('{"sum": 2}')
    other = Store(tmp_path / "other")
    done = copy_artifacts(store, other, [base.digest, state.digest, sound.digest])
    assert done.copied == [sound.digest]
    assert done.damaged.keys() == {base.digest, state.digest}
    assert other.digests() == {sound.digest}


def test_a_study_is_copied_to_an_object_store_and_back(store: Store, tmp_path: Path) -> None:
    plan = made(store, number(3, number(2)))
    remote = Store(f"memory://bucket/{secrets.token_hex(4)}", tmp_path / "cache")
    assert len(copy_artifacts(store, remote, plan.by_digest).copied) == 2
    back = Store(tmp_path / "back")
    copy_artifacts(Store(remote.url, tmp_path / "other"), back, plan.by_digest)
    assert [back.record(digest) == store.record(digest) for digest in plan.by_digest] == [True, True]
    assert {back.problems(digest, "bytes") for digest in back.digests()} == {()}


def test_a_commit_that_is_killed_leaves_nothing_that_counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    step = number(1)

    def slow(folder: Path) -> None:
        integrity.flush_tree(folder)
        time.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "flush_tree", slow)
        killed_when(
            lambda: made(Store(store.root), step) and None,
            lambda: bool(list((store.root / "staging").glob("*/record.json"))),
        )
    assert not store.has(step.digest)
    assert store.digests() == frozenset()
    made(store, step)
    assert list((store.root / "staging").iterdir()) == []


# The commands


@pytest.fixture
def folder(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder whose experiments/ has one study of two steps, finished, beside a step that nobody needs."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "wanted_steps.py").write_text(STUDY.replace("NAME", "wanted_steps"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.resolving.catalogue.folders", lambda: [tmp_path / "experiments"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    made(store, number(2, number(1)), number(99))
    grown_old(store)
    yield tmp_path
    for module in ("wanted_steps", "broken_steps"):
        sys.modules.pop(module, None)


def lilora_(*arguments: str, store: Store, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--store", str(store.root), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout.splitlines()[-1]) if result.stdout.strip() else result.stderr


@pytest.mark.usefixtures("folder")
def test_gc_says_what_it_would_remove_and_removes_it_only_when_told(store: Store) -> None:
    said = lilora_("gc", store=store)
    assert (said["removed"], said["artifacts"], said["kept_studies"]) == (False, [number(99).digest], ["wanted_steps"])
    assert said["by_folder"]["artifacts"]["bytes"] == said["bytes"] > 0
    assert store.has(number(99).digest)
    assert lilora_("gc", "--min-age", "3d", store=store)["entries"] == 0
    assert lilora_("gc", "--yes", store=store)["removed"]
    assert store.digests() == {number(1).digest, number(2, number(1)).digest}
    assert lilora_("gc", "--yes", store=store)["entries"] == 0


def test_gc_removes_nothing_while_a_study_cannot_be_read_unless_told_what_to_keep(folder: Path, store: Store) -> None:
    (folder / "experiments" / "broken_steps.py").write_text("import no_such_package_here\n")
    (folder / "experiments" / "helper.py").write_text("VALUE = 3\n")
    assert lilora_("gc", store=store)["unreadable"].keys() == {"broken_steps"}
    assert "broken_steps cannot be read" in " ".join(lilora_("gc", "--yes", store=store, code=2).split())
    assert store.has(number(99).digest)
    kept = lilora_("gc", "--yes", "--keep", "wanted_steps", store=store)
    assert kept["artifacts"] == [number(99).digest]


@pytest.mark.usefixtures("folder")
def test_store_verify_finds_a_flipped_byte_and_sets_it_aside_when_told(store: Store) -> None:
    assert lilora_("store", "verify", store=store) == {"checked": 3, "damaged": {}, "set_aside": {}}
    digest = number(99).digest
    (store.path(digest) / "sum.json").write_text('{"sum": 98}')
    assert lilora_("store", "verify", "wanted_steps", store=store)["checked"] == 2
    assert lilora_("store", "verify", store=store, code=1)["damaged"].keys() == {digest}
    assert store.has(digest)
    assert lilora_("store", "verify", "--remove", store=store, code=1)["set_aside"].keys() == {digest}
    assert not store.has(digest)
    assert lilora_("store", "verify", store=store)["checked"] == 2


def test_store_copy_copies_a_study_and_the_second_time_nothing(folder: Path, store: Store) -> None:
    first = lilora_("store", "copy", "wanted_steps", str(folder / "published"), store=store)
    assert (first["copied"], first["there"], first["missing"]) == (2, 0, 0)
    second = lilora_("store", "copy", "wanted_steps", f"file://{folder}/published", store=store)
    assert (second["copied"], second["there"], second["bytes"]) == (0, 2, 0)
    assert "name another DESTINATION" in lilora_("store", "copy", "wanted_steps", str(store.root), store=store, code=2)


@pytest.mark.usefixtures("folder")
def test_store_ls_counts_by_kind(store: Store) -> None:
    said = lilora_("store", "ls", store=store)
    assert said["kinds"]["add"]["artifacts"] == 3
    assert said["kinds"]["add"]["bytes"] == sum(
        entry.size for digest in store.digests() for entry in store.record(digest).files.values()
    )
