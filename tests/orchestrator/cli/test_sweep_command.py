"""The command line with a sweep: what is printed, what a machine gets, and the table of what was chosen."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lilora.stages
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from orchestrator.execution.executor import execute_inline
from orchestrator.planning.lowering import Lowered
from orchestrator.resolving.notes import note_failed, read_notes
from orchestrator.resolving.swept import lower_sweep
from orchestrator.results.reading import ResultReader
from orchestrator.results.savings import savings
from orchestrator.storage.store import Store
from orchestrator.study import Axis, Study, Sweep, Trial
from orchestrator.sweeps import runner
from orchestrator.sweeps.runner import SweepOutcome
from tests.orchestrator.cli.test_cli import answer, complaint, folder, lilora_, quick  # noqa: F401
from tests.orchestrator.fake_results import BACKBONE, fill

STUDY = """
from lilora.backbones import Backbone
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from orchestrator.study import Study, Trial
from orchestrator.study.sweep import Axis, Sweep

BASE = Trial(LiLoRA(), Backbone("toy", "1"), Stream(tasks=("ImageNet", "VQAv2", "GQA")))
LAM = Axis("method.lam", (0.1, 1.0, 10.0))


def varied():
    return Study("varied", sweep=Sweep(BASE, (LAM,), final=True))


def oracle():
    return Study("oracle", sweep=Sweep(BASE, (LAM,), protocol="oracle"))


def optuna():
    axis = Axis("method.lam", low=0.1, high=10.0, log=True)
    return Study("suggested", sweep=Sweep(BASE, (axis,), sampler="optuna", samples=5))
"""


@pytest.fixture
def varied(quick: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:  # noqa: F811
    """A study with a sweep, run in this process, and stages whose result depends on lam: 1 is the best."""
    (quick / "experiments" / "varied.py").write_text(STUDY)
    plain = lilora.stages.train

    def train(config: Any, inputs: Any, out: Path, run: Any) -> dict[str, Any]:
        kept = {0.1: 1, 1.0: 4, 10.0: 2}[config.method.lam]
        return plain(dataclasses.replace(config, seed=kept), inputs, out, run)

    def inline(study: Study, store: Store, *, listeners: Any, **options: Any) -> SweepOutcome:
        assert study.sweep is not None
        swept = lower_sweep(study, read_notes(study.sweep, store))
        missing = swept.lowered.plan.missing(store)
        return SweepOutcome(execute_inline(swept.lowered.plan, store, listeners), swept, {}, missing)

    monkeypatch.setattr(lilora.stages, "train", train)
    monkeypatch.setattr(runner, "execute_sweep", inline)
    yield quick
    sys.modules.pop("varied", None)


def run(name: str = "varied", code: int = 0) -> dict[str, Any]:
    return answer("run", name, "--tracking", "none", code=code)


def test_run_chooses_on_validation_and_makes_the_table_on_test(varied: Path) -> None:
    first = run()
    assert first["choices"][0]["chosen"] == {"method.lam": 1.0}
    assert first["sweep"]["oracle"] is False and first["sweep"]["split"] == "validation"
    assert [(trial["state"], trial["figure"]) for trial in first["sweep"]["trials"]] == [
        ("done", 65.0),
        ("done", 80.0),
        ("done", 70.0),
    ]
    (trial,) = first["trials"]
    assert trial["matrix"] == [[90.0, None, None], [70.0, 90.0, None], [70.0, 70.0, 90.0]]
    assert (first["distinct"], first["reused"], first["failed"]) == (first["run"], 0, 0)
    again = run()
    assert (again["run"], again["reused"]) == (0, first["distinct"])
    assert again["trials"] == first["trials"] and again["choices"] == first["choices"]


def test_run_and_plan_and_status_say_how_it_is_judged(varied: Path) -> None:
    before = lilora_("plan", "varied").stdout
    assert "3 trials by grid, judged by AP on the validation split, protocol first-task-pair" in before
    shown = lilora_("run", "varied", "--tracking", "none").stdout
    for text in ("the sweep, on validation data", "80.00   chosen", "Protocol first-task-pair", "steps requested"):
        assert text in shown
    assert "chosen" in lilora_("status", "varied").stdout
    counted = answer("plan", "varied")
    # One first stage, a second one for each lam, and the third of what was chosen.
    assert (counted["requested_by_kind"]["train"], counted["by_kind"]["train"]) == (3 * 2 + 3, 5)
    assert counted["to_run"] == 0 and counted["sweep"]["trials"] == 3


def test_an_oracle_is_marked_wherever_its_figures_are_shown(varied: Path) -> None:
    assert "ORACLE" in lilora_("plan", "varied.py:oracle".replace("varied", "experiments/varied")).stdout
    shown = lilora_("run", "experiments/varied.py:oracle", "--tracking", "none").stdout
    assert "judged on TEST data (oracle)" in shown and "ORACLE: the choice was made on test data" in shown
    assert run("experiments/varied.py:oracle")["sweep"]["oracle"] is True


def test_plan_of_an_optuna_sweep_is_an_upper_bound_and_says_so(varied: Path) -> None:
    shown = lilora_("plan", "experiments/varied.py:optuna").stdout
    assert "upper bound" in shown and "5 trials as results come (5 of them still to come" in " ".join(shown.split())
    counted = answer("plan", "experiments/varied.py:optuna")
    assert counted["sweep"]["upper_bound"] == {"requested": 5 * 10, "distinct": 2 + 5 * 8}


def test_a_sweep_without_a_figure_has_no_final_table_and_run_says_so(
    varied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: Any, inputs: Any, out: Path, run: Any) -> dict[str, Any]:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(lilora.stages, "train", broken)
    found = run(code=1)
    assert found["trials"] == [] and found["sweep"]["trials"][0]["state"] == "open"
    assert "the sweep of" not in complaint("report", "varied") and "not finished" in complaint("report", "varied")


def test_a_failed_trial_does_not_keep_the_others_from_their_table(varied: Path) -> None:
    study = Study("varied", sweep=Sweep(Trial(LiLoRA(), BACKBONE, Stream(tasks=("ImageNet", "VQAv2"))), (LAM,)))
    assert study.sweep is not None
    store = Store(varied / "other")
    lowered = lower_sweep(study).lowered
    some = Lowered(lowered.study, lowered.trials[:2])
    fill(some, store, lambda method, *_: 50.0 + method.lam)
    note_failed(study.sweep, store, (2,), "toy trouble")
    from orchestrator.resolving.resolve import resolve

    resolved = resolve(dataclasses.replace(study, sweep=dataclasses.replace(study.sweep, final=True)), store)
    assert not resolved.provisional
    assert resolved.known_table().trials[0].trial.method == LiLoRA(lam=1.0)


LAM = Axis("method.lam", (0.1, 1.0, 10.0))


def test_hours_saved_are_the_seconds_in_the_records_of_what_was_not_run(tmp_path: Path) -> None:
    study = Study("varied", sweep=Sweep(Trial(LiLoRA(), BACKBONE, Stream(tasks=("ImageNet", "VQAv2"))), (LAM,)))
    store, lowered = Store(tmp_path), lower_sweep(study).lowered
    fill(lowered, store)
    seconds = {digest: store.record(digest).seconds for digest in store.digests()}
    stages = {plan.stages[0].digest for plan in lowered.trials}
    assert len(stages) == 1
    found = savings([lowered], seconds, ResultReader(store))
    # The first stage, its cell, and the data of two tasks stand for three trials each; nothing else is shared.
    shared = [*stages, *(step.digest for step in lowered.trials[0].cells[0, 0])]
    shared += [step.digest for step in lowered.plan.select("build_task")]
    assert found.saved == pytest.approx(2 * sum(seconds[digest] for digest in shared))
    assert savings([lowered], (), ResultReader(store)).saved == pytest.approx(found.requested)


def test_scale_to_is_read_or_refused(varied: Path) -> None:
    assert "write MACHINESxCORES" in complaint("run", "varied", "--scale-to", "lots")
    assert run()["hours_saved"] >= 0
