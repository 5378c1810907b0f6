from __future__ import annotations

import csv
import gc
import io
import json
import shutil
from dataclasses import replace

import pytest

from lilora.benchmarks import Stream
from lilora.matrix import Matrix
from lilora.methods.dirlora import DirLoRA
from lilora.methods.joint import Joint
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.cli.console import Output
from orchestrator.cli.tables.results import show_results
from orchestrator.planning.lowering import lower
from orchestrator.report.blocks.panels import curves, stages
from orchestrator.report.style import styles
from orchestrator.resolving.swept import figure_of
from orchestrator.results.answers.form import following_after
from orchestrator.results.exports import table_csv, trial_json
from orchestrator.results.reading import ResultReader, read_results
from orchestrator.results.table import columns, mean_matrix, metrics_after, table
from orchestrator.storage.store import Store
from orchestrator.study import Study, Trial
from orchestrator.study.metrics import METRICS, Stat
from orchestrator.tracking.measures import metrics_of_row
from tests.orchestrator.fake_results import ALONE, BACKBONE, fake_store, fake_study

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")


def by_hand(method, task, row, column, seed):
    """R[k,j] = 80 - 10 (k - j) + seed: each later stage costs ten points."""
    return 80.0 - 10 * (row - column) + seed


def rows_of(tmp_path, study, **options):
    lowered = lower(study)
    store = fake_store(tmp_path, lowered, score=by_hand, **options)
    return table(read_results(lowered, store).trials)


def test_a_matrix_holds_the_scores_that_the_steps_wrote(tmp_path):
    lowered = lower(fake_study((SeqLoRA(),), tasks=TASKS))
    (result,) = read_results(lowered, fake_store(tmp_path, lowered, score=by_hand)).trials
    matrices = result.matrices
    assert matrices["main"].rows == ((80, None, None), (70, 80, None), (60, 70, 80))
    assert matrices["following"].rows[2] == (70, 80, 90)
    assert matrices["extra:CIDEr"].rows[2] == (None, None, 400)
    assert matrices["main"].after == TASKS


def test_the_metrics_of_a_row_are_those_worked_by_hand(tmp_path):
    (row,) = rows_of(tmp_path, fake_study((SeqLoRA(),), tasks=TASKS))
    means = {name: stat.mean for name, stat in row.metrics.items() if stat}
    assert means["AP"] == pytest.approx((60 + 70 + 80) / 3)
    assert means["MAP"] == pytest.approx((80 + 75 + 70) / 3)
    assert means["BWT"] == pytest.approx((-20 - 10) / 2)
    assert means["MIF"] == pytest.approx((70 + 80 + 90) / 3)
    assert means["BWT_N"] == pytest.approx((-20 - 10) / 3)
    assert row.metrics["FWT"] is None, "it was not asked for"
    assert (row.metric("ACC"), row.metric("MAA")) == (row.metrics["AP"], row.metrics["MAP"])
    assert means["BWT lenient"] == pytest.approx(-15 * 0.6)
    assert {task: stat.mean for task, stat in row.accuracy.items()} == dict(zip(TASKS, (60, 70, 80), strict=True))


def test_the_metrics_after_the_last_row_are_read_off_the_trials_own_matrices(tmp_path, monkeypatch):
    lowered = lower(fake_study((SeqLoRA(),), tasks=TASKS))
    (result,) = read_results(lowered, fake_store(tmp_path, lowered)).trials
    made, as_before = [], Matrix.__post_init__
    monkeypatch.setattr(Matrix, "__post_init__", lambda matrix: made.append(matrix) or as_before(matrix))
    metrics_after(result)
    assert sorted(map(id, made)) == sorted(map(id, result.matrices.values()))
    made.clear()
    metrics_after(result, 1)
    assert [matrix.tasks for matrix in made] == [TASKS[:2]] * len({key for key, _ in METRICS.values()})


def test_no_cycles_are_looked_for_while_results_are_read_and_after_an_error_they_are(tmp_path, monkeypatch):
    lowered = lower(fake_study((SeqLoRA(),), tasks=TASKS))
    store, found = fake_store(tmp_path, lowered), []
    monkeypatch.setattr(Store, "read", lambda *_: found.append(gc.isenabled()) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ResultReader(store).trials(lowered)
    assert found == [False] and gc.isenabled()


def test_table_mlflow_report_and_sweep_say_the_same_after_each_stage(tmp_path):
    lowered = lower(fake_study((SeqLoRA(), DirLoRA(), ZeroShot()), tasks=TASKS))
    results = read_results(lowered, fake_store(tmp_path, lowered)).trials
    rows = table(results)
    averages, transfers = stages(rows, styles(rows))
    for result, row in zip(results, rows, strict=True):
        after = [metrics_after(result, place) for place in range(len(result.plan.after))]
        assert {name: stat.mean for name, stat in row.metrics.items() if stat} == known(after[-1])
        assert {name: figure_of(result, name) for name in known(after[-1])} == known(after[-1])
        tracked = [metrics_of_row(result, place) for place in range(len(after))]
        named = {name: name.replace(" ", "_") for name in METRICS}
        assert [{name: said.get(named[name]) for name in METRICS} for said in tracked] == after
        assert following_after(result) == [said["MIF"] for said in after]
    for panel, metric in ((averages, "AP"), (transfers, "BWT")):
        for line, result in zip(panel.lines, results[:2], strict=True):
            values = [metrics_after(result, place)[metric] for place in range(len(TASKS))]
            assert list(line.means) == [value for value in values if value is not None]
    assert [metrics_after(results[0], place)["BWT"] is None for place in range(3)] == [True, False, False]


def asked_for_transfer(*methods):
    study = fake_study(methods, tasks=TASKS)
    return replace(study, trials=tuple(replace(trial, transfer=True) for trial in study.trials))


def with_losses_alone(method, task, row, column, seed):
    """Alone, each task scores 3, 6 and 9 points less than just after it was learned in the stream."""
    return 80.0 - 3 * (column + 1) if row == ALONE else by_hand(method, task, row, column, seed)


def test_forward_transfer_is_the_gain_over_each_task_learned_alone_by_the_same_method(tmp_path):
    lowered = lower(asked_for_transfer(SeqLoRA()))
    store = fake_store(tmp_path, lowered, score=with_losses_alone)
    (result,) = read_results(lowered, store).trials
    # The first task is learned alone by the stage itself, whose predictions are there already.
    assert result.plan.alone[0] == (result.plan.stages[0], *result.plan.cells[0, 0])
    assert [metrics_after(result, row)["FWT"] for row in range(3)] == [0.0, (0 + 6) / 2, (0 + 6 + 9) / 3]
    assert trial_json(result)["FWT"] == 5.0
    (row,) = table([result])
    assert columns([row]) == ("AP", "MAP", "BWT", "MIF", "FWT")
    assert metrics_of_row(result, 2)["FWT"] == 5.0


def upper(method, task, row, column, seed):
    """Ten points of tasks that are not learned yet, five by the backbone as it is."""
    return 5.0 if isinstance(method, ZeroShot) else 10.0 if column > row else by_hand(method, task, row, column, seed)


def test_tasks_before_they_are_learned_are_in_the_matrix_and_change_no_other_metric(tmp_path):
    each = fake_study((SeqLoRA(), LiLoRA()), tasks=TASKS)
    whole = lower(replace(each, trials=tuple(replace(trial, scored="all") for trial in each.trials)))
    seqlora, lilora = read_results(whole, store := fake_store(tmp_path / "all", whole, score=upper)).trials
    assert seqlora.matrices["main"].rows == ((80, 10, 10), (70, 80, 10), (60, 70, 80))
    assert lilora.matrices["main"].rows[0][1:] == (None, None), "it is told the task, and has no part for it"
    assert seqlora.num_missing == 0 and all(seqlora.has_row(row) for row in range(3))
    plain, _ = read_results(lower(each), fake_store(tmp_path / "each", lower(each), score=by_hand)).trials
    for row in range(3):
        assert metrics_after(seqlora, row) == metrics_after(plain, row)
    first, second = rows = table([seqlora, lilora])
    assert (first.metrics["FWT_GEM"].mean, first.metrics["ZSC"].mean) == (5.0, 5.0)
    assert "UNSEEN" not in first.metrics, "mini has no unseen tasks"
    assert columns(rows) == ("AP", "MAP", "BWT", "MIF", "FWT_GEM", "ZSC")
    header, *lines = csv.reader(io.StringIO(table_csv(rows)))
    assert [line[header.index("FWT_GEM")] for line in lines] == ["5.0000", ""]
    assert trial_json(seqlora)["ZSC"] == 5.0 and "ZSC" not in trial_json(lilora)
    assert [metrics_of_row(seqlora, row).get("FWT_GEM") for row in range(3)] == [None, None, 5.0]
    assert metrics_of_row(seqlora, 0)["accuracy.Flickr30k"] == 10.0
    assert [len(panel.lines[0].places) for panel in curves(rows, styles(rows))] == [3, 3, 3]
    (tmp_path / "all" / "artifacts" / seqlora.plan.bare[TASKS[1]][1].digest / "scores.json").unlink()
    again, _ = read_results(whole, store).trials
    assert [again.has_row(row) for row in range(3)] == [True, False, False] and again.num_missing == 1
    assert table([again])[0].metrics["FWT_GEM"] is None


class CountedCells(dict):
    """Cells that count how often they are gone through, and how often one is looked up."""

    walks = looks = 0

    def items(self):
        self.walks += 1
        return super().items()

    def __getitem__(self, cell):
        self.looks += 1
        return super().__getitem__(cell)


def test_the_rows_of_a_trial_are_asked_for_one_by_one_and_its_cells_gone_through_once(tmp_path):
    lowered = lower(fake_study((SeqLoRA(),)))
    (read,) = read_results(lowered, fake_store(tmp_path, lowered)).trials
    cells = CountedCells(read.plan.cells)
    result = replace(read, plan=replace(read.plan, cells=cells))
    assert len(cells) == 21 and all(result.has_row(row) for row in range(6))
    assert [len(result.plan.scores_for(row)) for row in range(6)] == [1, 2, 3, 4, 5, 6]
    assert (cells.walks, cells.looks) == (1, 21)


def test_unseen_tasks_are_read_after_the_last_stage(tmp_path):
    study = Study("unseen", (Trial(SeqLoRA(), BACKBONE, Stream("cvit", TASKS), scored="all"),))
    lowered = lower(study)
    (result,) = read_results(lowered, fake_store(tmp_path, lowered, score=upper)).trials
    assert result.num_missing == 0
    assert set(result.unseen_scores()) == set(result.plan.unseen) and len(result.plan.unseen) == 5
    (row,) = table([result])
    assert row.metrics["UNSEEN"].mean == 0.0, "the made-up scores of unseen tasks are the bare ones"
    assert metrics_of_row(result, 2)["accuracy.VizWiz"] == 5.0 and "accuracy.VizWiz" not in metrics_of_row(result, 1)


def test_a_row_says_that_trained_tensors_did_not_move(tmp_path):
    lowered = lower(fake_study((SeqLoRA(),), tasks=TASKS))
    (result,) = read_results(lowered, fake_store(tmp_path, lowered)).trials
    first, second, third = result.stages
    flagged = replace(second, summary={**second.summary, "unmoved": ["x.A", "y.A"]})
    (row,) = table([replace(result, stages=(first, flagged, third))])
    assert row.note == "up to 2 trained tensors did not move in 1 stages"
    assert table([result])[0].note == ""


def test_tasks_learned_alone_are_the_stages_of_dirlora(tmp_path):
    sequence, alone = lower(asked_for_transfer(SeqLoRA(), DirLoRA())).trials
    assert [stage for stage, _, _ in sequence.alone] == list(alone.stages)
    assert alone.alone == tuple((stage, *alone.cells[place, place]) for place, stage in enumerate(alone.stages)), (
        "so its own forward transfer is 0"
    )
    plain = lower(fake_study((SeqLoRA(),), tasks=TASKS)).trials[0]
    assert plain.cells.keys() == sequence.cells.keys() and plain.stages == sequence.stages
    assert plain.digest != sequence.digest, "a trial without a figure of FWT does not stand for one with it"


def test_forward_transfer_waits_for_the_last_task_learned_alone(tmp_path):
    lowered = lower(asked_for_transfer(SeqLoRA()))
    store = fake_store(tmp_path, lowered, score=with_losses_alone)
    missing = lowered.trials[0].alone[2][2].digest
    shutil.rmtree(store.path(missing))
    (result,) = read_results(lowered, store).trials
    assert [metrics_after(result, row)["FWT"] for row in range(3)] == [0.0, 3.0, None]
    assert (result.num_missing, result.has_row(1), result.has_row(2)) == (1, True, False)
    assert table([result])[0].note == "1 of 9 cells not finished"


def test_trials_without_a_sequence_have_no_forward_transfer(tmp_path):
    lowered = lower(asked_for_transfer(ZeroShot(), Joint()))
    for result in read_results(lowered, fake_store(tmp_path, lowered, score=by_hand)).trials:
        assert result.plan.alone == ()
        assert metrics_after(result)["FWT"] is None


def known(metrics):
    return {name: value for name, value in metrics.items() if value is not None}


def test_seeds_are_averaged_with_the_sample_standard_deviation(tmp_path):
    (row,) = rows_of(tmp_path, fake_study((SeqLoRA(),), seeds=(0, 1, 2), tasks=TASKS))
    assert row.name == "seqlora"
    assert row.accuracy["Flickr30k"] == Stat(81.0, 1.0, 3)
    assert mean_matrix(row)[0] == (Stat(81.0, 1.0, 3), None, None)


def test_one_trial_has_no_standard_deviation():
    assert Stat.of([70.0]) == Stat(70.0, None, 1)
    assert Stat.of([70.0, None]) is None
    assert Stat.of([]) is None


def test_zero_shot_counts_once_whatever_the_seeds(tmp_path):
    (row,) = rows_of(tmp_path, fake_study((ZeroShot(),), seeds=(0, 1), tasks=TASKS))
    assert row.count == 1
    assert row.metrics["AP"].deviation is None
    assert row.metrics["BWT"] is None


def test_stored_parameters_count_shared_tensors_once_and_all_of_what_was_trained_alone(tmp_path):
    sequence, alone, none = rows_of(tmp_path, fake_study((LiLoRA(), DirLoRA(), ZeroShot()), tasks=TASKS))
    assert sequence.stored == 1000 + 3 * 200
    assert alone.stored == 3 * (1000 + 200)
    assert (none.stored, none.trainable) == (0, 0)
    assert sequence.trainable == 1200


def noting(result, kept):
    """The trial with so many bytes in the record of its last stage."""
    last = result.stages[-1]
    noted = replace(last, summary={**last.summary, "kept_to_learn": kept})
    return replace(result, stages=(*result.stages[:-1], noted))


def test_what_is_kept_to_learn_is_what_the_last_stages_record_says(tmp_path, capsys):
    lowered = lower(fake_study((SeqLoRA(), ZeroShot(), Joint()), (0, 1), TASKS))
    one, two, *others = read_results(lowered, fake_store(tmp_path, lowered, score=by_hand)).trials
    assert one.kept_to_learn is None, "a release before it was noted"
    rows = table([noting(one, 5000), noting(two, 6144), *others])
    assert [row.kept_to_learn for row in rows] == [6144, 0, None]
    show_results("", rows, Output())
    assert [line for line in capsys.readouterr().out.splitlines() if "seqlora" in line and "6 KiB" in line]
    text = table_csv(rows).splitlines()
    place = text[0].split(",").index("kept to learn")
    assert [line.split(",")[place] for line in text[1:]] == ["6144", "0", ""]
    assert trial_json(noting(one, 5000))["kept_to_learn"] == 5000


def test_methods_that_are_told_the_task_are_marked(tmp_path):
    rows = rows_of(tmp_path, fake_study((SeqLoRA(), DirLoRA()), tasks=TASKS))
    assert [row.needs_task_id for row in rows] == [False, True]


def test_an_unfinished_trial_has_empty_cells_and_says_so(tmp_path):
    (row,) = rows_of(tmp_path, fake_study((SeqLoRA(),), tasks=TASKS), until=2)
    assert row.metrics["AP"] is None
    assert row.metrics["BWT"] is None
    assert row.stored is None
    assert row.note == "3 of 6 cells not finished"
    assert row.results[0].matrices["main"].rows == ((80, None, None), (70, 80, None), (None, None, None))


def test_a_seed_that_is_not_finished_is_left_out_of_the_mean(tmp_path):
    lowered = lower(fake_study((SeqLoRA(),), seeds=(0, 1), tasks=TASKS))
    store = fake_store(tmp_path, lowered, score=by_hand)
    (store.path(lowered.trials[1].cells[2, 2][1].digest) / "scores.json").unlink()
    (row,) = table(read_results(lowered, store).trials)
    assert row.note == "1 of 2 seeds not finished, left out"
    assert row.accuracy["ScienceQA"] == Stat(60.0, None, 1)


def test_an_empty_store_gives_empty_rows(tmp_path):
    lowered = lower(fake_study(tasks=TASKS))
    rows = table(read_results(lowered, Store(tmp_path)).trials)
    assert all(stat is None for row in rows for stat in (*row.accuracy.values(), *row.metrics.values()))
    assert rows[-1].trainable is None


def test_the_csv_has_a_row_a_method_and_empty_cells_where_nothing_is_known(tmp_path):
    text = table_csv(rows_of(tmp_path, fake_study((ZeroShot(), LiLoRA()), tasks=TASKS)))
    zero_shot, lilora = csv.DictReader(text.splitlines())
    assert (zero_shot["BWT"], zero_shot["task id at test"]) == ("", "no")
    assert (lilora["method"], lilora["BWT"], lilora["task id at test"]) == ("lilora", "-15.0000", "yes")


def test_a_trial_for_machines_is_json_with_its_matrix(tmp_path):
    lowered = lower(fake_study((SeqLoRA(),), seeds=(3,), tasks=TASKS))
    (result,) = read_results(lowered, fake_store(tmp_path, lowered, score=by_hand)).trials
    answer = json.loads(json.dumps(trial_json(result), allow_nan=False))
    assert (answer["method"], answer["seed"], answer["order"]) == ("seqlora", 3, list(TASKS))
    assert answer["matrix"] == [[83, None, None], [73, 83, None], [63, 73, 83]]
    assert answer["BWT"] == pytest.approx(-15)


@pytest.mark.parametrize("change", [15, 0, -15])
def test_a_panel_has_room_for_tasks_that_later_ones_made_better(tmp_path, change):
    lowered = lower(fake_study((SeqLoRA(),), tasks=TASKS))
    store = fake_store(tmp_path, lowered, score=lambda _, task, row, column, seed: 50 + change * (row - column))
    rows = table(read_results(lowered, store).trials)
    _, transfers = stages(rows, styles(rows))
    means = [mean for line in transfers.lines for mean in line.means]
    assert max(means, key=abs) == pytest.approx(1.5 * change)
    assert all(transfers.low < mean < transfers.high for mean in means)
