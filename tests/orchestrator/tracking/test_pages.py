"""The contents of MLflow's pages: the first page's view, notes, data, costs, adapters; and what is found again."""

from __future__ import annotations

import ast
import base64
import json
import re
import shlex
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lilora.matrix import Matrix, forgetting, forgetting_by_task
from lilora.methods.lilora import LiLoRA
from lilora.methods.moelora import MoeLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.cli.commands.export import find_cell, find_trial
from orchestrator.errors import UserError
from orchestrator.planning.lowering import Lowered, lower
from orchestrator.results.reading import ResultReader
from orchestrator.storage.store import Store
from orchestrator.tracking.adapters import best_adapter
from orchestrator.tracking.experiment import STUDY_TAG
from orchestrator.tracking.listener import track
from orchestrator.tracking.measures import costs_of_row, metrics_of_row
from orchestrator.tracking.pages.first_page import first_page, shared_view
from orchestrator.tracking.pages.notes import adapter_note, peft_lines
from orchestrator.tracking.pages.origin import Origin
from orchestrator.tracking.pages.pictures import WIDTH, fitted, trial_pictures
from orchestrator.tracking.place import default_uri, pages_in
from orchestrator.tracking.search import filter_of, find_trials
from tests.orchestrator.fake_results import fake_store, fake_study

TASKS = ("ScienceQA", "TextVQA", "GQA")
ORIGIN = Origin("fake", "experiments/fake.py", "fake")


def by_hand(method: Any, task: str, row: int, column: int, seed: int) -> float:
    """Falls by 10 a stage; SeqLoRA's scores lie 20 below LiLoRA's."""
    return 80.0 - 10 * (row - column) - (20 if isinstance(method, SeqLoRA) else 0)


def study(*methods: Any, name: str = "fake") -> Lowered:
    return lower(fake_study(methods, tasks=TASKS, name=name))


def view() -> dict[str, Any]:
    text = shared_view(("A", "B 1")).removeprefix("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(text)))


def test_the_first_page_is_the_table_by_ap_and_its_charts() -> None:
    state = view()
    columns = [name.partition("`")[2][:-1] for name in state["selectedColumns"]]
    assert columns == [
        "AP", "MAP", "BWT", "FWT", "MIF", "method", "backbone", "order", "seed", "trained_parameters",
        "stored_parameters",
    ]  # fmt: skip
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`AP`", False)
    drawn = [(card["type"], card.get("metricKey") or card["yaxis"]["key"]) for card in state["compareRunCharts"]]
    assert drawn == [("LINE", "AP"), ("LINE", "BWT"), ("BAR", "accuracy.A"), ("BAR", "accuracy.B 1"), ("SCATTER", "AP")]
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {card["metricSectionId"] for card in state["compareRunCharts"]} <= sections
    assert state["runsHiddenMode"] == "SHOW_ALL", "all trials are drawn, not ten"


def test_a_view_of_many_tasks_fits_into_mlflows_tag() -> None:
    assert len(shared_view([f"a task with a long name, number {place}" for place in range(100)])) < 5000


def test_forgetting_by_task_is_what_forgetting_averages() -> None:
    matrix = Matrix(("a", "b", "c"), ((90.0, None, None), (70.0, 60.0, None), (75.0, 40.0, 50.0)), ("a", "b", "c"))
    assert forgetting_by_task(matrix) == {"a": 15.0, "b": 20.0}
    assert forgetting(matrix) == 17.5
    assert forgetting_by_task(Matrix(("a",), ((1.0,),), ("joint",))) == {}


def test_each_stage_has_what_was_forgotten_and_the_last_what_is_stored(tmp_path: Path) -> None:
    lowered = study(LiLoRA())
    result = ResultReader(fake_store(tmp_path, lowered, score=by_hand)).trial(lowered.trials[0])
    assert [metrics_of_row(result, row).get("forgetting.ScienceQA") for row in range(3)] == [None, 10.0, 20.0]
    assert "stored_parameters" not in metrics_of_row(result, 1)
    last = metrics_of_row(result, 2)
    assert (last["trained_parameters"], last["stored_parameters"]) == (1200, 1000 + 3 * 200)


def test_the_costs_of_a_stage_are_those_that_were_measured(tmp_path: Path) -> None:
    lowered = study(SeqLoRA())
    store = fake_store(tmp_path, lowered)
    plan = lowered.trials[0]
    assert costs_of_row(plan, 1, ResultReader(store)) == {
        "system/train_seconds": 41.0,
        "system/train_steps_per_second": 250 / 41.0,
        "system/answer_seconds": 3.0,
    }
    path = store.path(plan.stages[1].digest) / "record.json"
    record = json.loads(path.read_text())
    record["summary"]["tokens"] = 8200
    record["provenance"]["peak_memory"] = {"host": 2**30, "gpu": 3 * 2**29}
    path.write_text(json.dumps(record))
    found = costs_of_row(plan, 1, ResultReader(store))
    assert found["system/train_tokens_per_second"] == 200.0
    assert found["system/train_peak_host_memory_gib"] == 1.0
    assert found["system/train_peak_gpu_memory_gib"] == 1.5


def test_an_adapters_note_names_a_command_that_finds_it_and_python_that_compiles() -> None:
    lowered = study(SeqLoRA(), LiLoRA())
    for plan in lowered.trials:
        for row, after in enumerate(plan.after):
            note = adapter_note(plan, row, "fake", ORIGIN)
            words = shlex.split(next(line for line in note.splitlines() if line.startswith("lilora export")))
            options = dict(zip(words[3::2], words[4::2], strict=True))
            assert find_trial(lowered, options["--method"], None) is plan
            assert find_cell(plan, options["--after"], options["--task"])[:2] == (after, after)
            compile(peft_lines(plan), "note", "exec")
            assert peft_lines(plan) in note


def test_an_adapter_that_no_peft_holds_says_so_and_one_of_a_search_where_to_look() -> None:
    [routed] = study(MoeLoRA()).trials
    assert "Stock PEFT cannot load it" in adapter_note(routed, 0, "fake", ORIGIN)
    [plan] = study(SeqLoRA()).trials
    note = adapter_note(plan, 0, "fake-search", ORIGIN)
    assert "lilora export fake --help" in note and "from_pretrained" not in note


def test_a_notes_pictures_are_no_wider_than_the_page(tmp_path: Path) -> None:
    import io

    from PIL import Image

    lowered = study(SeqLoRA())
    pictures = trial_pictures(ResultReader(fake_store(tmp_path, lowered)).trial(lowered.trials[0]))
    assert [file for file, _ in pictures.values()] == ["matrix.png", "curves.png"]
    widths = [Image.open(io.BytesIO(fitted(picture))).width for _, picture in pictures.values()]
    assert max(widths) <= WIDTH


def test_the_best_adapter_is_of_a_finished_sequence(tmp_path: Path) -> None:
    lowered = study(ZeroShot(), SeqLoRA(), LiLoRA())
    with pytest.raises(UserError, match="is finished, so there is no adapter"):
        best_adapter(ResultReader(Store(tmp_path / "empty")).trials(lowered), "fake")
    reader = ResultReader(fake_store(tmp_path / "full", lowered, score=by_hand))
    assert best_adapter(reader.trials(lowered), "fake").plan.name == "lilora"


def test_a_filter_names_parameters_and_refuses_quotes() -> None:
    found = filter_of({"method": "lilora", "method.rank": 16})
    assert found == "tags.kind = 'trial' and params.`method` = 'lilora' and params.`method.rank` = '16'"
    with pytest.raises(UserError, match="has a quote in it"):
        filter_of({"order": "a'b"})


@pytest.mark.slow
def test_a_tracked_study_has_notes_data_source_and_a_registered_adapter(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    lowered = study(SeqLoRA(), LiLoRA())
    store = fake_store(tmp_path, lowered, score=by_hand)
    first = track(lowered, ResultReader(store), None, ORIGIN, register=True)
    assert first == track(lowered, ResultReader(store), None, ORIGIN, register=True), "twice is one version"
    client = MlflowClient(default_uri(store))
    (run,) = client.search_runs([first.experiment], "tags.method = 'lilora'")
    note = run.data.tags["mlflow.note.content"]
    assert "learns ScienceQA → TextVQA → GQA, one after another" in note and "AP 70.0" in note
    files = {file.path for file in client.list_artifacts(run.info.run_id, "matrix/note")}
    assert files == {"matrix/note/matrix.png", "matrix/note/curves.png"}
    assert f"get-artifact?run_uuid={run.info.run_id}&path=matrix%2Fnote%2Fmatrix.png" in note
    assert run.data.tags["mlflow.source.name"] == "experiments/fake.py"
    assert run.data.metrics["forgetting.ScienceQA"] == 20.0
    data = {item.dataset.name: item.dataset for item in run.inputs.dataset_inputs}
    assert set(data) == {f"mini {task} test" for task in TASKS}
    made = json.loads(data["mini GQA test"].source)["step"]
    assert store.has(made) and data["mini GQA test"].digest == made[:12]
    assert json.loads(data["mini GQA test"].profile)["num_rows"] > 0

    assert first.registered == ("fake", "1")
    version = client.get_model_version_by_alias("fake", "best")
    (model,) = client.search_logged_models([first.experiment], "tags.method = 'lilora' and tags.stage = '3'")
    assert (version.source, version.tags["trial"]) == (model.artifact_location, lowered.trials[1].digest)
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "fake", "version": "1"}]
    assert {(metric.key, metric.dataset_name) for metric in model.metrics} == {
        (f"accuracy.{task}", f"mini {task} test") for task in TASKS
    }
    assert "lilora export fake --method lilora" in model.tags["mlflow.note.content"]


@pytest.mark.slow
def test_one_search_finds_the_trials_of_all_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    for name, methods in {"one": (LiLoRA(rank=16), SeqLoRA()), "two": (LiLoRA(rank=16), LiLoRA(rank=8))}.items():
        lowered = study(*methods, name=name)
        fake_store(tmp_path, lowered, score=by_hand)
        track(lowered, ResultReader(store))
    found = find_trials(default_uri(store), {"method": "lilora", "method.rank": 16, "backbone": "fake"})
    assert sorted(run.data.tags["study"] for run in found) == ["one", "two"]
    page = (Path(__file__).parents[3] / "docs" / "compare.md").read_text(encoding="utf-8")
    [lines] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "find_trials" in block]
    exec(lines.replace("tiny_llava", "fake"), {"store": store})
    assert len(ast.literal_eval(capsys.readouterr().out)) == 2
    assert {page.study: page.address.partition("5000")[2] for page in pages_in(store)} == {
        page.study: first_page(page.experiment) for page in pages_in(store)
    }


@pytest.mark.slow
def test_an_experiment_that_was_deleted_renamed_or_of_an_earlier_release_is_the_studys_again(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    lowered = study(SeqLoRA())
    store = fake_store(tmp_path, lowered)
    reader = ResultReader(store)
    experiment = track(lowered, reader).experiment
    client = MlflowClient(default_uri(store))
    runs = {run.info.run_id for run in client.search_runs([experiment])}

    client.delete_experiment(experiment)
    assert track(lowered, reader).experiment == experiment
    assert client.get_experiment(experiment).lifecycle_stage == "active"
    assert {run.info.run_id for run in client.search_runs([experiment])} == runs

    client.delete_run(next(iter(runs)))
    track(lowered, reader)
    assert {run.info.run_id for run in client.search_runs([experiment])} == runs

    client.rename_experiment(experiment, "my own name")
    assert track(lowered, reader).experiment == experiment
    assert client.get_experiment(experiment).name == "my own name"

    # As an earlier release left it: no tag of the study, and renamed.
    client.delete_experiment_tag(experiment, STUDY_TAG)
    assert track(lowered, reader).experiment == experiment

    # Its name is taken by the experiment of another study.
    client.rename_experiment(experiment, "other")
    with pytest.raises(UserError, match="holds the study 'fake'.*rename it in MLflow's interface"):
        track(replace(lowered, study=replace(lowered.study, name="other")), reader)


@pytest.mark.slow
def test_what_an_earlier_release_tracked_is_written_over(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    lowered = study(SeqLoRA())
    store = fake_store(tmp_path, lowered)
    experiment = track(lowered, ResultReader(store)).experiment
    client = MlflowClient(default_uri(store))
    (run,) = client.search_runs([experiment], "tags.kind = 'trial'")
    for key in ("lilora.layout", "mlflow.note.content"):
        client.delete_tag(run.info.run_id, key)
    client.set_tag(run.info.run_id, "mlflow.parentRunId", "some run")
    track(lowered, ResultReader(store))
    tags = client.get_run(run.info.run_id).data.tags
    assert "mlflow.parentRunId" not in tags
    assert tags["lilora.layout"] == "2" and "one after another" in tags["mlflow.note.content"]
