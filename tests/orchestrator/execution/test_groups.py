"""Steps with several workers share one trainer start: the same bytes either way, nobody waits, a kill costs little."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lilora.backbones import Backbone
from lilora.methods.lilora import LiLoRA
from lilora.training import TrainConfig, Training
from orchestrator.execution import events
from orchestrator.execution.executor import execute
from orchestrator.execution.workers.actor import Settings
from orchestrator.execution.workers.group import lost_peer
from orchestrator.execution.workers.pool import Standby
from orchestrator.execution.workers.trainer import CLEANER, FOLDER, Trainer, group_trainer, own_folder
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Resources, Step
from orchestrator.storage.store import Store
from tests.lilora.tiny import make_backbone
from tests.orchestrator.real_steps import TASKS, Squares
from tests.orchestrator.toy_steps import number

TWO = Resources(workers=2)


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    from orchestrator.cluster.session import session

    with session("local", cores=3):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of the tests that use one group after another."""
    return Store(tmp_path_factory.mktemp("groups") / "store")


@pytest.fixture(scope="module")
def standby(ray_session: None) -> Iterator[Standby]:
    """Keeps the group up from test to test: each start takes twenty seconds."""
    with Standby() as standby:
        yield standby


def stages(backbone: str) -> list[Step]:
    """Two stages of one trial, each by two workers under ZeRO-2, after their data."""
    made: list[Step] = []
    for place, task in enumerate(TASKS):
        data = Step(f"squares {task}", "tests.orchestrator.real_steps:squares", Squares(task))
        config = TrainConfig(
            LiLoRA(rank=4, lora_alpha=8, dropout=0.2),
            Backbone("tiny", "random-1", location=backbone),
            task,
            TASKS[:place],
            Training(epochs=20, max_steps=6, batch_size=8, learning_rate=1e-2),
            0,
        )
        inputs = (("data", data), *((("previous", stage),) if (stage := made[-1] if made else None) else ()))
        resources = Resources(workers=2, strategy="zero2")
        made.append(Step(f"train {task}", "lilora.stages:train", config, inputs, resources=resources))
    return made


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("ray_session")
class TestOnRay:
    """With worker groups."""

    def test_stages_that_share_a_start_give_the_bytes_of_stages_that_do_not(self, tmp_path: Path) -> None:
        make_backbone(tmp_path / "backbone")
        first, second = stages(str(tmp_path / "backbone"))
        together, apart = Store(tmp_path / "together"), Store(tmp_path / "apart")
        with Standby() as standby:
            assert execute(Plan.of([first]), together, slots=2, keep=standby).ok
            # That was a start for the first stage alone; now the same group makes it again, and the second.
            shutil.copytree(together.root, apart.root)
            together.remove(first.digest)
            assert execute(Plan.of([second]), together, slots=2, keep=standby).run == 3
        assert execute(Plan.of([second]), apart, slots=2).run == 2
        for step in (first, second):
            assert together.record(step.digest).files == apart.record(step.digest).files
        assert len({together.record(step.digest).provenance["process"] for step in (first, second)}) == 1
        assert len({apart.record(step.digest).provenance["process"] for step in (first, second)}) == 2

    def test_who_awaits_an_early_stage_does_not_wait_for_the_later_ones(
        self, store: Store, standby: Standby, tmp_path: Path
    ) -> None:
        """A kill in the second stage then keeps the first, and goes on from the second one's checkpoint."""
        starts = tmp_path / "starts"
        first = number(2, kind="together", resources=TWO)
        second = number(30, first, kind="together", seconds=0.3, flag=str(starts), resources=TWO)
        reader = number(7, first, kind="process", label="reader")
        heard: list[events.Event] = []

        def killer(event: events.Event) -> None:
            heard.append(event)
            if isinstance(event, events.StepProgress) and event.done > 4 and len(starts.read_text().splitlines()) == 2:
                victim = next(line for line in starts.read_text().splitlines() if line.endswith(" 1"))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(victim.split()[0]), signal.SIGKILL)

        assert execute(Plan.of([second, reader]), store, slots=3, listeners=[killer], keep=standby).ok
        finished = [event.step.label for event in heard if isinstance(event, events.StepFinished)]
        assert finished.index("reader") < finished.index(second.label)
        assert [event.step.label for event in heard if isinstance(event, events.StepRetried)] == [second.label]
        assert finished.count(first.label) == 1
        *_, last = starts.read_text().splitlines()
        assert int(last.split()[1]) > 3, "the second stage began anew"
        assert json.loads((store.path(second.digest) / "trail.json").read_text()) == [3.0] * 30
        assert store.record(second.digest).summary == {"world_size": 2}
        log = store.log(second.digest).read_text()
        assert "worker 0 speaks" in log and "worker 1 speaks" in log

    def test_a_step_that_raises_in_a_group_fails_alone(self, store: Store, standby: Standby) -> None:
        bad = number(1, kind="fail", resources=TWO)
        good = number(3, kind="together", resources=TWO)
        outcome = execute(Plan.of([good, bad]), store, slots=3, keep=standby)
        assert (outcome.run, [failure.error for failure in outcome.failures]) == (1, ["RuntimeError: toy trouble"])


def test_the_folder_of_a_trainer_that_was_killed_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen(["true"]) as process:
        process.wait()
    here, gone = socket.gethostname(), process.pid
    names = (f"{here}-{gone}-a", f"{here}-{os.getpid()}-b", f"another{here}-{gone}-c", f"{here}-x-{gone}-d", "notes")
    dead, *others = (tmp_path / f"{FOLDER}-{name}" for name in names)
    for folder in (dead, *others):
        folder.mkdir()
    made = Path(own_folder())
    assert sorted(tmp_path.iterdir()) == sorted([*others, made])


def test_a_lost_peer_is_told_from_a_step_that_went_wrong() -> None:
    assert lost_peer(RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:538] Connection closed by peer"))
    assert lost_peer(ConnectionResetError("reset"))
    assert not lost_peer(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))
    assert not lost_peer(ValueError("the loss is nan"))


def test_a_call_of_a_group_that_is_gone_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(Settings(str(tmp_path), 1.0, (), ()))
    trainer.fit = threading.Thread()

    def meanwhile(until: Callable[[], bool]) -> bool:
        trainer.fit, trainer.jobs = threading.Thread(), [b"of the next group"]
        return until()

    monkeypatch.setattr(trainer.news, "wait_for", meanwhile)
    assert trainer.take(1) is None
    assert trainer.take(0) is None


def test_nobody_waits_for_the_cores_of_a_group_that_leaves(tmp_path: Path) -> None:
    trainer = Trainer(Settings(str(tmp_path), 1.0, (), ()))
    trainer.closing = True
    assert trainer.reservation() == ""


def test_a_group_has_no_cleaner_that_would_outlive_a_killed_driver() -> None:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    def callbacks(trainer: Any) -> set[str]:
        made = trainer(lambda: None, scaling_config=ScalingConfig(num_workers=2))._create_default_callbacks()
        return {type(callback).__name__ for callback in made}

    assert callbacks(TorchTrainer) - callbacks(group_trainer()) == {CLEANER}
