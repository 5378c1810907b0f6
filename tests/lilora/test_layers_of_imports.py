"""lilora is usable alone: it never imports the plumbing, and what a planner reads does not import torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lilora
from lilora import registry

FORBIDDEN = {"ray", "mlflow", "orchestrator", "experiments"}
MODULES = ("values", "stage_run", "registry", "backbone", "benchmark", "method", "training", "stages", "matrix")
PLANNER_MODULES = [*MODULES, *(f"methods.{name}" for name in registry.names("methods"))]


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_lilora_never_imports_the_plumbing() -> None:
    root = Path(lilora.__file__).parent
    offenders = {str(path.relative_to(root)): _imported(path) & FORBIDDEN for path in root.rglob("*.py")}
    assert {path: names for path, names in offenders.items() if names} == {}


def test_what_a_planner_imports_leaves_torch_alone() -> None:
    code = (
        f"import importlib, sys\nfor name in {PLANNER_MODULES!r}: importlib.import_module('lilora.' + name)\n"
        "from lilora import registry\n"
        "for kind in registry.OBJECTS:\n"
        "    for name in registry.names(kind): registry.load(kind, name)\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'ray', 'mlflow') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_worker_under_deepspeed_does_not_load_mlflow_and_may_later() -> None:
    code = (
        "import sys\nfrom lilora.zero import _import_deepspeed\n_import_deepspeed()\n"
        "before = 'mlflow' in sys.modules\nimport mlflow\nprint(before, bool(mlflow.__version__))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False True"
