"""A store on an object store: whole artifacts or none, the first record wins, and another machine can go on."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.errors import DamagedError, LeaseLostError, MadeElsewhereError, StoreError
from orchestrator.execution.executor import execute, execute_inline
from orchestrator.steps.plan import Plan
from orchestrator.storage.backends.object_backend import ObjectBackend, cache_of
from orchestrator.storage.backends.objects import Objects
from orchestrator.storage.record import RECORD, FileEntry, Record
from orchestrator.storage.store import Store
from tests.orchestrator.toy_steps import number

DIGEST = "d" * 64


class Failing(LocalFileSystem):
    """Real files; dies at the upload of which `fails_at` is in the name, half of it written."""

    protocol = "failing"
    fails_at = ""

    def put_file(self, lpath: Any, rpath: Any, **other: Any) -> None:
        if self.fails_at and self.fails_at in str(rpath):
            with self.open(rpath, "wb") as file:
                file.write(Path(lpath).read_bytes()[:1])
            raise ConnectionError("the line went dead")
        super().put_file(lpath, rpath, **other)


class Overwriting(MemoryFileSystem):
    """Does as if it created exclusively."""

    protocol = "overwriting"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **other: Any) -> None:
        super().pipe_file(path, value, mode="overwrite")


fsspec.register_implementation("failing", Failing, clobber=True)
fsspec.register_implementation("overwriting", Overwriting, clobber=True)


@pytest.fixture
def url() -> str:
    return f"memory://bucket/{secrets.token_hex(4)}"


def objects_of(store: Store) -> Objects:
    assert isinstance(store.backend, ObjectBackend)
    return store.backend.objects


def machine(url: str, folder: Path) -> Store:
    """The store as a machine with its own cache sees it."""
    store = Store(url, folder)
    store.prepare()
    store.leases.poll_seconds = 0.02
    return store


def commit(store: Store, texts: dict[str, str], digest: str = DIGEST) -> Record:
    staged = store.stage(digest)
    for name, text in texts.items():
        (staged / name).parent.mkdir(exist_ok=True)
        (staged / name).write_text(text)

    def describe(files: dict[str, FileEntry], references: tuple[str, ...]) -> Record:
        return Record(digest, "label", "m:f", 1, {}, {}, references, files)

    return store.commit(staged, describe)


def test_what_one_machine_commits_another_reads_with_its_names_and_bytes(url: str, tmp_path: Path) -> None:
    here, there = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    record = commit(here, {"result.txt": "seven", "deep/inside.txt": "eight"})
    assert there.has(DIGEST)
    assert there.digests() == {DIGEST}
    assert there.record(DIGEST) == record
    assert not (tmp_path / "b" / "artifacts" / DIGEST).exists(), "nothing is fetched before it is read"
    assert (there.fetch(DIGEST) / "result.txt").read_text() == "seven"
    assert (there.fetch(DIGEST) / "deep" / "inside.txt").read_text() == "eight"
    assert there.problems(DIGEST, "bytes") == there.problems(DIGEST, "sizes") == there.problems(DIGEST, "here") == ()


def test_asking_where_an_artifact_would_be_downloads_nothing(url: str, tmp_path: Path) -> None:
    here, there = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    commit(here, {"result.txt": "seven"})
    assert there.path(DIGEST) == tmp_path / "b" / "artifacts" / DIGEST
    assert not there.path(DIGEST).exists()
    assert there.fetch(DIGEST) == there.path(DIGEST)
    assert here.fetch("e" * 64) == here.path("e" * 64), "of what is nowhere, a folder that is not there"
    assert not here.path("e" * 64).exists()


def test_a_copy_in_the_cache_without_a_record_is_fetched_again(url: str, tmp_path: Path) -> None:
    here = machine(url, tmp_path / "a")
    commit(here, {"result.txt": "seven"})
    (here.path(DIGEST) / RECORD).unlink()
    assert here.problems(DIGEST, "here") == ()
    assert sorted(path.name for path in here.fetch(DIGEST).iterdir()) == [RECORD, "result.txt"]


def test_a_maker_that_lost_its_lease_while_it_sent_its_files_does_not_commit(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    send = here.backend.send

    def slow(staged: Path, record: Record) -> None:
        send(staged, record)
        assert lease is not None
        lease.lost = True

    monkeypatch.setattr(here.backend, "send", slow)
    with here.lock(DIGEST) as lease, pytest.raises(LeaseLostError):
        commit(here, {"result.txt": "late"})
    assert not there.has(DIGEST)


def test_a_plan_made_on_one_machine_is_finished_on_another(url: str, tmp_path: Path) -> None:
    one, two = number(1), number(2)
    whole = Plan.of([number(5, one, two), number(6, one)])
    here = machine(url, tmp_path / "a")
    assert execute_inline(Plan.of([one]), here).run == 1
    there = machine(url, tmp_path / "b")
    outcome = execute_inline(whole, there)
    assert (outcome.ok, outcome.run, outcome.reused) == (True, 3, 1)
    assert execute_inline(whole, here).run == 0


@pytest.mark.parametrize("fails_at", ["b.txt", "a.txt"])
def test_an_upload_that_dies_half_way_leaves_nothing_that_counts(
    fails_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(f"failing://{tmp_path}/bucket", tmp_path / "cache")
    monkeypatch.setattr(Failing, "fails_at", fails_at)
    with pytest.raises(ConnectionError):
        commit(store, {"a.txt": "aaaa", "b.txt": "bbbb"})
    assert not store.has(DIGEST)
    assert store.digests() == frozenset()
    monkeypatch.setattr(Failing, "fails_at", "")
    commit(store, {"a.txt": "aaaa", "b.txt": "bbbb"})
    other = machine(f"failing://{tmp_path}/bucket", tmp_path / "other")
    assert other.problems(DIGEST, "bytes") == ()
    assert (other.fetch(DIGEST) / "b.txt").read_text() == "bbbb"


def test_a_late_commit_changes_nothing_of_the_first(url: str, tmp_path: Path) -> None:
    here, late = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    first = commit(here, {"result.txt": "first"})
    assert commit(late, {"result.txt": "later, and longer"}) == first
    reader = machine(url, tmp_path / "c")
    assert reader.problems(DIGEST, "bytes") == ()
    for store in (late, reader):
        assert (store.fetch(DIGEST) / "result.txt").read_text() == "first"


def test_bytes_that_differ_from_the_checksum_are_not_taken_into_the_cache(url: str, tmp_path: Path) -> None:
    here, there = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    record = commit(here, {"result.txt": "seven"})
    blob = f"artifacts/{DIGEST}/{record.files['result.txt'].sha256}/result.txt"
    objects_of(here).write(blob, b"sevem")
    assert there.problems(DIGEST, "here") == ()
    with pytest.raises(DamagedError, match="store verify --remove"):
        there.fetch(DIGEST)
    assert list((tmp_path / "b" / "artifacts").iterdir()) == []
    assert list((tmp_path / "b" / "staging").iterdir()) == []
    assert there.problems(DIGEST, "bytes") == ("result.txt has other bytes than its checksum says",)
    objects_of(here).remove(blob)
    assert there.problems(DIGEST, "here") == ("result.txt is missing",)
    kept = there.set_aside(DIGEST)
    assert not there.has(DIGEST)
    assert objects_of(there).names(f"damaged/{kept.name}") == [RECORD]


def test_a_damaged_copy_in_the_cache_is_fetched_again(url: str, tmp_path: Path) -> None:
    here = machine(url, tmp_path / "a")
    commit(here, {"result.txt": "seven"})
    (here.fetch(DIGEST) / "result.txt").write_text("sevem")
    assert here.problems(DIGEST, "here") == ()
    assert (here.fetch(DIGEST) / "result.txt").read_text() == "seven"


def test_two_machines_hold_one_lease(url: str, tmp_path: Path) -> None:
    here, there = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    with here.lock(DIGEST, "step") as lease:
        assert lease is not None
        assert there.maker(DIGEST) == lease.maker
        with pytest.raises(MadeElsewhereError), there.lock(DIGEST, "step", wait=0):
            pytest.fail("two hold it")
    with there.lock(DIGEST, "step", wait=0):
        pass
    assert objects_of(there).names("running") == []


def test_another_machine_goes_on_from_the_checkpoints_of_the_first_and_back(url: str, tmp_path: Path) -> None:
    here, there = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    for store, before, now in ((here, "", "1"), (there, "1", "2"), (here, "2", "3"), (here, "3", "4")):
        with pytest.raises(RuntimeError), store.lock(DIGEST):
            checkpoint = store.scratch(DIGEST) / "checkpoint"
            assert (checkpoint.read_text() if checkpoint.exists() else "") == before
            checkpoint.write_text(now)
            store.log(DIGEST).write_text("what it said")
            raise RuntimeError("stopped")
    assert len(objects_of(there).names(f"scratch/{DIGEST}")) == 1
    assert objects_of(there).read(f"logs/{DIGEST}.log") == b"what it said"
    with there.lock(DIGEST):
        assert (there.scratch(DIGEST) / "checkpoint").read_text() == "4"
        commit(there, {"result.txt": "done"})
    assert objects_of(there).names(f"scratch/{DIGEST}") == []


def test_checkpoints_go_to_the_store_while_the_step_is_made(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    monkeypatch.setattr("orchestrator.storage.backends.scratch_sync.PUSH_SECONDS", 0.0)
    with here.lock(DIGEST) as lease:
        assert lease is not None and lease.on_beat is not None
        (here.scratch(DIGEST) / "checkpoint").write_text("half way")
        lease.on_beat()
        there.fetch_scratch(DIGEST)
    assert (there.scratch(DIGEST) / "checkpoint").read_text() == "half way"


def test_a_file_system_that_overwrites_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="overwrites an object that should be created only once"):
        Store("overwriting://bucket", tmp_path).prepare()


def test_a_url_opens_the_store_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LILORA_CACHE", str(tmp_path / "cache"))
    assert Store(f"file://{tmp_path}/store").root == tmp_path / "store"
    assert Store(str(tmp_path)).root == Path(Store(str(tmp_path)).url) == tmp_path
    remote = Store("memory://bucket/some")
    assert isinstance(remote.backend, ObjectBackend)
    assert (remote.url, remote.root.parent) == ("memory://bucket/some", tmp_path / "cache")
    assert Store(remote.url).root == remote.root == cache_of(remote.url)
    monkeypatch.delenv("LILORA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    assert cache_of(remote.url).parent == tmp_path / "users" / "lilora"
    with pytest.raises(StoreError, match="install the package that fsspec needs"):
        Store("nosuchthing://bucket/prefix")


@pytest.mark.slow
def test_workers_on_ray_use_a_store_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LILORA_CACHE", str(tmp_path / "cache"))
    # Objects on this disk behind a protocol that is no folder's, so that other processes see them too.
    store = Store(f"dir::file://{tmp_path}/bucket")
    assert isinstance(store.backend, ObjectBackend)
    base = number(1)
    outcome = execute(Plan.of([number(5, base, number(2, base))]), store, slots=1)
    assert (outcome.ok, outcome.run) == (True, 3)
    reader = Store(store.url, tmp_path / "elsewhere")
    assert {reader.problems(digest, "bytes") for digest in reader.digests()} == {()}
    assert len(reader.digests()) == 3
