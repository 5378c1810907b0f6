"""A store on an object store: whole artifacts or none, the first record wins, and another machine can go on."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.errors import DamagedError, MadeElsewhereError, StoreError
from orchestrator.execution.executor import execute, execute_inline
from orchestrator.steps.plan import Plan
from orchestrator.storage.opening import open_store
from orchestrator.storage.record import FileEntry, Record
from orchestrator.storage.remote.remote_store import RemoteStore, cache_folder
from orchestrator.storage.store import RECORD, Store
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


def machine(url: str, folder: Path) -> RemoteStore:
    """The store as a machine with its own cache sees it."""
    store = RemoteStore(url, folder)
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
    assert (there.path(DIGEST) / "result.txt").read_text() == "seven"
    assert (there.path(DIGEST) / "deep" / "inside.txt").read_text() == "eight"
    assert there.verify(DIGEST) == there.quick_check(DIGEST) == there.usable(DIGEST) == ()


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
    assert other.verify(DIGEST) == ()
    assert (other.path(DIGEST) / "b.txt").read_text() == "bbbb"


def test_a_late_commit_changes_nothing_of_the_first(url: str, tmp_path: Path) -> None:
    here, late = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    first = commit(here, {"result.txt": "first"})
    assert commit(late, {"result.txt": "later, and longer"}) == first
    reader = machine(url, tmp_path / "c")
    assert reader.verify(DIGEST) == ()
    for store in (late, reader):
        assert (store.path(DIGEST) / "result.txt").read_text() == "first"


def test_bytes_that_differ_from_the_checksum_are_not_taken_into_the_cache(url: str, tmp_path: Path) -> None:
    here, there = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    record = commit(here, {"result.txt": "seven"})
    blob = f"artifacts/{DIGEST}/{record.files['result.txt'].sha256}/result.txt"
    here.objects.write(blob, b"sevem")
    assert there.usable(DIGEST) == ()
    with pytest.raises(DamagedError, match="store verify --remove"):
        there.path(DIGEST)
    assert list((tmp_path / "b" / "artifacts").iterdir()) == []
    assert list((tmp_path / "b" / "staging").iterdir()) == []
    assert there.verify(DIGEST) == ("result.txt has other bytes than its checksum says",)
    here.objects.remove(blob)
    assert there.usable(DIGEST) == ("result.txt is missing",)
    kept = there.set_aside(DIGEST)
    assert not there.has(DIGEST)
    assert there.objects.names(f"damaged/{kept.name}") == [RECORD]


def test_a_damaged_copy_in_the_cache_is_fetched_again(url: str, tmp_path: Path) -> None:
    here = machine(url, tmp_path / "a")
    commit(here, {"result.txt": "seven"})
    (here.path(DIGEST) / "result.txt").write_text("sevem")
    assert here.usable(DIGEST) == ()
    assert (here.path(DIGEST) / "result.txt").read_text() == "seven"


def test_two_machines_hold_one_lease(url: str, tmp_path: Path) -> None:
    here, there = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    with here.lock(DIGEST, "step") as lease:
        assert lease is not None
        assert there.maker(DIGEST) == lease.maker
        with pytest.raises(MadeElsewhereError), there.lock(DIGEST, "step", wait=0):
            pytest.fail("two hold it")
    with there.lock(DIGEST, "step", wait=0):
        pass
    assert there.objects.names("running") == []


def test_another_machine_goes_on_from_the_checkpoints_of_the_first_and_back(url: str, tmp_path: Path) -> None:
    here, there = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    for store, before, now in ((here, "", "1"), (there, "1", "2"), (here, "2", "3"), (here, "3", "4")):
        with pytest.raises(RuntimeError), store.lock(DIGEST):
            checkpoint = store.scratch(DIGEST) / "checkpoint"
            assert (checkpoint.read_text() if checkpoint.exists() else "") == before
            checkpoint.write_text(now)
            store.log(DIGEST).write_text("what it said")
            raise RuntimeError("stopped")
    assert len(there.objects.names(f"scratch/{DIGEST}")) == 1
    assert there.objects.read(f"logs/{DIGEST}.log") == b"what it said"
    with there.lock(DIGEST):
        assert (there.scratch(DIGEST) / "checkpoint").read_text() == "4"
        commit(there, {"result.txt": "done"})
    assert there.objects.names(f"scratch/{DIGEST}") == []


def test_checkpoints_go_to_the_store_while_the_step_is_made(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    monkeypatch.setattr("orchestrator.storage.remote.scratch_sync.PUSH_SECONDS", 0.0)
    with here.lock(DIGEST) as lease:
        assert lease is not None and lease.on_beat is not None
        (here.scratch(DIGEST) / "checkpoint").write_text("half way")
        lease.on_beat()
        there.fetch_scratch(DIGEST)
    assert (there.scratch(DIGEST) / "checkpoint").read_text() == "half way"


def test_a_file_system_that_overwrites_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="overwrites an object that should be created only once"):
        RemoteStore("overwriting://bucket", tmp_path).prepare()


def test_a_url_opens_the_store_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LILORA_CACHE", str(tmp_path / "cache"))
    assert open_store(f"file://{tmp_path}/store").root == tmp_path / "store"
    assert type(open_store(str(tmp_path))) is Store
    remote = open_store("memory://bucket/some")
    assert isinstance(remote, RemoteStore)
    assert (remote.url, remote.root.parent) == ("memory://bucket/some", tmp_path / "cache")
    assert open_store(remote.url).root == remote.root == cache_folder(remote.url)
    with pytest.raises(StoreError, match="install the package that fsspec needs"):
        open_store("nosuchthing://bucket/prefix")


@pytest.mark.slow
def test_workers_on_ray_use_a_store_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LILORA_CACHE", str(tmp_path / "cache"))
    # Objects on this disk behind a protocol that is no folder's, so that other processes see them too.
    store = open_store(f"dir::file://{tmp_path}/bucket")
    assert isinstance(store, RemoteStore)
    base = number(1)
    outcome = execute(Plan.of([number(5, base, number(2, base))]), store, slots=1)
    assert (outcome.ok, outcome.run) == (True, 3)
    reader = RemoteStore(store.url, tmp_path / "elsewhere")
    assert {reader.verify(digest) for digest in reader.digests()} == {()}
    assert len(reader.digests()) == 3
