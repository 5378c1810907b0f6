"""Pictures are looked at once each, whichever files of rows name them, and those in rows count too."""

from __future__ import annotations

from pathlib import Path

from lilora.data.check.pictures import PictureCheck
from lilora.data.readers.row import Row
from tests.lilora.data.layouts import draw


def checking(root: Path, num_samples: int = 8, all_of_them: bool = False) -> PictureCheck:
    return PictureCheck(lambda path: path.relative_to(root).as_posix(), num_samples, print if all_of_them else None)


def test_a_picture_that_two_files_name_is_counted_and_read_once_and_named_in_both(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    (tmp_path / "b.png").write_bytes(b"no picture")
    rows = [Row(0, "a.png", "?"), Row(1, "b.png", "?"), Row(2, "b.png", "?")]
    check = checking(tmp_path)
    found = [(row.number, why) for row, why in check.faults(rows, tmp_path, "train.json")]
    assert [number for number, _ in found] == [1]
    (tmp_path / "b.png").unlink()
    assert [(row.number, why) for row, why in check.faults(rows, tmp_path, "test.json")] == found
    assert (len(check.known), check.num_decoded, list(check.samples)) == (2, 1, ["a.png"])


def test_pictures_in_the_rows_are_decoded_too_where_all_are_asked_for(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    whole = (tmp_path / "a.png").read_bytes()
    middle = whole[: len(whole) // 2] + b"\0" * 8 + whole[len(whole) // 2 + 8 :]
    rows = [Row(0, None, "?", picture=lambda: whole), Row(1, None, "?", picture=lambda: middle)]
    assert list(checking(tmp_path, num_samples=0).faults(rows, tmp_path, "train")) == []
    check = checking(tmp_path, num_samples=0, all_of_them=True)
    [(row, why)] = check.faults(rows, tmp_path, "train")
    assert row.number == 1 and "train row 1 cannot be decoded" in why
    assert (len(check.known), check.num_decoded, len(check.samples)) == (2, 2, 0)
