"""What a folder and an object store have in common: one suite for both places that a store can be in."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import pytest

from orchestrator.errors import DamagedError
from orchestrator.storage.record import RECORD, Record
from orchestrator.storage.references import references_first, with_references
from orchestrator.storage.store import Store

ONE, TWO, THREE, NOWHERE = ("1" * 64, "2" * 64, "3" * 64, "e" * 64)


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Its folder, or its objects and their cache, made ready for writing."""
    if request.param == "folder":
        store = Store(tmp_path / "store")
    else:
        store = Store(f"memory://bucket/{secrets.token_hex(4)}", tmp_path / "cache")
    store.prepare()
    return store


def commit(store: Store, digest: str = ONE, text: str = "seven", references: tuple[str, ...] = ()) -> Record:
    staged = store.stage(digest)
    (staged / "deep").mkdir()
    (staged / "deep" / "result.txt").write_text(text)
    return store.commit(staged, lambda files, _: Record(digest, "label", "m:f", 1, {}, {}, references, files))


def test_nothing_is_there_before_it_is_committed_and_all_of_it_after(store: Store) -> None:
    assert (store.has(ONE), store.digests()) == (False, frozenset())
    record = commit(store)
    assert (store.has(ONE), store.digests()) == (True, {ONE})
    assert store.record(ONE) == record
    assert (store.fetch(ONE) / "deep" / "result.txt").read_text() == "seven"
    assert {store.problems(ONE, "sizes"), store.problems(ONE, "here"), store.problems(ONE, "bytes")} == {()}
    assert list((store.root / "staging").iterdir()) == []


def test_of_two_commits_the_first_stays_and_scratch_goes_with_either(store: Store) -> None:
    first = commit(store)
    (store.scratch(ONE) / "checkpoint").write_text("of the second")
    assert commit(store, text="eight") == first
    assert (store.fetch(ONE) / "deep" / "result.txt").read_text() == "seven"
    assert list((store.root / "scratch").iterdir()) == []
    assert list((store.root / "staging").iterdir()) == []


def test_of_what_is_nowhere_the_problem_is_its_record(store: Store) -> None:
    for found in (store.problems(NOWHERE, "sizes"), store.problems(NOWHERE, "here"), store.problems(NOWHERE, "bytes")):
        assert len(found) == 1 and f"{store.url}/artifacts/{NOWHERE}/{RECORD} cannot be read" in found[0]
    with pytest.raises(DamagedError, match="run the study again"):
        store.record(NOWHERE)
    assert not store.fetch(NOWHERE).exists()


def test_what_is_set_aside_or_removed_counts_no_more_and_can_be_made_again(store: Store) -> None:
    commit(store, ONE)
    commit(store, TWO)
    kept = store.set_aside(ONE)
    store.remove(TWO)
    assert store.digests() == frozenset()
    assert not store.fetch(ONE).exists() and not store.fetch(TWO).exists()
    assert [entry.name for entry in store.backend.entries("damaged")] == [kept.name]
    assert commit(store, ONE, "eight").digest in store.digests()


def test_entries_have_names_sizes_and_ages_and_go_one_by_one(store: Store) -> None:
    record = commit(store)
    [entry] = store.backend.entries("artifacts")
    written = sum(file.size for file in record.files.values()) + len(record.to_json().encode())
    assert (entry.name, entry.size) == (ONE, written)
    assert entry.changed is not None and abs(entry.changed - time.time()) < 600
    assert list(store.backend.entries("nothing")) == []
    store.backend.remove_entry("artifacts", ONE)
    store.backend.remove_entry("artifacts", ONE)
    assert list(store.backend.entries("artifacts")) == []


def test_of_many_who_make_a_small_file_the_first_does_and_anyone_may_replace_it(store: Store) -> None:
    files = store.small_files("some/folder", make=True)
    assert [files.create("a", b"1"), files.create("a", b"2")] == [True, False]
    assert (files.read("a"), files.read("b"), files.names()) == (b"1", None, ["a"])
    files.write("a", b"3")
    assert store.small_files("some/folder").read("a") == b"3"
    files.remove("a")
    files.remove("a")
    assert files.names() == []


def test_references_come_before_what_refers_to_them_and_all_of_them_are_found(store: Store) -> None:
    commit(store, ONE, references=(TWO, NOWHERE))
    commit(store, TWO, references=(THREE,))
    commit(store, THREE)
    assert with_references([ONE], store) == {ONE, TWO, THREE, NOWHERE}
    assert references_first([ONE, TWO, THREE], store) == [THREE, TWO, ONE]
    assert sorted(references_first([ONE, THREE], store)) == [ONE, THREE], "only what is asked for"
