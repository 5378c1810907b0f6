"""The time of `lilora check-data` and of reading into Parquet, for 165,000 rows, the largest of CoIN's training files.

A made-up OCRVQA of CoIN's layout: 165,000 training and 100,000 test rows, a picture each (one picture, linked under
every name). Run with `OMP_NUM_THREADS=1 python benchmarks/check_data.py`; it prints seconds by the clock and of CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from lilora.benchmarks import Stream
from lilora.core.stage_run import StageRun
from lilora.data.build import build_config, build_task
from lilora.data.check import check
from lilora.data.location import find_benchmark

TRAIN, TEST = 165_000, 100_000
#: A file system allows a file only so many names (ext4: 65,000).
LINKS = 50_000
TEMPLATE = "Answer the question using a single word or phrase."


def make(root: Path) -> None:
    images = root / "cl_dataset" / "OCR-VQA" / "images"
    images.mkdir(parents=True)
    for index in range(TRAIN + TEST):
        first = index - index % LINKS
        if index == first:
            Image.new("RGB", (64, 64), "navy").save(images / f"{index}.jpg")
        else:
            os.link(images / f"{first}.jpg", images / f"{index}.jpg")
    asked = f"Who is the author of this book?\n{TEMPLATE}"
    train = [
        {
            "id": str(index),
            "image": f"OCR-VQA/images/{index}.jpg",
            "conversations": [
                {"from": "human", "value": f"<image>\n{asked}"},
                {"from": "gpt", "value": f"Author {index % 9973} of many books"},
            ],
        }
        for index in range(TRAIN)
    ]
    test = [
        {
            "question_id": index,
            "image": f"OCR-VQA/images/{index}.jpg",
            "text": asked,
            "answer": f"Author {index % 9973}",
        }
        for index in range(TRAIN, TRAIN + TEST)
    ]
    folder = root / "Instructions_Original" / "OCRVQA"
    folder.mkdir(parents=True)
    (folder / "train.json").write_text(json.dumps(train))
    (folder / "test.json").write_text(json.dumps(test))


def timed(what: str, function: Callable[[], Any]) -> Any:
    clock, cpu = time.perf_counter(), time.process_time()
    result = function()
    print(f"{what}: {time.perf_counter() - clock:.1f} s, {time.process_time() - cpu:.1f} s of CPU")
    return result


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "data" / "coin"
        os.environ |= {"LILORA_DATA": str(root.parent), "XDG_CACHE_HOME": scratch}
        timed("making the files", lambda: make(root))
        benchmark = find_benchmark("coin")
        task, stream = benchmark.task("OCRVQA"), Stream("coin", ("OCRVQA",), "original")
        report = timed("check-data", lambda: check(benchmark, root, tasks=("OCRVQA",)))
        print(f"  {sum(file.rows or 0 for file in report.files):,} rows, problems: {dict(report.counts) or 'none'}")
        config = timed("planning, files known", lambda: build_config(benchmark, task, stream))
        out = Path(scratch) / "artifact"
        out.mkdir()
        said = timed("reading into Parquet", lambda: build_task(config, {}, out, StageRun(out)))
        sizes = {path.name: f"{path.stat().st_size / 2**20:.1f} MiB" for path in sorted(out.glob("*.parquet"))}
        print(f"  rows {said['rows']}, {sizes}")


if __name__ == "__main__":
    main()
