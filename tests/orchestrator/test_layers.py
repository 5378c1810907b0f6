"""What each layer may import, how long an experiment may be, and what nobody may do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))


def imported(path: Path, top_only: bool = False) -> Iterator[str]:
    """First names of the modules that a file imports; `top_only`: when it is imported itself."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


#: Their classes derive from Ray Tune's, so importing them imports Ray: others do so inside a function alone.
ON_TUNE = {"following", "suggesting", "tuning"}
HEAVY = {"torch", "transformers", "peft", "deepspeed", "ray", "mlflow"}


def test_the_plumbing_never_imports_experiments_and_no_torch_before_a_worker_needs_it() -> None:
    for path in sorted((ROOT / "orchestrator").rglob("*.py")):
        assert "experiments" not in set(imported(path)), path
        heavy = HEAVY - {"ray"} if path.stem in ON_TUNE else HEAVY
        assert not heavy & set(imported(path, True)), path
        if path.stem not in ON_TUNE:
            names = {".".join(name.split(".")[:2]) for name in plumbing_imported(path, top_only=True)}
            assert not {f"sweeps.{name}" for name in ON_TUNE} & names, path


#: What a part of the plumbing may import of the rest, beside itself.
MAY_IMPORT = {"storage": {"errors"}, "execution": {"errors", "plan", "step", "storage"}}
#: Beside the commands, who knows of steps at work; the rest says what is wanted, and reads what is there.
AT_WORK = {"cli", "doctor", "progress", "tracking"}


def plumbing_imported(path: Path, top_only: bool = False) -> set[str]:
    """The modules of the plumbing that a file imports when it runs, or `top_only` when it is imported itself; with the
    names that it takes from them, which may be modules too.
    """
    tree = ast.parse(path.read_text())
    ifs = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for_types = {id(item) for node in ifs for item in ast.walk(node)}
    found: set[str] = set()
    for node in tree.body if top_only else ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: name the module whole"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.partition(".")[2] for name in found if name.startswith("orchestrator.")}


def parts_imported(path: Path) -> set[str]:
    """The parts of the plumbing, folders or modules, that a file imports when it runs."""
    return {name.partition(".")[0] for name in plumbing_imported(path)}


def test_each_part_of_the_plumbing_knows_only_what_is_below_it() -> None:
    plumbing = ROOT / "orchestrator"
    commands = {path.stem for path in plumbing.glob("cli*.py")} | {"commands"}
    for part, allowed in MAY_IMPORT.items():
        paths = sorted((plumbing / part).glob("*.py"))
        assert len(paths) > 10
        for path in paths:
            assert parts_imported(path) <= {part, *allowed}, path
    for path in sorted((plumbing / "sweeps").glob("*.py")):
        assert not parts_imported(path) & {*commands, "report", "tracking", "mlflow_writer", "progress"}, path
    above = [path for path in plumbing.glob("*.py") if path.stem not in AT_WORK]
    assert len(above) > 20
    for path in sorted([*above, *(plumbing / "report").glob("*.py")]):
        assert not parts_imported(path) & {"execution", "sweeps"}, path


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_a_value_of_at_most_60_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60
    assert not {"ray", "mlflow", "torch", "transformers"} & set(imported(path))


def test_help_starts_without_torch_ray_and_mlflow() -> None:
    code = (
        "import sys; sys.argv = ['lilora', '--help']\n"
        "from orchestrator.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stderr.strip().splitlines()[-1] == "[]"


def test_no_remote_code_and_no_pickle_on_disk() -> None:
    for folder in ("lilora", "orchestrator", "experiments"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            for call in calls:
                text = ast.unparse(call)
                name = ast.unparse(call.func)
                assert name not in ("pickle.load", "pickle.dump", "joblib.load"), f"{path}: {text}"
                assert name != "torch.load" or "weights_only=True" in text, f"{path}: {text}"
                assert not any(word.arg == "trust_remote_code" for word in call.keywords), f"{path}: {text}"
