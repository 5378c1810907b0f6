"""What of a submission needs no cluster: what is sent, what it is called, what is refused, how a log is followed."""

from __future__ import annotations

import asyncio
import os
import socket
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

from orchestrator.cli.commands.jobs import checked_store, entrypoint, look
from orchestrator.cluster import head as head_module
from orchestrator.cluster import sharing
from orchestrator.cluster.head import Head, HeadJob, base_name
from orchestrator.cluster.parcel import Parcel, collect
from orchestrator.cluster.session import token
from orchestrator.errors import ClusterError, StoreError, UserError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    for name in ("experiments/a.py", "b.py", ".git/HEAD", ".venv/bin/python", ".lilora/artifacts/x/record.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for name in ("data.parquet", "mlflow.db", "experiments/__pycache__/a.pyc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_code_is_sent_and_data_results_and_environments_are_not(code: Path) -> None:
    assert collect(code).files == ("b.py", "experiments/a.py")


def test_the_store_stays_wherever_it_lies(code: Path) -> None:
    (code / "results" / "artifacts").mkdir(parents=True)
    (code / "results" / "artifacts" / "record.json").write_text("{}")
    assert len(collect(code).files) == 3
    assert collect(code, besides=code / "results").files == ("b.py", "experiments/a.py")


def test_more_can_be_left_out_by_name_and_by_place(code: Path) -> None:
    assert collect(code, ["experiments/*"]).files == ("b.py",)
    assert collect(code, ["b.py"]).files == ("experiments/a.py",)


def test_a_file_too_big_for_code_is_left_out_and_named(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.cluster.parcel.MAXIMUM_FILE_BYTES", 1000)
    (code / "weights.bin").write_bytes(bytes(1001))
    parcel = collect(code)
    assert "weights.bin" not in parcel.files
    assert parcel.too_big == (("weights.bin", 1001),)


def test_too_much_is_refused_with_what_makes_it_so(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.cluster.parcel.MAXIMUM_BYTES", 5000)
    for number in range(4):
        (code / "pictures").mkdir(exist_ok=True)
        (code / "pictures" / f"{number}.png").write_bytes(bytes(2000))
    with pytest.raises(UserError, match=r"the most is in pictures/ \(8 KiB\).*--exclude"):
        collect(code)
    assert collect(code, ["pictures"]).bytes < 100


def test_nothing_to_send_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is nothing to send"):
        collect(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        collect(tmp_path / "none")


def packed_by_ray(parcel: Parcel, folder: Path) -> dict[str, int]:
    """What Ray's job client sends of a parcel: names and modes of files."""
    target = folder / "sent.zip"
    create_package(str(parcel.folder), target, include_gitignore=True, excludes=list(parcel.excludes))
    with zipfile.ZipFile(target) as archive:
        return {entry.filename: entry.external_attr >> 16 & 0o777 for entry in archive.infolist() if not entry.is_dir()}


def test_ray_sends_exactly_what_was_measured(code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.cluster.parcel.MAXIMUM_FILE_BYTES", 1000)
    (code / "run.sh").write_text("true")
    (code / "run.sh").chmod(0o755)
    for name in ("big [1]*.bin", "store/record.json", "store.py", "private/a.py", "later.txt"):
        (code / name).parent.mkdir(exist_ok=True)
        (code / name).write_bytes(bytes(1001 if "big" in name else 1))
    (code / ".gitignore").write_text("private/\n")
    (code / "experiments" / ".rayignore").write_text("a.py\n")
    (code / "again").symlink_to(code)
    (code / "linked.py").symlink_to(code / "b.py")
    parcel = collect(code, ["*.txt"], besides=code / "store")
    sent = packed_by_ray(parcel, tmp_path)
    assert sorted(sent) == list(parcel.files)
    assert set(sent) == {".gitignore", "b.py", "experiments/.rayignore", "linked.py", "run.sh", "store.py"}
    assert sent["run.sh"] == 0o755
    assert parcel.too_big == (("big [1]*.bin", 1001),)


def test_the_same_code_is_uploaded_once_whenever_it_was_written(code: Path) -> None:
    before = get_uri_for_directory(str(code), include_gitignore=True, excludes=list(collect(code).excludes))
    os.utime(code / "b.py", (1, 1))
    (code / "data.parquet").write_text("others")
    assert before == get_uri_for_directory(str(code), include_gitignore=True, excludes=list(collect(code).excludes))


def test_this_repository_is_small_enough_to_be_sent() -> None:
    parcel = collect(ROOT)
    assert "experiments/smoke.py" in parcel.files and "orchestrator/cli/__init__.py" in parcel.files
    assert not parcel.too_big


def test_a_submission_is_named_by_its_study_and_its_store() -> None:
    name = base_name("smoke", "/shared/store")
    assert name == base_name("smoke", "/shared/store")
    assert name.startswith("lilora-smoke-")
    assert len({name, base_name("smoke", "/shared/other"), base_name("table2", "/shared/store")}) == 3
    assert base_name("My study_1.5", "/s").startswith("lilora-my-study-1-5-")


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (HeadJob("a", "SUCCEEDED", 0), 0),
        (HeadJob("a", "FAILED", 1), 1),
        (HeadJob("a", "FAILED", 2), 2),
        (HeadJob("a", "FAILED", -9), 137),
        (HeadJob("a", "FAILED"), 1),
        (HeadJob("a", "STOPPED", -15), 130),
    ],
)
def test_the_drivers_exit_code_becomes_the_one_of_who_waits(job: HeadJob, code: int) -> None:
    assert job.code == code


def test_a_relative_store_or_none_is_refused_since_it_would_go_with_the_jobs_folder() -> None:
    with pytest.raises(UserError, match="relative"):
        checked_store(".lilora")
    with pytest.raises(UserError, match="name the store"):
        checked_store(None)
    assert checked_store("/shared/store/") == "/shared/store"
    assert checked_store("s3://bucket/store") == "s3://bucket/store"


def test_the_jobs_command_runs_the_study_on_its_own_cluster_and_is_safe_for_a_shell() -> None:
    command = entrypoint("path.py:my study", "/shared/a b", ["--slots", "2"])
    assert command == (
        "python -m orchestrator.cli run 'path.py:my study' --address auto --store '/shared/a b' --slots 2"
    )


def test_a_study_that_is_not_in_the_working_folder_is_refused_before_anything_is_sent(code: Path) -> None:
    (code / "experiments" / "one.py").write_text(
        "from orchestrator.steps.step import Step\n\n\n"
        "def one():\n    return Step('a', 'module:function', {'value': 1})\n"
    )
    with pytest.raises(UserError, match=r"no study 'ones'.*Did you mean 'one'"):
        look("ones", code)
    with pytest.raises(UserError, match="a path of this machine"):
        look("/root/study.py", code)
    assert look("one", code) == ("one", 1)


def test_an_address_that_nothing_answers_at_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ClusterError, match="nothing answers at http://127.0.0.1.*port-forward"):
            Head(f"http://127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(UserError, match="is no address"):
        Head("ray://head:10001")


def test_an_address_that_takes_the_call_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "ANSWER_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ClusterError, match="nothing answers"):
            Head(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_the_token_is_found_where_rays_tools_look_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("at home\n")
    assert token() == "at home"
    (tmp_path / "named").write_text("named\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "named"))
    assert token() == "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "said")
    assert token() == "said"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "gone"))
    with pytest.raises(UserError, match="cannot be read"):
        token()


class Broken:
    """A client whose connection breaks in the middle of the log, once."""

    def __init__(self, parts: list[str]) -> None:
        self.parts = parts
        self.calls = 0

    def get_job_info(self, name: str) -> SimpleNamespace:
        status = "RUNNING" if self.calls < 2 else "SUCCEEDED"
        return SimpleNamespace(submission_id=name, status=status, driver_exit_code=0, message="")

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        self.calls += 1
        if self.calls == 1:
            yield self.parts[0]
            yield self.parts[1]
            raise RuntimeError("WebSocket connection closed unexpectedly")
        # The second time the head cuts the text elsewhere.
        text = "".join(self.parts)
        yield text[:3]
        yield text[3:]


def test_a_log_whose_connection_breaks_is_followed_to_its_end_and_nothing_is_said_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head_module, "POLL_SECONDS", 0.0)
    said: list[str] = []
    follower = head_module._Follower(Broken(["one\n", "two\n", "three\n"]), "a", said.append)
    job = asyncio.run(follower.run())
    assert "".join(said) == "one\ntwo\nthree\n"
    assert job.status == "SUCCEEDED"


def test_a_head_that_stays_silent_is_given_up_and_the_job_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(head_module, "LOST_SECONDS", 0.0)

    class Silent(Broken):
        def get_job_info(self, name: str) -> SimpleNamespace:
            raise ConnectionError("refused")

    with pytest.raises(ConnectionError):
        asyncio.run(head_module._Follower(Silent([]), "a", lambda text: None).run())


# Whether a store is shared, one machine's part of it and the judgement


def test_a_machine_reads_the_word_and_answers_in_the_store(tmp_path: Path) -> None:
    folder = tmp_path / "sharing.1"
    folder.mkdir()
    (folder / sharing.WORD).write_text("abc")
    assert sharing.look(folder, "node", 0.0) == ("abc", "")
    assert (folder / "node").read_text() == "cba"


def test_a_machine_without_the_store_and_one_with_another_folder_of_its_name_say_which(tmp_path: Path) -> None:
    assert sharing.look(tmp_path / "none" / "sharing.1", "node", 0.0) == ("", "it has no such folder")
    assert "is another one" in sharing.look(tmp_path / "sharing.1", "node", 0.0)[1]


def test_the_machine_that_does_not_share_the_store_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "APPEAR_SECONDS", 0.0)
    machines = {"n1": "alpha", "n2": "beta"}
    (tmp_path / "n1").write_text("cba")
    (tmp_path / "n2").write_text("cba")

    def judge(**answers: object) -> None:
        sharing._judge(Path("/shared"), machines, answers, "abc", tmp_path)  # type: ignore[arg-type]

    judge(n1=("abc", ""), n2=("abc", ""))
    with pytest.raises(StoreError, match="not shared: machine beta does not see it: it has no such folder"):
        judge(n1=("abc", ""), n2=("", "it has no such folder"))
    with pytest.raises(ClusterError, match="machine beta did not say"):
        judge(n1=("abc", ""))
    with pytest.raises(ClusterError, match="machine beta cannot run this package.*No module"):
        judge(n1=("abc", ""), n2=ModuleNotFoundError("No module named 'orchestrator'"))
    (tmp_path / "n2").unlink()
    with pytest.raises(StoreError, match="machine beta.*what it writes there is not seen"):
        judge(n1=("abc", ""), n2=("abc", ""))
