"""Pictures that rows name: read from their folder when needed, once for all rows, and never from outside it."""

from __future__ import annotations

import io
from pathlib import Path

import polars
import pytest
from PIL import Image

from lilora.model import pictures, tokens
from lilora.model.pictures import Filed, padded
from lilora.model.tokens import TaskData, load_task
from tests.lilora.lab import Lab


def named(lab: Lab, monkeypatch: pytest.MonkeyPatch, paths: list[str | None]) -> tuple[Path, TaskData]:
    """The task Colour with its first pictures in files at `paths`, below the folder that is returned."""
    artifact, home = lab.folder(), lab.folder()
    table = polars.read_parquet(lab.data["Colour"] / "test.parquet").head(len(paths))
    for path, image in zip(paths, table["image"].to_list(), strict=True):
        if path is not None and ".." not in path:
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_bytes(image["bytes"])
    rows = [None if path is None else {"bytes": None, "path": path} for path in paths]
    table.with_columns(polars.Series("image", rows, table.schema["image"])).write_parquet(artifact / "test.parquet")
    monkeypatch.setattr(pictures, "picture_folder", lambda folder: home)
    return home, load_task(lab.backbone, artifact, "test")


def test_rows_that_name_files_have_the_pictures_in_them(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    held = load_task(lab.backbone, lab.data["Colour"], "test")
    home, data = named(lab, monkeypatch, ["coco/b.png", "coco/a.png", None, "coco/a.png"])
    assert data.pictures == [Filed("coco/a.png", home), Filed("coco/b.png", home)]
    assert data.image_of == [1, 0, -1, 0]
    assert data.picture(1).tobytes() == held.picture(held.image_of[0]).tobytes()
    assert data.pictures[0].size() == (20, 20)
    assert data.prompts[0].tolist() == held.prompts[0].tolist()
    assert len(data.prompts[2]) < len(data.prompts[0])


def test_a_path_that_leaves_the_folder_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="leaves the image folder"):
        named(lab, monkeypatch, ["../secret.png"])


def test_a_file_that_is_missing_or_no_picture_says_which(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    home, data = named(lab, monkeypatch, ["a.png", "b.png"])
    (home / "a.png").unlink()
    (home / "b.png").write_bytes(b"not a picture")
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        data.picture(0)
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        data.pictures[0].size()
    with pytest.raises(ValueError, match=r"b\.png"):
        data.pictures[1].size()


def test_padding_leaves_a_square_alone_and_centres_the_rest() -> None:
    square, tall = Image.new("RGB", (5, 5), (9, 9, 9)), Image.new("RGB", (3, 8), (9, 9, 9))
    assert padded(square, (1, 2, 3)) is square
    whole = padded(tall, (1, 2, 3))
    columns = [whole.getpixel((x, 4)) for x in range(8)]
    assert columns == [(1, 2, 3)] * 2 + [(9, 9, 9)] * 3 + [(1, 2, 3)] * 3


def test_pictures_of_a_large_file_have_their_size_without_being_held(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MEMO_BYTES", 0)
    tokens._load.cache_clear()
    data = load_task(lab.backbone, lab.data["Place"], "validation")
    tokens._load.cache_clear()
    assert data.pictures[0].size() == Image.open(io.BytesIO(data.pictures[0].read())).size == (20, 20)


def test_a_row_that_says_the_image_token_is_refused_by_name(lab: Lab) -> None:
    folder = lab.folder()
    table = polars.read_parquet(lab.data["Colour"] / "test.parquet")
    answers = ["red", "<image> blue", *["red"] * (len(table) - 2)]
    table.with_columns(polars.Series("answer", answers)).write_parquet(folder / "test.parquet")
    with pytest.raises(ValueError, match="row 'test-001' says '<image>'.*take it out"):
        load_task(lab.backbone, folder, "test")
