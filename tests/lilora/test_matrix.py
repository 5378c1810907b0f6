from __future__ import annotations

from pathlib import Path

import pytest

from lilora.matrix import (
    Matrix,
    forward_transfer,
    forward_transfer_before,
    mean_instruction_following,
    metrics,
    unseen_change,
    zero_shot_change,
)
from lilora.matrix.files import read_isolated, read_matrix

REFERENCE = Path(__file__).parents[2] / "experiments" / "reference"

# Worked by hand. AP_k: 80, (60+90)/2, (50+70+100)/3. Changes after the last: 50-80, 70-90.
THREE = Matrix(
    tasks=("a", "b", "c"),
    rows=((80.0, None, None), (60.0, 90.0, None), (50.0, 70.0, 100.0)),
    after=("a", "b", "c"),
)


def write(folder: Path, text: str) -> Path:
    path = folder / "matrix.csv"
    path.write_text(text)
    return path


def test_the_published_moelora_matrix_gives_the_published_metrics() -> None:
    found = metrics(read_matrix(REFERENCE / "proglora_table6_matrix_moelora.csv"))
    assert round(found["ACC"], 2) == 37.13
    assert round(found["MAA"], 2) == 42.76
    assert round(found["BWT_N"], 2) == -25.91
    assert found["AP"] == found["ACC"]
    assert found["MAP"] == found["MAA"]
    assert found["BWT"] == pytest.approx(-207.27 / 7)
    assert found["FWT"] is None


def test_metrics_worked_by_hand() -> None:
    found = metrics(THREE)
    assert found["AP_k"] == pytest.approx([80, 75, 220 / 3])
    assert found["MAP"] == pytest.approx((80 + 75 + 220 / 3) / 3)
    assert found["BWT_k"] == [None, -20, -25]
    assert found["BWT"] == -25
    assert found["BWT_N"] == pytest.approx(-50 / 3)
    assert found["forgetting"] == 25


def test_forgetting_starts_from_the_best_earlier_score_and_not_from_the_diagonal() -> None:
    risen = Matrix(("a", "b", "c"), ((70.0, None, None), (90.0, 40.0, None), (60.0, 50.0, 10.0)), ("a", "b", "c"))
    assert metrics(risen)["forgetting"] == ((90 - 60) + (40 - 50)) / 2
    assert metrics(risen)["BWT"] == ((60 - 70) + (50 - 40)) / 2


def test_forward_transfer_is_against_the_task_trained_alone_and_over_all_tasks() -> None:
    assert forward_transfer(THREE, {"a": 80.0, "b": 84.0, "c": 97.0}) == 3
    assert forward_transfer(THREE, None) is None
    with pytest.raises(ValueError, match="differ in their tasks: c"):
        forward_transfer(THREE, {"a": 80.0, "b": 84.0})


def test_tasks_are_taken_in_the_order_learned_and_not_in_the_order_of_the_columns() -> None:
    turned = Matrix(("c", "a", "b"), ((None, 80.0, None), (None, 60.0, 90.0), (100.0, 50.0, 70.0)), ("a", "b", "c"))
    assert metrics(turned) == metrics(THREE)


@pytest.mark.parametrize(
    ("row", "column", "lost"),
    [
        (2, 1, {"AP", "MAP", "BWT", "BWT_N", "forgetting"}),
        (1, 0, {"MAP", "forgetting"}),
        (1, 1, {"MAP", "BWT", "BWT_N", "forgetting", "FWT"}),
        (2, 2, {"AP", "MAP", "FWT"}),
    ],
)
def test_a_missing_cell_takes_away_the_metrics_that_need_it_and_no_other(row: int, column: int, lost: set[str]) -> None:
    rows = [list(cells) for cells in THREE.rows]
    rows[row][column] = None
    isolated = {"a": 1.0, "b": 2.0, "c": 3.0}
    found = metrics(Matrix(THREE.tasks, tuple(map(tuple, rows)), THREE.after), isolated)
    whole = metrics(THREE, isolated)
    for name in ("AP", "MAP", "BWT", "BWT_N", "forgetting", "FWT"):
        assert found[name] == (None if name in lost else whole[name]), name


def test_cells_above_the_diagonal_do_not_enter_ap_map_or_bwt() -> None:
    full = Matrix(THREE.tasks, ((80.0, 5.0, 7.0), (60.0, 90.0, 9.0), (50.0, 70.0, 100.0)), THREE.after)
    assert metrics(full) == metrics(THREE)


def test_a_study_that_is_not_finished_has_its_stages_so_far_and_no_final_metric() -> None:
    part = metrics(Matrix(THREE.tasks, THREE.rows[:2], THREE.after[:2]))
    assert part["AP_k"] == [80, 75]
    assert part["BWT_k"] == [None, -20]
    assert all(part[name] is None for name in ("AP", "MAP", "BWT", "BWT_N", "forgetting", "FWT"))


def test_one_task_has_no_backward_transfer_over_k_minus_1() -> None:
    found = metrics(Matrix(("a",), ((80.0,),), ("a",)))
    assert (found["AP"], found["MAP"], found["BWT"], found["BWT_N"], found["forgetting"]) == (80, 80, None, 0, None)


def test_zero_shot_has_an_average_and_no_sequence_metric() -> None:
    found = metrics(Matrix(("a", "b"), ((10.0, 20.0),), ("zero-shot",)))
    assert found["AP"] == 15
    assert found["AP_k"] == found["BWT_k"] == []
    assert all(found[name] is None for name in ("MAP", "BWT", "BWT_N", "forgetting"))


def test_instruction_following_is_the_mean_of_the_last_row() -> None:
    assert mean_instruction_following(THREE) == pytest.approx(220 / 3)


def test_a_matrix_survives_being_written_and_read(tmp_path: Path) -> None:
    odd = Matrix(("a b", 'q"uote'), ((1 / 3, None), (2 / 3, 0.1)), ("a b", 'q"uote'))
    assert read_matrix(write(tmp_path, odd.to_csv())) == odd


def test_reading_takes_spreadsheet_exports(tmp_path: Path) -> None:
    text = "\ufeffafter, a ,b\r\na,80,\r\n\r\nb, 60 ,90\r\n"
    assert read_matrix(write(tmp_path, text)).rows == ((80.0, None), (60.0, 90.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("task,a,b\na,1,2\n", "row 1: the header must be 'after,TASK1,...,TASKn', not 'task,a,b'"),
        ("after\n", "row 1: the header must be"),
        ("after;a;b\na;1;2\n", "row 1: the header must be"),
        ("after,a,b\n", "no row below the header"),
        ("after,a,b\na,1\n", "row 2: 2 cells, but the header has 3"),
        ("after,a,b\na,1,\nb,2,3,4\n", "row 3: 4 cells, but the header has 3"),
        ("after,a,b\na,1,\nb,two,3\n", "row 3, column 'a': 'two' is not a number"),
        ("after,a,b\na,nan,\n", "row 2, column 'a': 'nan' is not a number"),
        ("after,a,a\na,1,2\n", "row 1: the task 'a' is there twice"),
        ("after,a,\na,1,2\n", "row 1: a task without a name"),
        ("after,a,b\na,1,\na,2,3\n", "row 3: the task 'a' has a row already"),
        ("after,a,b\na,1,\nc,2,3\n", "row 3: 'c' in column 'after' is not a task; the header has: a, b"),
    ],
)
def test_a_wrong_matrix_file_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        read_matrix(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_row_of_tasks_trained_alone_needs_every_task(tmp_path: Path) -> None:
    assert read_isolated(write(tmp_path, "a,b\n1,2.5\n")) == {"a": 1.0, "b": 2.5}
    for text, message in (("a,b\n1,\n", "no score for 'b'"), ("a,b\n", "0 rows"), ("a,b\n1,2\n3,4\n", "2 rows")):
        with pytest.raises(ValueError, match=message):
            read_isolated(write(tmp_path, text))


def test_ragged_values_are_refused() -> None:
    with pytest.raises(ValueError, match="the row after 'a' has 1 cells for 2 tasks"):
        Matrix(("a", "b"), ((1.0,),), ("a",))
    with pytest.raises(ValueError, match="names no task"):
        Matrix(("a", "b"), ((1.0, 2.0), (1.0, 2.0)), ("a", "zero-shot"))


def test_numbers_that_are_no_scores_and_endless_fields_are_refused_with_their_row(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    for text in ("after,A,B\nA,1e308,\nB,1e308,1e308\n", "after,A\nA,inf\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="row 2, column 'A': .* is no score"):
            read_matrix(path)
    path.write_text(f"after,A\nA,{'5' * 200_000}\n")
    with pytest.raises(ValueError, match="row 2: field larger than field limit"):
        read_matrix(path)


def test_tasks_before_they_are_learned_worked_by_hand() -> None:
    whole = Matrix(("a", "b", "c"), ((80.0, 30.0, 10.0), (70.0, 90.0, 20.0), (60.0, 80.0, 95.0)), ("a", "b", "c"))
    bare = {"a": 5.0, "b": 20.0, "c": 40.0}
    assert forward_transfer_before(whole, bare) == ((30 - 20) + (20 - 40)) / 2
    assert zero_shot_change(whole, bare) == ((30 - 20) + ((10 - 40) + (20 - 40)) / 2) / 2
    assert unseen_change({"u": 15.0, "v": 20.0}, {**bare, "u": 25.0, "v": 20.0}) == -5.0


def test_without_the_upper_triangle_or_the_backbones_scores_nothing_is_said_of_tasks_before_they_are_learned() -> None:
    lower = Matrix(("a", "b"), ((80.0, None), (70.0, 90.0)), ("a", "b"))
    bare = {"a": 5.0, "b": 20.0}
    assert forward_transfer_before(lower, bare) is zero_shot_change(lower, bare) is None
    whole = Matrix(("a", "b"), ((80.0, 30.0), (70.0, 90.0)), ("a", "b"))
    assert forward_transfer_before(whole, None) is zero_shot_change(whole, {"a": 5.0}) is None
    assert unseen_change(None, bare) is unseen_change({}, bare) is unseen_change({"u": 1.0}, bare) is None
    unfinished = Matrix(("a", "b"), ((80.0, 30.0),), ("a",))
    assert forward_transfer_before(unfinished, bare) is zero_shot_change(unfinished, bare) is None


class Name(str):
    """A task's name that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)


def test_a_matrix_looks_its_names_up_and_does_not_search_for_them() -> None:
    names = tuple(Name(f"T{place}") for place in range(40))
    rows = tuple(tuple(50.0 if column <= row else None for column in range(40)) for row in range(40))
    matrix = Matrix(names, rows, names)
    assert matrix.is_finished and set(matrix.diagonal.values()) == {50.0}
    assert metrics(matrix)["AP"] == 50.0
    assert Name.compared <= 4 * len(names)
