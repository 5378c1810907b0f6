"""A package of somebody else's adds a method and a benchmark by entry points, and a study runs with both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.storage.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(460)]

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "shortlora"
version = "1.0"

[project.entry-points."lilora.methods"]
shortlora = "shortlora:ShortLoRA"

[project.entry-points."lilora.benchmarks"]
squares = "shortlora.squares:BENCHMARK"

[tool.setuptools]
packages = ["shortlora"]
"""

METHOD = '''
"""ShortLoRA: SeqLoRA that pays for the length of B."""
from dataclasses import dataclass

from lilora.methods.seqlora import SeqLoRA


@dataclass(frozen=True)
class ShortLoRA(SeqLoRA):
    """Loss: token loss + weight * sum over sites of ||B||_F^2."""

    weight: float = 0.5

    def penalty(self, adapters):
        return self.weight * sum(t.square().sum() for name, t in adapters.tensors.items() if name.endswith(".B"))

    def notes(self, adapters):
        return {"weight": self.weight}
'''

BENCHMARK = '''
"""Squares of one colour: 24 rows a task."""
import io

from lilora.benchmarks import Benchmark, Task

COLOURS = {"red": (220, 30, 30), "blue": (40, 40, 220)}
BENCHMARK = Benchmark(
    "squares",
    1,
    (Task("Colour", "vqa", "short_answer", 3, 16, 4, 4), Task("Caption", "caption", "caption", 3, 16, 4, 4)),
    builder="shortlora.squares:rows",
)


def rows(task, instructions, split):
    from PIL import Image

    for index in range({"train": task.train, "validation": task.validation, "test": task.test}[split]):
        colour = list(COLOURS)[index % 2]
        encoded = io.BytesIO()
        Image.new("RGB", (40, 40), COLOURS[colour]).save(encoded, "PNG")
        yield {
            "id": f"{split}-{index}",
            "image": {"bytes": encoded.getvalue(), "path": None},
            "instruction": f"{task.name}?",
            "answer": colour,
            "references": [colour],
            "type": "",
        }
'''

STUDY = """
from lilora import load
from lilora.benchmarks import Stream
from lilora.methods.seqlora import SeqLoRA
from lilora.training import Training
from orchestrator.study import Study, Trial

ShortLoRA = load("methods", "shortlora")


def study():
    backbone, training = load("backbones", "tiny_llava"), Training(batch_size=4, max_steps=2)
    methods = (SeqLoRA(rank=2), ShortLoRA(rank=2))
    return Study("outside", tuple(Trial(method, backbone, Stream("squares"), training) for method in methods))
"""


@pytest.fixture(name="installed")
def _installed(tmp_path: Path) -> Path:
    """The folder that the package was installed to."""
    source, target = tmp_path / "source", tmp_path / "site"
    (source / "shortlora").mkdir(parents=True)
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "shortlora" / "__init__.py").write_text(METHOD)
    (source / "shortlora" / "squares.py").write_text(BENCHMARK)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", target, source], check=True, timeout=120)
    return target


def lilora_(*arguments: str, cwd: Path, **environment: str) -> dict[str, Any]:
    """What a `lilora` command in a process of its own says with --json; it fails if a process of it stays."""
    mark = uuid.uuid4().hex
    answer = subprocess.run(
        [sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments, "--json"],
        env={**os.environ, **environment, "LILORA_TEST_MARK": mark},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert_no_process_with(mark)
    return json.loads(answer.stdout.splitlines()[-1])


def assert_no_process_with(mark: str, seconds: float = 15) -> None:
    """Wait until no process has `mark` in its environment."""
    deadline = time.monotonic() + seconds
    while alive := [process for process in psutil.process_iter() if _has(process, mark)]:
        assert time.monotonic() < deadline, f"these stayed: {alive}"
        time.sleep(0.5)


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("LILORA_TEST_MARK") == mark
    except psutil.Error:
        return False


def test_a_study_runs_with_a_method_and_a_benchmark_of_an_installed_package(tmp_path: Path, installed: Path) -> None:
    (tmp_path / "path.py").write_text(STUDY)
    store = tmp_path / "store"
    command = ("path.py:study", "--store", str(store))
    answer = lilora_("run", *command, "--tracking", "none", "--slots", "1", cwd=tmp_path, PYTHONPATH=str(installed))
    assert answer["failed"] == 0 and answer["run"] == answer["distinct"]
    assert [trial["method"] for trial in answer["trials"]] == ["seqlora", "shortlora"]
    for trial in answer["trials"]:
        assert trial["order"] == ["Colour", "Caption"]
        assert trial["missing"] == 0
        assert 0 <= trial["AP"] <= 100
    theirs, ours = penalties(Store(store), "shortlora"), penalties(Store(store), "seqlora")
    assert all(values[-1] > 0 for values in theirs), "the package's penalty did not join the loss"
    assert not any(value for values in ours for value in values)


def penalties(store: Store, trial: str) -> list[list[float]]:
    """Penalties of each step, for both stages of a trial."""
    records = [store.record(digest) for digest in store.digests()]
    stages = [record for record in records if record.label.startswith(f"train {trial} ")]
    assert len(stages) == 2
    histories = [json.loads((store.path(record.digest) / "history.json").read_text()) for record in stages]
    return [[row["penalty"] for row in history] for history in histories]
