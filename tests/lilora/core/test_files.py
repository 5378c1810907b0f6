"""Files that others may read where the umask lets them, and users without a home."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lilora.core.files import give_usual_modes, with_usual_mode
from lilora.core.home import STAND_IN, cache_folder, expanded, have_home
from lilora.data import fingerprints as module
from lilora.data.pictures.known import looked_at
from lilora.training.checkpoint import NAME, load_checkpoint, save_checkpoint
from orchestrator.cli import health
from orchestrator.cluster import session


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def usual(request: pytest.FixtureRequest) -> Iterator[int]:
    """The mode of a new file under an umask that is set meanwhile."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_checkpoint_has_the_mode_that_the_umask_gives_and_is_replaced_by_the_next(tmp_path: Path, usual: int) -> None:
    tensors = {f"{kind}/a": torch.ones(2) for kind in ("value", "exp_avg", "exp_avg_sq")}
    for step in (1, 2):
        save_checkpoint(tmp_path / "scratch", "stage", step, [], tensors)
    assert mode(tmp_path / "scratch" / NAME) == usual
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == [NAME]
    loaded = load_checkpoint(tmp_path / "scratch", "stage")
    assert loaded is not None and loaded[0] == 2


def test_a_tree_of_files_gets_the_usual_modes_and_keeps_what_it_has_more(tmp_path: Path, usual: int) -> None:
    (tmp_path / "inner").mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "inner" / "a.safetensors")
    (tmp_path / "script").write_text("")
    (tmp_path / "script").chmod(0o755)
    give_usual_modes(tmp_path)
    assert mode(tmp_path / "inner" / "a.safetensors") == usual
    assert mode(tmp_path / "script") == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner", "script"]


def test_a_file_system_without_modes_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with with_usual_mode(tmp_path / "a"):
        save_file({"a": torch.ones(2)}, tmp_path / "a")
    assert (tmp_path / "a").stat().st_size > 0


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME whom the system has no entry of, as in a container under a free number."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_files_are_read_each_time_and_a_path_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    assert cache_folder() is None and module.cache_path() is None
    [digest] = module.fingerprints([tmp_path / "a.json"])
    assert [digest] == module.fingerprints([tmp_path / "a.json"])
    assert module.num_rows(tmp_path / "a.json", lambda path: 7) == 7
    with pytest.raises(ValueError, match="~/data is in the home folder of a user who has none here: set IT"):
        expanded("~/data", "set IT")


@pytest.mark.usefixtures("homeless")
def test_a_program_of_a_user_without_a_home_gets_one_and_doctor_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "to be put back")
    monkeypatch.delenv("HOME")
    have_home()
    assert Path.home().parent == tmp_path and Path.home().name.startswith(STAND_IN)
    assert mode(Path.home()) == 0o700
    [found] = health.home()
    assert (found.state, "HF_HOME" in found.remedy) == ("warning", True) and "this user has none" in found.detail


def test_a_home_is_left_as_it_is_and_doctor_sees_whether_it_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    have_home()
    [found] = health.home()
    assert (os.environ["HOME"], found.state) == (str(tmp_path), "ok")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    [found] = health.home()
    assert found.state == "warning" and "cannot be written" in found.detail


@pytest.mark.parametrize("closed", [True, False])
def test_rays_token_is_made_for_this_user_alone_where_a_folder_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv(name)
    (tmp_path / "own" / "1").mkdir(parents=True)
    monkeypatch.setattr(session, "own_folder", lambda purpose: tmp_path / "own" / "1")
    cache = tmp_path / "cache"
    if closed:
        cache.write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    session._ensure_token()
    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert path.parent == (tmp_path / "own" if closed else cache / "lilora")
    assert mode(path) == 0o600 and session.token() == path.read_text()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(module.fingerprints([tmp_path / "file"])[0]) == 64


def test_the_cache_has_the_usual_mode_and_nothing_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usual: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.json").write_text("[1]")
    module.fingerprints([tmp_path / "a.json"])
    path = module.cache_path()
    assert path is not None and mode(path) == usual
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.usefixtures("homeless")
def test_without_a_home_pictures_are_looked_at_each_time(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    for _ in range(2):
        [seen] = looked_at(tmp_path, ["a.png"]).values()
        assert seen.broken
