"""Trees with one random fault: the check names it or the build takes it, and neither ends in a traceback."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lilora.benchmarks import Stream
from lilora.core.stage_run import StageRun
from lilora.data.build import build_config, build_task
from lilora.data.check import check
from lilora.data.readers.description import FILE, read_description

TOML = """home = "made here"
[[tasks]]
name = "Birds"
kind = "{kind}"
scorer = "{scorer}"
train = "train.json"
test = "test.json"
images = "images"
official = {{{official}}}
"""
JUNK: tuple[Any, ...] = (
    None, "", " ", "x" * 300, "../../etc/passwd", "/etc/passwd", "a\0b", "gre\ud800en", "<image>", 0, -1, 17.0, 10**9,
    math.nan, math.inf, True, [], [None], ["00.jpg"], ["00.jpg", "01.jpg"], {}, {"answer": None}, [[]],
    "data:image/png,",
)  # fmt: skip
RATED = {"question_id": 9, "image_id": 9, "question": "?", "answers": ["red"] * 10}
KINDS = (
    ("vqa", "textvqa", "textvqa", {"data": [RATED]}),
    ("option", "scienceqa", "scienceqa", {"9": {"choices": ["red", "blue"], "answer": 0}}),
    ("vqa", "gqa", "gqa", {"9": {"answer": "red", "types": {"structural": "query"}}}),
)


def tree(root: Path, kind: str, scorer: str, role: str, official: Any, rng: random.Random) -> None:
    """A clean tree with one thing changed."""
    (root / "images").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (16, 12), (60 * number, 90, 40)).save(root / "images" / f"{number:02}.jpg")
    said = ({"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": "red"})
    train: Any = [
        {"id": str(n), "image": f"{n:02}.jpg", "conversations": [dict(turn) for turn in said]} for n in range(3)
    ]
    answer = "A" if kind == "option" else "red"
    test: Any = [{"question_id": 9, "image": "03.jpg", "text": "What colour?", "answer": answer}]
    if rng.random() < 0.2:
        break_picture(root / "images" / f"{rng.randrange(4):02}.jpg", rng)
    else:
        spoil(rng.choice((train, test, official)), rng)
    (root / FILE).write_text(TOML.format(kind=kind, scorer=scorer, official=f'{role} = "official.json"'))
    for name, content in (("train", train), ("test", test), ("official", official)):
        (root / f"{name}.json").write_text(json.dumps(content))


def break_picture(path: Path, rng: random.Random) -> None:
    """A picture gone, renamed, empty, cut off, or no picture."""
    whole = path.read_bytes()
    broken = rng.choice((None, b"", b"<html>404</html>", whole[: rng.randrange(1, len(whole))], path.suffix.upper()))
    path.unlink()
    if isinstance(broken, bytes):
        path.write_bytes(broken)
    elif broken:
        path.with_suffix(broken).write_bytes(whole)


def spoil(value: Any, rng: random.Random) -> None:
    """Put junk for a value somewhere below, or take one out."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        if isinstance(value[key], (dict, list)) and value[key] and rng.random() < 0.85:
            value = value[key]
            continue
        if rng.random() < 0.1:
            del value[key]
        else:
            value[key] = rng.choice(JUNK)
        return


@pytest.mark.parametrize("seed", range(150))
def test_what_the_check_passes_the_build_builds_and_what_the_build_refuses_was_named(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(f"fault {seed}")
    kind, scorer, role, official = KINDS[seed % len(KINDS)]
    root = tmp_path / "birds"
    tree(root, kind, scorer, role, json.loads(json.dumps(official)), rng)
    monkeypatch.setenv("LILORA_DATA", str(tmp_path))
    benchmark = read_description(root / FILE, "birds")
    problems = check(benchmark, root).problems
    out = tmp_path / "out"
    out.mkdir()
    config = build_config(benchmark, benchmark.task("Birds"), Stream("birds"))
    try:
        build_task(config, {}, out, StageRun(out))
    except (ValueError, OSError) as error:
        assert problems, f"the build refuses what the check passed: {error}"
    # The reverse may be: a row whose answer is not the official one is built, and named.
