"""Pictures as LLaVA's loader takes them and as a person sees them, what is remembered of them, and rows without one."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import polars
import pytest
from PIL import Image

from lilora.benchmarks import Benchmark, BuildConfig, Stream
from lilora.core.identity import digest_of
from lilora.core.stage_run import StageRun
from lilora.data.build import build_config, build_task
from lilora.data.check import check
from lilora.data.pictures import known
from lilora.data.pictures.files import PictureError, open_picture
from lilora.data.pictures.known import looked_at
from lilora.data.pictures.missing import spans
from lilora.data.pictures.upright import DEEP, ROTATED, TRANSPARENT, UNCLEAR
from lilora.data.readers.description import FILE, read_description
from lilora.model.pictures import decoded, load_pictures

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
TOML = '[[tasks]]\nname = "Birds"\nkind = "vqa"\nscorer = "short_answer"\ntrain = "train.json"\ntest = "test.json"\n'


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LILORA_DATA", str(tmp_path))


def halves(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", size, RED)
    picture.paste(BLUE, (size[0] // 2, 0, *size))
    return picture


def saved(picture: Image.Image, path: Path, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **how)
    return path


def turned(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(halves(), path, exif=exif)


def both(path: Path) -> tuple[Image.Image, Image.Image]:
    data = path.read_bytes()
    return open_picture(data, path.name), open_picture(data, path.name, "upright")


@pytest.mark.parametrize("form", ["png", "jpg"])
@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [(1, (40, 20), (5, 10)), (2, (40, 20), (35, 10)), (3, (40, 20), (35, 10)), (4, (40, 20), (5, 10)),
     (5, (20, 40), (10, 5)), (6, (20, 40), (10, 5)), (7, (20, 40), (10, 35)), (8, (20, 40), (10, 35))],
)  # fmt: skip
def test_upright_turns_a_picture_as_its_exif_says_and_llava_does_not(
    form: str, orientation: int, size: tuple[int, int], red: tuple[int, int], tmp_path: Path
) -> None:
    path = turned(tmp_path / f"a.{form}", orientation)
    lying, upright = both(path)
    assert (lying.size, upright.size) == ((40, 20), size)
    assert lying.getpixel((5, 10))[0] > 200 and upright.getpixel(red)[0] > 200
    assert upright.getpixel((size[0] - 1 - red[0], size[1] - 1 - red[1]))[2] > 200
    seen = looked_at(tmp_path, [path.name])[path.name]
    assert seen.odd == (ROTATED if orientation > 1 else "")
    assert (seen.width, seen.height) == (40, 20)


MODES: dict[str, tuple[Image.Image, str, Any, Any, str]] = {
    "RGBA": (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "png", (0, 0, 0), WHITE, TRANSPARENT),
    "half transparent": (Image.new("RGBA", (4, 4), (0, 0, 0, 51)), "png", (0, 0, 0), (204, 204, 204), TRANSPARENT),
    "LA": (Image.new("LA", (4, 4), (10, 0)), "png", (10, 10, 10), WHITE, TRANSPARENT),
    "16 bits": (
        Image.fromarray(numpy.full((4, 4), 128 * 257, numpy.uint16)), "png", WHITE, (128, 128, 128), DEEP,
    ),
    "32 bits": (Image.fromarray(numpy.full((4, 4), 70000, numpy.int32)), "tiff", WHITE, None, UNCLEAR),
    "floating": (Image.fromarray(numpy.full((4, 4), 0.5, numpy.float32)), "tiff", (0, 0, 0), None, UNCLEAR),
    "CMYK": (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "tiff", RED, RED, ""),
    "grey": (Image.new("L", (4, 4), 77), "png", (77, 77, 77), (77, 77, 77), ""),
    "bitmap": (Image.new("1", (4, 4), 1), "png", WHITE, WHITE, ""),
    "palette": (halves((4, 4)).crop((0, 0, 2, 2)).convert("P"), "png", RED, RED, ""),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_decided_in_both_ways(mode: str, tmp_path: Path) -> None:
    picture, form, llava, upright, odd = MODES[mode]
    path = saved(picture, tmp_path / f"a.{form}")
    assert open_picture(path.read_bytes(), "a").getpixel((0, 0)) == llava
    seen = looked_at(tmp_path, [path.name])[path.name]
    assert seen.odd == odd and not seen.why("a")
    if upright is None:
        with pytest.raises(ValueError, match="picture a has 32 bits a channel"):
            open_picture(path.read_bytes(), "a", "upright")
        assert "32 bits" in seen.why("a", "upright")
    else:
        assert open_picture(path.read_bytes(), "a", "upright").getpixel((0, 0)) == upright
        assert not seen.why("a", "upright")


def test_a_palette_with_a_transparent_colour_is_put_on_white(tmp_path: Path) -> None:
    picture = halves().convert("P")
    path = saved(picture, tmp_path / "a.png", transparency=picture.getpixel((0, 0)))
    lying, upright = both(path)
    assert lying.getpixel((0, 0)) == RED and upright.getpixel((0, 0)) == WHITE
    assert lying.getpixel((39, 0)) == upright.getpixel((39, 0)) == BLUE


def test_a_block_of_exif_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    path = saved(halves(), tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    lying, upright = both(path)
    assert lying.tobytes() == upright.tobytes() and not looked_at(tmp_path, ["a.jpg"])["a.jpg"].why("a.jpg")


@pytest.mark.parametrize("form", ["jpg", "png", "gif", "webp", "bmp", "tiff"])
def test_a_file_that_was_cut_off_is_met_without_decoding_the_whole_ones(form: str, tmp_path: Path) -> None:
    noise = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), numpy.uint8))
    whole = saved(noise, tmp_path / f"whole.{form}").read_bytes()
    (tmp_path / f"cut.{form}").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / f"more.{form}").write_bytes(whole + b"\0" * 100)
    seen = looked_at(tmp_path, [f"whole.{form}", f"cut.{form}", f"more.{form}"])
    assert [bool(one.broken) for one in seen.values()] == [False, True, False]
    assert seen[f"whole.{form}"].pixels == (None if form in ("jpg", "png") else "")


def test_what_was_seen_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(halves(), tmp_path / "images" / "a.png")
    examined: list[str] = []
    real = known.examine
    monkeypatch.setattr(known, "examine", lambda file: examined.append(file.name) or real(file))
    first = looked_at(path.parent, ["a.png"])
    assert looked_at(path.parent, ["a.png"]) == first and len(examined) == 1
    path.write_bytes(b"broken")
    assert looked_at(path.parent, ["a.png"])["a.png"].broken and len(examined) == 2
    path.unlink()
    assert looked_at(path.parent, ["a.png"])["a.png"].broken == "cannot be read: No such file or directory"


def test_a_decoding_is_remembered_too_and_noted_as_it_goes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        saved(halves(), tmp_path / "images" / name)
    noted: list[tuple[int, int]] = []
    for _ in range(2):
        seen = looked_at(tmp_path / "images", ["a.png", "b.png"], lambda done, total: noted.append((done, total)))
        assert [one.pixels for one in seen.values()] == ["", ""]
    assert noted == [(1, 2), (2, 2)]


def test_without_a_cache_every_file_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(halves(), tmp_path / "a.png")
    (tmp_path / "no folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    assert not looked_at(tmp_path, ["a.png"])["a.png"].broken
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    looked_at(tmp_path, ["a.png"])
    (tmp_path / "cache" / "lilora" / "pictures.sqlite").write_bytes(b"no database" * 100)
    assert not looked_at(tmp_path, ["a.png"])["a.png"].broken


def test_a_picture_too_large_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(halves(), tmp_path / "a.png")
    monkeypatch.setenv("LILORA_MOST_PIXELS", "1000")
    seen = looked_at(tmp_path, ["a.png"])["a.png"]
    assert "1600" not in seen.broken and "raise $LILORA_MOST_PIXELS" in seen.why("a.png")
    with pytest.raises(PictureError, match="raise"):
        open_picture(path.read_bytes(), "a.png")
    monkeypatch.setenv("LILORA_MOST_PIXELS", "1600")
    assert not looked_at(tmp_path, ["a.png"])["a.png"].why("a.png")


def test_runs_of_numbers() -> None:
    assert spans([9, 7, 8, 0, 8]) == ((0, 0), (7, 9)) and spans([]) == ()
    config = BuildConfig("b", "t", "single", 1, left_out=(("test", spans([1, 2, 5])), ("train", spans([3]))))
    assert config.num_left_out == {"test": 3, "train": 1}


@pytest.fixture
def birds(tmp_path: Path) -> Benchmark:
    """Twenty training rows and ten test rows; pictures of training rows 3 and 4 and of test row 2 are lost."""
    root = tmp_path / "birds"
    for number in range(30):
        saved(halves(), root / f"{number}.jpg")
    rows = [
        {"id": f"r{n}", "image": f"{n}.jpg",
         "conversations": [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": "red"}]}
        for n in range(20)
    ]  # fmt: skip
    tests = [{"question_id": n, "image": f"{n}.jpg", "text": "?", "answer": "red"} for n in range(20, 30)]
    (root / "train.json").write_text(json.dumps(rows))
    (root / "test.json").write_text(json.dumps(tests))
    (root / FILE).write_text(TOML)
    (root / "3.jpg").unlink()
    (root / "4.jpg").write_bytes((root / "4.jpg").read_bytes()[:200])
    (root / "22.jpg").write_bytes(b"")
    return read_description(root / FILE, "birds")


def build(config: BuildConfig, out: Path) -> dict[str, Any]:
    out.mkdir()
    return build_task(config, {}, out, StageRun(out))


def test_rows_without_their_picture_are_refused_or_left_out_and_their_numbers_are_in_the_name(
    birds: Benchmark, tmp_path: Path
) -> None:
    [task] = birds.tasks
    refused = build_config(birds, task, Stream("birds"))
    with pytest.raises(ValueError, match=r"1 pictures of .*train.json are not in .*missing=\"drop\""):
        build(refused, tmp_path / "refused")
    with pytest.raises(ValueError, match=r"2 of 20 rows of .*train.json \(10.0%\) .*row 3: 3.jpg, row 4.* 5.0% may"):
        build_config(birds, task, Stream("birds", missing="drop"))
    config = build_config(birds, task, Stream("birds", missing="drop", missing_share=0.1))
    assert config.left_out == (("train", ((3, 4),)), ("test", ((2, 2),)))
    assert digest_of(config) != digest_of(refused)
    summary = build(config, tmp_path / "out")
    assert summary["rows"] == {"train": 18, "test": 9} and summary["left_out"] == {"train": 2, "test": 1}
    assert polars.read_parquet(tmp_path / "out" / "train.parquet")["id"].to_list()[2:4] == [
        "Birds-train-2",
        "Birds-train-5",
    ]
    # Ids of published rows do the same; a picture that they do not name is refused as ever.
    named = build_config(birds, task, Stream("birds", missing=("r3", "r4", "22")))
    assert named == config
    with pytest.raises(ValueError, match="cannot be used: picture 4.jpg cannot be decoded"):
        build(build_config(birds, task, Stream("birds", missing=("r3", "22"))), tmp_path / "other")


def test_where_nothing_is_missing_the_data_are_the_same(birds: Benchmark, tmp_path: Path) -> None:
    [task] = birds.tasks
    for name in ("3.jpg", "4.jpg", "22.jpg"):
        saved(halves(), tmp_path / "birds" / name)
    drop = build_config(birds, task, Stream("birds", missing="drop"))
    assert drop == build_config(birds, task, Stream("birds")) and not drop.left_out


def test_what_the_plan_left_out_stays_out_whatever_came_since(birds: Benchmark, tmp_path: Path) -> None:
    [task] = birds.tasks
    drop = Stream("birds", missing="drop", missing_share=0.5)
    config = build_config(birds, task, drop)
    for name in ("3.jpg", "4.jpg", "22.jpg"):
        saved(halves(), tmp_path / "birds" / name)
    summary = build(config, tmp_path / "out")
    assert summary["rows"] == {"train": 18, "test": 9}


def test_upright_pictures_are_other_data_and_reach_the_model_so(birds: Benchmark, tmp_path: Path) -> None:
    [task] = birds.tasks
    turned(tmp_path / "birds" / "0.jpg", 6)
    stream = Stream("birds", missing="drop", missing_share=0.5)
    sizes = {}
    for look in ("as-llava", "upright"):
        config = build_config(birds, task, replace(stream, pictures=look))
        build(config, tmp_path / look)
        _, pictures = load_pictures(str(tmp_path / look / "train.parquet"), in_memory=True)
        sizes[look] = pictures["0.jpg"].size(), decoded(pictures["0.jpg"], None).size, digest_of(config)
    assert sizes["as-llava"][:2] == ((40, 20), (40, 20)) and sizes["upright"][:2] == ((20, 40), (20, 40))
    assert sizes["as-llava"][2] != sizes["upright"][2]


def test_the_check_counts_odd_pictures_and_says_what_shows_them_otherwise(birds: Benchmark, tmp_path: Path) -> None:
    turned(tmp_path / "birds" / "0.jpg", 6)
    turned(tmp_path / "birds" / "1.jpg", 3)
    report = check(birds, tmp_path / "birds")
    assert report.odd_pictures == {ROTATED: 2}
    [note] = [note for note in report.notes if "EXIF" in note]
    assert note.startswith("2 of 29 pictures are stored turned") and 'pictures="upright"' in note
    assert {(problem.kind, problem.row) for problem in report.problems} == {
        ("picture", 3),
        ("broken", 4),
        ("broken", 2),
    }


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pictures": "lying"}, "to see pictures; there are: as-llava, upright"),
        ({"missing": "some"}, "take 'refuse', 'drop', or a tuple of ids"),
        ({"missing_share": 0.0}, "missing_share is 0.0"),
        ({"missing_share": 1.5}, "missing_share is 1.5"),
    ],
)
def test_a_stream_says_what_there_is_to_choose(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Stream("birds", **wrong)


def test_a_picture_that_may_not_be_read_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(halves(), tmp_path / "a.png")

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert looked_at(tmp_path, ["a.png"])["a.png"].broken == "cannot be read: Permission denied"
