from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import lilora.stages
from lilora.core import registry
from orchestrator.cli import app, health
from orchestrator.cli.commands import ui
from orchestrator.cli.console import Output
from orchestrator.cli.progress import SHARE_OF_TRAINING, Progress, RunView
from orchestrator.cli.tables.results import show_paper, show_results
from orchestrator.execution import events, executor
from orchestrator.resolving.catalogue import find_target
from orchestrator.results.claims import claims
from orchestrator.results.reading import ResultReader
from orchestrator.results.table import TableRow
from orchestrator.steps.step import Step
from orchestrator.storage.record import Record
from orchestrator.storage.store import Store
from orchestrator.study import Paper
from orchestrator.study.paper import PaperRow
from orchestrator.tracking.pages.origin import Origin

ROOT = Path(__file__).parents[3]
MATRIX = ROOT / "experiments" / "reference" / "proglora_table6_matrix_moelora.csv"
COMMANDS = ("run", "plan", "status", "why", "report", "metrics", "ui", "doctor", "track", "show", "params", "export")

STUDY = """
from lilora.backbones import Backbone
from lilora.benchmarks import Stream
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.study import Study, Trial

BACKBONE = Backbone("toy", "1")
STREAM = Stream(tasks=("ImageNet", "VQAv2"))


def little() -> Study:
    trials = [Trial(SeqLoRA(), BACKBONE, STREAM, seed=seed) for seed in (0, 1)]
    return Study("little", (Trial(ZeroShot(), BACKBONE, STREAM), *trials))


def both_ways() -> Study:
    orders = (("ImageNet", "VQAv2"), ("VQAv2", "ImageNet"))
    return Study("ways", tuple(Trial(SeqLoRA(), BACKBONE, Stream(tasks=order)) for order in orders))


def paper() -> Study:
    return Study("little-paper", (Trial(SeqLoRA(rank=128), BACKBONE, STREAM),))


def number() -> int:
    return 7
"""


def lilora_(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def complaint(*arguments: str, code: int = 2) -> str:
    """What a command says on standard error, with the panel's frame and line breaks taken off."""
    return " ".join(lilora_(*arguments, code=code).stderr.replace("│", " ").split())


def answer(*arguments: str, code: int = 0) -> dict[str, Any]:
    """What a command says with --json."""
    return json.loads(lilora_(*arguments, "--json", code=code).stdout.splitlines()[-1])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the study `little` in experiments/, and a store that starts empty."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "little.py").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LILORA_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for module in ("little", "steps_only", "other", "both"):
        sys.modules.pop(module, None)


@pytest.fixture
def quick(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with stages that take no time and a run in this process instead of on Ray."""

    def make_score(config: Any, inputs: Any, out: Path, run: Any) -> dict[str, Any]:
        task = json.loads((inputs["predictions"] / "state.json").read_text())
        main = 90.0 if task["learned"] == config.task else 30.0 + 10 * task["seed"]
        scores = {"main": main, "strict": main, "lenient": main, "following": 100.0, "extra": {}, "by_type": {}}
        (out / "scores.json").write_text(json.dumps(scores | {"count": 1}))
        return scores

    def make_train(config: Any, inputs: Any, out: Path, run: Any) -> dict[str, Any]:
        run.report(1, 2, {"loss": 0.5})
        state = {"shared": {"file": "shared.safetensors"}, "parts": {}, "learned": config.task, "seed": config.seed}
        (out / "state.json").write_text(json.dumps(state))
        header = json.dumps({"a": {"dtype": "F32", "shape": [20, 100], "data_offsets": [0, 8000]}}).encode()
        (out / "shared.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8000))
        return {"trainable": 1000}

    def make_predict(config: Any, inputs: Any, out: Path, run: Any) -> dict[str, Any]:
        state = inputs["state"] / "state.json" if "state" in inputs else None
        (out / "state.json").write_text(state.read_text() if state else json.dumps({"learned": "", "seed": 0}))
        return {}

    def make_data(config: Any, inputs: Any, out: Path, run: Any) -> dict[str, Any]:
        (out / "test.parquet").write_text("rows")
        return {}

    for name, function in (
        ("build_task", make_data),
        ("train", make_train),
        ("predict", make_predict),
        ("score", make_score),
    ):
        monkeypatch.setattr(lilora.stages, name, function)

    def written(results: Any, folder: Path, *_: Any) -> Path:
        return folder / "index.html"

    monkeypatch.setattr("orchestrator.report.write_report", written)
    monkeypatch.setattr(
        executor,
        "execute",
        lambda plan, store, *, listeners, **_: executor.execute_inline(plan, store, listeners),
    )
    return folder


# Help


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from orchestrator.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'polars', 'transformers', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(command in done.stdout for command in COMMANDS)


def test_version_and_wrong_usage_have_their_exit_codes() -> None:
    assert lilora_("--version").stdout.startswith("lilora")
    lilora_("plan", code=2)
    lilora_("paln", code=2)


# Metrics


def test_metrics_of_the_published_matrix_as_json() -> None:
    found = answer("metrics", str(MATRIX))
    assert (round(found["ACC"], 2), round(found["MAA"], 2), round(found["BWT_N"], 2)) == (37.13, 42.76, -25.91)
    names = {"AP", "MAP", "BWT", "BWT_N", "ACC", "MAA", "FWT", "forgetting"}
    assert set(found) == {*names, "AP_k", "BWT_k", "definitions"}
    assert set(found["definitions"]) == names, "each says which of the published numbers of its name it is"
    assert found["FWT"] is None


def test_metrics_with_tasks_trained_alone_has_forward_transfer(tmp_path: Path) -> None:
    row = tmp_path / "alone.csv"
    header = MATRIX.read_text().splitlines()[0].removeprefix("after,")
    row.write_text(f"{header}\n" + ",".join(["60"] * 8) + "\n")
    diagonal = 75.78 + 51.73 + 96.70 + 59.42 + 58.88 + 37.50 + 64.22 + 60.08
    assert answer("metrics", str(MATRIX), "--isolated", str(row))["FWT"] == pytest.approx(diagonal / 8 - 60)


def test_metrics_without_json_never_cuts_a_number() -> None:
    shown = lilora_("metrics", str(MATRIX)).stdout
    assert all(text in shown for text in ("ScienceQA", "96.70", "-48.21", "37.13", "42.76", "-25.91"))


def test_a_wrong_matrix_is_one_panel_that_names_the_place_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("after,a\na,x\n")
    shown = complaint("metrics", str(path))
    assert "row 2, column 'a': 'x' is not a number" in shown
    assert "Traceback" not in shown
    assert "No such file" in complaint("metrics", str(tmp_path / "none.csv"))


def test_debug_lets_the_traceback_through_wherever_it_stands(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["metrics", str(tmp_path / "none.csv"), "--debug"])
    assert isinstance(result.exception, FileNotFoundError)


# The table


def test_markup_in_names_and_titles_is_printed_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    row = TableRow("seqlora [bold]", (), metrics=dict.fromkeys(("AP", "MAP", "BWT", "MIF")))
    paper = Paper("a [red]", (PaperRow("Seq [/x]", ()),), caveats=("not [dim] at all",))
    show_paper(paper, [row], Output(), claims(paper, [row]))
    show_results("the [/title]", (), Output())
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("seqlora [bold]", "a [red], beside", "Seq [/x]", "not [dim]", "the [/title]"))


# Finding studies


def test_a_study_is_found_by_name_and_by_path(folder: Path) -> None:
    by_name, by_path = find_target("little"), find_target("experiments/little.py:little")
    assert by_name.name == by_path.name == "little"
    assert by_name.plan.requested == by_path.plan.requested


def test_steps_without_trials_run_without_a_table_and_have_no_report(quick: Path) -> None:
    (quick / "experiments" / "steps_only.py").write_text(
        "from lilora.benchmarks import BuildConfig\n"
        "from orchestrator.steps.step import Step\n"
        "def study():\n"
        "    return Step('build it', 'lilora.stages:build_task', BuildConfig('mini', 'GQA', 'single', 1))\n"
    )
    found = answer("run", "steps_only")
    assert found["run"] == 1
    assert (found["study"], found["trials"]) == ("steps_only", [])
    assert answer("plan", "steps_only")["requested_by_kind"] == {"build_task": 1}
    assert "has steps and no trials" in complaint("report", "steps_only")


def test_an_unknown_study_lists_the_choices_and_the_nearest(folder: Path) -> None:
    shown = complaint("plan", "litle")
    assert "no study 'litle'. Did you mean 'little'?" in shown
    assert "quickstart" in shown


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py", "there is no file nowhere.py"),
        ("experiments/little.py:big", "has no function big"),
        ("experiments/little.py:number", "returns a int"),
        ("../experiments/little", "no study"),
    ],
)
def test_a_name_that_leads_nowhere_says_why(folder: Path, name: str, message: str) -> None:
    assert message in complaint("plan", name)


# Plan, status, why


def test_plan_counts_steps_and_shared_work(folder: Path) -> None:
    found = answer("plan", "little")
    assert found["done"] == 0
    assert found["to_run"] == found["distinct"] < found["requested"]
    assert found["by_kind"] == {"build_task": 2, "predict": 8, "score": 8, "train": 4}
    assert found["requested_by_kind"] == {"build_task": 6, "predict": 8, "score": 8, "train": 4}
    assert sum(found["requested_by_kind"].values()) == found["requested"]
    assert "requested" in lilora_("plan", "little").stdout.splitlines()[1]
    assert not (folder / "store").exists()


def test_real_is_the_papers_own_setting_as_its_file_gives_it(folder: Path) -> None:
    named, real = answer("plan", "little:paper"), answer("plan", "little", "--real")
    assert named == real and real["requested_by_kind"]["train"] == 2
    assert answer("status", "little", "--real")["study"] == "little-paper"
    assert "leave out --real" in complaint("plan", "little:little", "--real")
    (folder / "experiments" / "other.py").write_text("def other():\n    return 7\n")
    assert "has no function paper" in complaint("plan", "other", "--real")


def test_run_says_what_the_order_of_tasks_changes(quick: Path) -> None:
    shown = lilora_("run", "little:both_ways", "--tracking", "none").stdout
    assert "seqlora: 2 of 2 orders" in shown and "VQAv2 → ImageNet" in shown
    (group,) = answer("run", "little:both_ways", "--tracking", "none")["orders"]
    assert group["by_place"]["last"]["ImageNet"] == [30.0, 90.0]


def test_why_shows_what_a_digest_is_made_of(folder: Path) -> None:
    step = find_target("little").plan.select("train")[0]
    found = answer("why", step.digest[:10], "--study", "little")
    assert found["digest"] == step.digest
    assert found["identity"]["config"]["task"] == "ImageNet"
    assert answer("why", step.label, "--study", "little")["digest"] == step.digest


def test_why_of_two_steps_names_the_fields_that_differ(folder: Path) -> None:
    first, _, third, _ = find_target("little").plan.select("train")
    found = answer("why", first.digest, third.digest, "--study", "little")
    assert [(item["path"], item["a"], item["b"]) for item in found["differences"]] == [("config.seed", 0, 1)]


def test_why_of_a_label_with_several_steps_lists_their_digests_and_studies(folder: Path) -> None:
    other = STUDY.replace("little", "other").replace('"toy"', '"toy 2"')
    (folder / "experiments" / "other.py").write_text(other)
    label = find_target("little").plan.select("train")[0].label
    shown = complaint("why", label)
    assert "2 steps are called" in shown
    assert "; in little)" in shown
    assert "; in other)" in shown
    # Trials of one study have names of their own; steps that are asked for may be called alike.
    both = STUDY.replace("def little", "def first").replace("def paper", "def second").replace("rank=128", "rank=8")
    both = f"{both}\n\ndef both():\n    return [*lower(first()).plan.results, *lower(second()).plan.results]\n"
    both = f"from orchestrator.planning.lowering import lower\n{both}"
    (folder / "experiments" / "both.py").write_text(both)
    twice = [step for step in find_target("both").plan.select("train") if step.label == label]
    assert len(twice) == 2
    for more in ((), ("--study", "both")):
        shown = complaint("why", label, *more)
        assert all(step.digest[:12] in shown for step in twice)


def test_why_of_a_step_that_nothing_knows_says_where_it_looked(folder: Path) -> None:
    assert "no step is called 'train all'" in complaint("why", "train all")


# Run


def test_run_prints_the_table_and_says_where_everything_is(quick: Path) -> None:
    shown = lilora_("run", "little", "--tracking", "none").stdout
    for text in ("seqlora (2 seeds)", "zeroshot", "ImageNet", "35.0 ±7.1", "90.0 ±0.0", "1,000", "2,000", "MIF"):
        assert text in shown
    assert "0 failed" in shown
    assert str(quick / "store" / "reports" / "little") in shown


def test_run_with_json_ends_in_one_object_and_a_second_run_runs_nothing(quick: Path) -> None:
    first = answer("run", "little", "--tracking", "none")
    assert first["run"] == first["distinct"]
    assert (first["reused"], first["failed"]) == (0, 0)
    zero, one, two = first["trials"]
    assert (zero["method"], one["seed"], two["seed"]) == ("zeroshot", 0, 1)
    assert one["order"] == ["ImageNet", "VQAv2"]
    assert one["matrix"] == [[90.0, None], [30.0, 90.0]]
    assert (one["AP"], one["MAP"], one["BWT"], one["MIF"]) == (60.0, 75.0, -60.0, 100.0)
    again = lilora_("run", "little", "--tracking", "none", "--json")
    assert len(again.stdout.splitlines()) == 1
    second = json.loads(again.stdout)
    assert (second["run"], second["reused"]) == (0, first["distinct"])
    assert "0 steps were run" in again.stderr
    assert second["trials"] == first["trials"]


def test_mlflow_listens_to_a_run_and_not_to_one_that_has_nothing_to_run(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[events.Event] = []

    def tracker(
        study: Any, reader: ResultReader, uri: str | None, remedy: str, origin: Origin
    ) -> Callable[[events.Event], None]:
        assert origin == Origin("experiments/little.py", "experiments/little.py", "little")
        assert (study.study.name, uri) == ("little", "sqlite:///there.db")
        assert remedy == f"lilora track experiments/little.py --store {reader.store.root} --tracking {uri}"
        return heard.append

    monkeypatch.setitem(sys.modules, "orchestrator.tracking.listener", SimpleNamespace(Tracker=tracker))
    shown = lilora_("run", "experiments/little.py", "--tracking", "sqlite:///there.db").stdout
    assert "tracked at sqlite:///there.db" in shown
    assert isinstance(heard[-1], events.RunFinished)
    heard.clear()
    lilora_("run", "little", "--tracking", "sqlite:///there.db")
    assert heard == []


def test_a_failed_step_gives_exit_code_1_and_the_place_of_its_log(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: Any, inputs: Any, out: Path, run: Any) -> None:
        raise RuntimeError("the card is on fire")

    monkeypatch.setattr(lilora.stages, "train", broken)
    result = lilora_("run", "little", "--tracking", "none", code=1)
    assert "the card is on fire" in result.stdout
    assert str(quick / "store" / "logs") in result.stdout
    assert "zeroshot" in result.stdout
    status = answer("status", "little")
    assert (status["failed"], status["stopped"]) == (2, 0)
    said = lilora_("status", "little").stdout
    assert "failed train seqlora 1/2 ImageNet, seed 0  RuntimeError: the card is on fire" in said
    for log in (quick / "store" / "logs").iterdir():
        log.write_text("loading\nTraceback (most recent call last):\n  File x\nKeyboardInterrupt\n")
    status = answer("status", "little")
    assert (status["failed"], status["stopped"]) == (0, 2)
    assert [trial["cells_done"] for trial in status["trials"]] == [2, 0, 0]


def test_an_interrupted_run_gives_130_and_says_how_to_go_on(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(config: Any, inputs: Any, out: Path, run: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lilora.stages, "train", stopped)
    shown = lilora_("run", "little", "--tracking", "none", "--slots", "2", code=130).stdout
    assert f"To go on: lilora run little --store {quick}/store --tracking none --slots 2\n" in shown


def test_track_without_tracking_is_refused(folder: Path) -> None:
    assert "leaves nothing to do here" in complaint("track", "little", "--tracking", "none")


def test_a_store_that_is_no_folder_is_refused_before_any_work(quick: Path) -> None:
    (quick / "file").write_text("")
    assert "--store DIR" in complaint("run", "little", "--store", str(quick / "file"))


def test_report_of_a_study_that_has_not_begun_goes_where_it_is_told(folder: Path) -> None:
    path = Path(answer("report", "little", "--out", str(folder / "here"))["report"])
    assert path.is_file()
    assert path.is_relative_to(folder / "here")


# Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def steps(kind: str, count: int) -> tuple[Step, ...]:
    return tuple(Step(f"{kind} {place}", f"toy:{kind}", {"place": place, "kind": kind}) for place in range(count))


def finished(step: Step, seconds: float) -> events.StepFinished:
    return events.StepFinished(step, Record(step.digest, step.label, step.call, 1, None, {}, seconds=seconds))


def test_time_left_comes_from_measured_seconds_of_a_kind_and_from_a_steps_own_progress() -> None:
    clock = Clock()
    state = RunView(clock)
    trains, scores = steps("train", 3), steps("score", 2)
    state(events.RunStarted(5, 5, 0, trains + scores))
    assert state.seconds_left is None
    state(events.StepStarted(trains[0]))
    clock.now = 7
    state(events.StepProgress(trains[0], 0, 4, {}))
    assert state.seconds_left is None
    clock.now = 17
    state(events.StepProgress(trains[0], 1, 4, {"loss": 1.0}))
    # A quarter in 10 s (the worker's start apart): 40 s a stage, 30 s left of this one; a score counts as its usual
    # share of a stage until one was seen.
    score = 40 * SHARE_OF_TRAINING["score"]
    assert state.seconds_left == pytest.approx(30 + 2 * 40 + 2 * score)
    clock.now = 22
    assert state.seconds_left == pytest.approx(25 + 2 * 40 + 2 * score)
    clock.now = 47
    state(finished(trains[0], 40))
    state(events.StepStarted(scores[0]))
    state(finished(scores[0], 2))
    assert state.seconds_left == pytest.approx(2 * 40 + 1 * 2)
    assert (state.over, state.stages_done, state.num_stages) == (2, 1, 3)


def test_a_step_whose_worker_died_waits_until_it_is_started_again() -> None:
    state = RunView(Clock())
    [train] = steps("train", 1)
    state(events.RunStarted(1, 1, 0, (train,)))
    state(events.StepStarted(train))
    state(events.StepRetried(train, 1, "killed"))
    assert not state.running and state.waiting["train"] == 1
    state(events.StepStarted(train))
    state(finished(train, 1))
    assert not state.running and state.waiting["train"] == 0


def test_steps_at_once_shorten_the_time_left() -> None:
    clock = Clock()
    state = RunView(clock)
    trains = steps("train", 4)
    state(events.RunStarted(4, 4, 0, trains))
    for step in trains[:2]:
        state(events.StepStarted(step))
    for step in trains[:2]:
        state(finished(step, 30))
    assert state.seconds_left == 30


def test_without_a_terminal_a_line_comes_every_ten_seconds() -> None:
    clock, text = Clock(), io.StringIO()
    trains = steps("train", 2)
    with Progress(Console(file=text, width=200), clock) as progress:
        progress(events.RunStarted(2, 2, 0, trains))
        progress(events.StepStarted(trains[0]))
        for second in range(25):
            clock.now = float(second)
            progress(events.StepProgress(trains[0], second, 50, {"loss": 2.0}))
    lines = [line for line in text.getvalue().splitlines() if "stages" in line]
    assert len(lines) == 3
    assert "0/2 steps, 0/2 stages" in lines[-1]
    assert "train 0 20/50 loss 2.000" in lines[-1]


def test_the_phase_of_a_study_with_a_search_stands_before_its_counts() -> None:
    text = io.StringIO()
    with Progress(Console(file=text, width=200), phase="search, 1 of 2") as progress:
        progress(events.RunStarted(2, 2, 0, steps("train", 2)))
    assert text.getvalue().startswith("search, 1 of 2: 2 steps to run")
    assert "search, 1 of 2: 0/2 steps, 0/2 stages" in text.getvalue()


def test_failures_are_said_at_once_with_their_log() -> None:
    text = io.StringIO()
    trains = steps("train", 2)
    with Progress(Console(file=text, width=200)) as progress:
        progress(events.RunStarted(2, 2, 0, trains))
        progress(events.StepFailed(trains[0], "out of [memory]", "logs/1.log"))
        progress(events.StepBlocked(trains[1], trains[0]))
    assert "train 0 failed: out of [memory]" in text.getvalue()
    assert "logs/1.log" in text.getvalue()
    assert "train 1 cannot run since train 0 failed" in text.getvalue()


# Doctor and the UI


def test_the_tested_versions_are_those_of_the_constraints_file() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {name: pins[name] for name in health.TESTED} == health.TESTED


def test_doctor_finds_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = {item.what: item for item in health.storage(Store(tmp_path / "file" / "store"))}
    assert found["store"].state == "error"
    assert "--store DIR" in found["store"].remedy
    found = {item.what: item for item in health.storage(Store(tmp_path / "store"))}
    assert {item.state for item in found.values()} == {"ok"}
    assert not (tmp_path / "store").exists()


def test_doctor_finds_half_a_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    [found] = health.vision()
    assert found.state == "error"
    assert "pip uninstall torchvision" in found.remedy


def test_doctor_exits_with_1_on_an_error_and_0_on_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*states: Any) -> Callable[[Store], list[health.Finding]]:
        return lambda store: [health.Finding("thing", state, "so it is", "do this") for state in states]

    monkeypatch.setattr(health, "findings", found("ok", "warning"))
    assert answer("doctor")["warnings"] == 1
    monkeypatch.setattr(health, "findings", found("ok", "error"))
    assert "do this" in lilora_("doctor", code=1).stdout


def test_ui_needs_tracked_runs_and_a_free_port(folder: Path) -> None:
    assert "lilora track" in complaint("ui")
    (folder / "store").mkdir()
    (folder / "store" / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not ui.is_free(port)
        assert f"port {port}" in complaint("ui", "--port", str(port))
        free = ui.free_port(port)
        assert free is not None and port < free < port + 100


def test_show_refuses_what_it_cannot_draw_before_building(folder: Path) -> None:
    assert "no split 'exam'; there are: train" in complaint("show", "mini", "--split", "exam")
    assert "lilora/benchmarks has" in complaint("show", "maxi")
    assert "no instruction setting 'single'" in complaint("show", "mini_coin", "--instructions", "single")
    assert not (folder / "store").exists()


@pytest.mark.parametrize("name", registry.names("benchmarks"))
def test_show_takes_a_benchmarks_own_first_setting(folder: Path, name: str) -> None:
    assert "no split 'exam'; there are: train" in complaint("show", name, "--split", "exam")
