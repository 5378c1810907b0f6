"""The store: whole artifacts or none, the first commit wins, damage is found, and errors name the remedy."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shutil
import stat
import time
from collections import namedtuple
from pathlib import Path

import pytest

from lilora.core.stage_run import Placement
from orchestrator.errors import DamagedError, StoreError
from orchestrator.execution.executor import execute_inline
from orchestrator.execution.workers.actor import describe_error
from orchestrator.execution.workers.making import Job, make_artifact, stage_run
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.record import RECORD, FileEntry, Record
from orchestrator.storage.store import Store
from tests.orchestrator.toy_steps import number


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def made(step: Step, store: Store) -> Record:
    job = Job.of(step)
    with store.lock(step.digest):
        return make_artifact(job, store, stage_run(job, store, Placement(), 30))


def commit(store: Store, text: str, digest: str = "d" * 64) -> Record:
    staged = store.stage(digest)
    (staged / "result.txt").write_text(text)

    def describe(files: dict[str, FileEntry], references: tuple[str, ...]) -> Record:
        return Record(digest, "label", "m:f", 1, {}, {}, references, files)

    return store.commit(staged, describe)


def test_a_record_says_what_it_is_and_what_it_was_made_from(store: Store) -> None:
    base = number(1)
    made(base, store)
    step = number(2, base, label="two")
    record = made(step, store)
    assert store.record(step.digest) == record
    assert (record.label, record.call, record.version) == ("two", step.call, 1)
    assert record.config == {"type": "tests.orchestrator.toy_steps.Number", "value": 2}
    assert record.inputs == {"input0": base.digest}
    assert record.summary == {"sum": 3}
    assert record.files["sum.json"].size == (store.path(step.digest) / "sum.json").stat().st_size
    assert record.environment["packages"]["numpy"]
    assert record.provenance["process"] == os.getpid()


def test_an_artifact_is_there_only_when_it_is_complete(store: Store) -> None:
    digest = number(1).digest
    staged = store.stage(digest)
    (staged / "half.txt").write_text("half")
    assert not store.has(digest)
    assert digest not in store.digests()


def test_a_step_that_fails_leaves_nothing_but_its_scratch(store: Store) -> None:
    step = number(1, kind="fail")
    (store.scratch(step.digest) / "checkpoint").write_text("kept")
    with pytest.raises(RuntimeError, match="toy trouble"):
        made(step, store)
    assert not store.has(step.digest)
    assert list((store.root / "staging").iterdir()) == []
    assert (store.scratch(step.digest) / "checkpoint").read_text() == "kept"


def test_the_first_commit_wins(store: Store) -> None:
    first = commit(store, "first")
    assert commit(store, "second") == first
    assert (store.path(first.digest) / "result.txt").read_text() == "first"
    assert list((store.root / "staging").iterdir()) == []


def test_scratch_goes_when_the_result_is_committed(store: Store) -> None:
    step = number(3, kind="train")
    made(step, store)
    assert list((store.root / "scratch").iterdir()) == []
    assert list((store.root / "running").iterdir()) == []


def test_a_step_may_not_write_the_records_name(store: Store) -> None:
    staged = store.stage("e" * 64)
    (staged / RECORD).write_text("{}")
    with pytest.raises(ValueError, match="choose another"):
        store.commit(staged, lambda files, references: pytest.fail("not reached"))


def test_a_flipped_byte_is_found_by_the_checksum_and_not_by_the_size(store: Store) -> None:
    digest = commit(store, "result").digest
    (store.path(digest) / "result.txt").write_text("rasult")
    assert store.problems(digest, "sizes") == ()
    assert store.problems(digest, "bytes") == ("result.txt has other bytes than its checksum says",)


def test_missing_added_and_cut_files_are_found_without_a_checksum(store: Store) -> None:
    digest = commit(store, "result").digest
    path = store.path(digest) / "result.txt"
    path.write_text("res")
    (store.path(digest) / "extra.txt").write_text("x")
    assert store.problems(digest, "sizes") == ("extra.txt is not in the record", "result.txt has 3 bytes, not 6")
    path.unlink()
    assert "result.txt is missing" in store.problems(digest, "sizes")


def test_an_unreadable_record_is_damage(store: Store) -> None:
    digest = commit(store, "result").digest
    (store.path(digest) / RECORD).write_text('{"digest": 3}')
    assert "cannot be read" in store.problems(digest, "bytes")[0]
    with pytest.raises(DamagedError, match="remake"):
        store.record(digest)


def test_a_damaged_artifact_is_kept_aside(store: Store) -> None:
    digest = commit(store, "result").digest
    kept = store.set_aside(digest)
    assert not store.has(digest)
    assert (kept / "result.txt").read_text() == "result"
    assert kept.parent == store.root / "damaged"


def _hold(root: Path, digest: str, ready: object, done: object) -> None:
    with Store(root).lock(digest):
        ready.set()  # type: ignore[attr-defined]
        done.wait(60)  # type: ignore[attr-defined]


def test_leftovers_of_dead_makers_are_cleared_and_those_of_live_ones_stay(store: Store) -> None:
    dead, live = store.stage("1" * 64), store.stage("2" * 64)
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(store.root, "2" * 64, ready, done))
    holder.start()
    assert ready.wait(60)
    Store(store.root).prepare()
    assert (dead.exists(), live.exists()) == (False, True)
    done.set()
    holder.join(60)
    Store(store.root).prepare()
    assert not live.exists()


def test_a_lock_ends_with_its_process(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(store.root, "x", ready, context.Event()))
    holder.start()
    assert ready.wait(60)
    with store.leases.held_if_free("x") as free:
        assert not free
    holder.kill()
    began = time.monotonic()
    with store.lock("x", wait=5):
        assert time.monotonic() - began < 1.0, "a dead process of this machine is known to be dead at once"
    holder.join(60)
    assert list((store.root / "running").iterdir()) == []


def test_a_store_that_is_a_file_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match="--store DIR"):
        Store(tmp_path / "store").prepare()
    with pytest.raises(StoreError, match="--store DIR"):
        Store(tmp_path / "store").digests()


def test_a_full_disk_is_an_error_before_any_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(StoreError, match="full: 0 MiB free"):
        execute_inline(Plan.of([number(1)]), store)
    assert not store.digests()


def test_a_disk_that_fills_up_is_told_with_the_remedy(store: Store) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "free some space" in describe_error(error, store)


def test_reading_an_absent_store_shows_an_empty_one(tmp_path: Path) -> None:
    assert Store(tmp_path / "nothing").digests() == frozenset()
    assert not (tmp_path / "nothing").exists()


def test_an_artifact_has_the_modes_that_the_umask_gives_whatever_wrote_it(store: Store) -> None:
    staged = store.stage("e" * 64)
    (staged / "inner").mkdir()
    for name in ("weights", "inner/more"):
        os.close(os.open(staged / name, os.O_CREAT | os.O_WRONLY, 0o600))
    record = store.commit(staged, lambda files, references: Record("e" * 64, "l", "m:f", 1, {}, {}, references, files))
    assert sorted(record.files) == ["inner/more", "weights"]
    (store.root / "usual").touch()
    usual = (store.root / "usual").stat().st_mode
    found = {path.stat().st_mode for path in store.path("e" * 64).rglob("*") if path.is_file()}
    assert found == {usual}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.ENOTSUP, errno.EPERM, errno.ENOSYS])
def test_a_file_system_that_flushes_no_folder_is_taken_as_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    flush = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    commit(store, "result")
    assert store.problems("d" * 64, "bytes") == ()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_bytes_that_do_not_reach_the_disk_are_no_result(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        commit(store, "result")
    assert not store.has("d" * 64)


def test_a_full_or_closed_place_outside_the_store_is_not_taken_for_the_store(store: Store) -> None:
    def said(number: int, name: Path) -> str:
        return describe_error(OSError(number, os.strerror(number), str(name)), store)

    inside, elsewhere = store.root / "staging" / "a", store.root.parent / "cache" / "a"
    assert said(errno.ENOSPC, inside).startswith(f"the store {store.root} is full")
    assert said(errno.EACCES, store.root.parent).startswith(f"the store {store.root} cannot be written")
    assert said(errno.ENOSPC, elsewhere).startswith(f"no room for {elsewhere}") and "HF_HOME" in said(28, elsewhere)
    for refused in (errno.EACCES, errno.EROFS):
        assert said(refused, elsewhere).startswith(f"{elsewhere} (")
        assert f"is not in the store {store.root}" in said(refused, elsewhere)
