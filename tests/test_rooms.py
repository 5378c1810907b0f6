"""The rooms of the house: what each may import, how much one holds, and what nobody may do (README, Architecture)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lilora.core import registry

ROOT = Path(__file__).parents[1]
PACKAGES = ("lilora", "orchestrator", "experiments")
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))

#: A room and the rooms that it may import, itself aside; a line that is longer may be written as "the line below and".
#: A new pair is a change of this table, made knowingly, and never upwards.
SCIENCE: dict[str, set[str]] = {}


def _floor(rooms: dict[str, set[str]], name: str, *allowed: str) -> None:
    assert set(allowed) <= rooms.keys(), f"{name} would import upwards: {set(allowed) - rooms.keys()}"
    rooms[name] = set(allowed)


_floor(SCIENCE, "core")
_floor(SCIENCE, "measures")
_floor(SCIENCE, "matrix")
_floor(SCIENCE, "backbones", "core")
_floor(SCIENCE, "scorers", "measures")
_floor(SCIENCE, "benchmarks", "scorers", "measures", "core")
_floor(SCIENCE, "data", "benchmarks", "core")
_floor(SCIENCE, "pretraining", "benchmarks", "backbones", "core")
_floor(SCIENCE, "model", "data", "benchmarks", "backbones", "core")
_floor(SCIENCE, "adapters", "model", "data", "backbones", "core")
_floor(SCIENCE, "methods", "adapters", "model", "data", "backbones")
_floor(SCIENCE, "costs", "methods", "backbones", "core")
_floor(SCIENCE, "training", "costs", "methods", "adapters", "model", "data", "benchmarks", "backbones", "core")
_floor(SCIENCE, "stages", *(SCIENCE.keys() - {"costs", "matrix"}))

#: The plumbing's rooms, and of the science's those that each may import ("lilora.ROOM").
PLUMBING: dict[str, set[str]] = {f"lilora.{name}": set() for name in SCIENCE}
_STUDIES = tuple(f"lilora.{name}" for name in ("core", "backbones", "benchmarks", "data", "methods", "scorers"))
_STUDY = (*_STUDIES, "lilora.training", "lilora.matrix")
_floor(PLUMBING, "errors")
_floor(PLUMBING, "formats")
_floor(PLUMBING, "storage", "errors", "lilora.core")
_floor(PLUMBING, "steps", "storage", "errors", "lilora.core")
_floor(PLUMBING, "study", "steps", *_STUDY)
_floor(PLUMBING, "planning", "study", "steps", "storage", "errors", *_STUDY, "lilora.stages")
_floor(PLUMBING, "cluster", "steps", "storage", "formats", "errors", "lilora.core", "lilora.data")
_floor(PLUMBING, "execution", "cluster", "steps", "storage", "errors", "lilora.core")
_READ = ("planning", "study", "steps", "storage", "errors")
_floor(PLUMBING, "results", *_READ, "lilora.core", "lilora.measures", "lilora.adapters", "lilora.matrix")
_floor(PLUMBING, "resolving", "results", *_READ, *_STUDY, "lilora.stages", "lilora.costs")
_floor(PLUMBING, "report", "resolving", "results", "formats", *_READ, "lilora.matrix")
_floor(PLUMBING, "sweeps", "execution", "resolving", "results", "cluster", *_READ)
_SEEN = ("sweeps", "report", "execution", "resolving", "results", "formats", *_READ)
_floor(PLUMBING, "tracking", *_SEEN, "lilora.matrix")
_floor(PLUMBING, "cli", *PLUMBING.keys())

#: Folders whose files are the choices of a user may hold any number; the two packages' own tops hold the rooms.
CHOICES = {
    "lilora/methods", "lilora/benchmarks", "lilora/backbones", "lilora/scorers", "experiments",
    "experiments/reference", "orchestrator/cli/commands", "lilora", "orchestrator",
}  # fmt: skip
CROWDED, MOST_ENTRIES, MOST_LINES = 14, 10, 300
RIDDLES = ("What", "Who", "Where", "Whether", "Which", "How", "Why")
#: Their classes derive from Ray Tune's, so importing them imports Ray: others do so inside a function alone.
ON_TUNE = {"trial", "suggesting", "tuning"}
HEAVY = {"torch", "transformers", "peft", "deepspeed", "ray", "mlflow"}


def imports(path: Path, top_only: bool = False) -> Iterator[str]:
    """The modules, names behind them included, that a file imports: in functions and for types too, unless `top_only`,
    which is what importing the file imports.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: name the module whole"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def room_of(path: Path) -> str:
    """The room that a file lies in: a folder of its package, or a module on top; "" for the package's own door."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "" if parts[1] == "__init__" else parts[1]


@pytest.mark.parametrize(("package", "rooms"), [("lilora", SCIENCE), ("orchestrator", PLUMBING)])
def test_a_room_imports_only_what_its_line_names(package: str, rooms: dict[str, set[str]]) -> None:
    seen = set()
    for path in files(package):
        room = room_of(path)
        seen.add(room)
        for name in imports(path):
            first, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if first == package and room:
                assert target == room or target in rooms[room], f"{path}: {room} may not import {name}"
            elif first == "lilora":
                assert not room or f"lilora.{target}" in rooms[room], f"{path}: {room} may not import {name}"
            assert first != "experiments", path
            assert package == "orchestrator" or first not in {"orchestrator", "ray", "mlflow"}, path
    assert {name for name in rooms if "." not in name} == seen - {""}


def test_no_file_and_no_room_imports_in_a_circle() -> None:
    """Of files; of rooms there is none, since each may import only what stands before it in the table."""
    modules = {_module(path): path for package in PACKAGES for path in files(package)}
    after = {name: {_known(found, modules) for found in imports(path)} - {None, name} for name, path in modules.items()}
    open_, done = [], set()

    def visit(name: str) -> None:
        if name in done:
            return
        assert name not in open_, f"a circle: {' -> '.join([*open_[open_.index(name) :], name])}"
        open_.append(name)
        for other in sorted(filter(None, after[name])):
            visit(other)
        open_.pop()
        done.add(name)

    for name in modules:
        visit(name)


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _known(name: str, modules: dict[str, Path]) -> str | None:
    return next((found for found in (name, name.rpartition(".")[0]) if found in modules), None)


def test_a_folder_holds_few_things_but_where_they_are_the_choices() -> None:
    for package in PACKAGES:
        for folder in (ROOT / package, *(path for path in (ROOT / package).rglob("*") if path.is_dir())):
            entries = [path for path in folder.iterdir() if path.name not in ("__init__.py", "__pycache__")]
            name = folder.relative_to(ROOT).as_posix()
            if name in CHOICES or any(path.suffix == ".safetensors" for path in entries):
                continue
            assert len(entries) <= MOST_ENTRIES, f"{name}: {sorted(path.name for path in entries)}"
    for package in PACKAGES[:2]:
        entries = [path for path in (ROOT / package).iterdir() if path.name not in ("__init__.py", "__pycache__")]
        assert len(entries) <= CROWDED, package


@pytest.mark.parametrize("package", PACKAGES)
def test_a_file_is_short_and_its_first_line_is_a_noun_that_says_what_it_is(package: str) -> None:
    for path in files(package):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= MOST_LINES, path
        said = (ast.get_docstring(ast.parse(text)) or "").split(maxsplit=1)
        assert said and said[0] not in RIDDLES, f"{path}: {said[:1]}"


def test_the_plumbing_imports_no_torch_before_a_worker_needs_it() -> None:
    for path in files("orchestrator"):
        on_tune = room_of(path) == "sweeps" and path.stem in ON_TUNE
        top = {name.partition(".")[0] for name in imports(path, top_only=True)}
        assert not (HEAVY - {"ray"} if on_tune else HEAVY) & top, path
        if not on_tune:
            ours = {tuple(name.split(".")[1:3]) for name in imports(path, top_only=True)}
            assert not {("sweeps", name) for name in ON_TUNE} & ours, path


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_a_value_of_at_most_60_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
    assert not (HEAVY - {"peft", "deepspeed"}) & {name.partition(".")[0] for name in imports(path)}


def _said(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return result.stderr.strip().splitlines()[-1]


def test_help_starts_without_torch_ray_and_mlflow() -> None:
    assert (
        _said(
            "import sys; sys.argv = ['lilora', '--help']\n"
            "from orchestrator.cli import main\n"
            "try:\n    main()\nexcept SystemExit:\n    pass\n"
            "print(sorted({'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)), file=sys.stderr)"
        )
        == "[]"
    )


def test_the_doors_of_the_rooms_that_a_planner_enters_leave_torch_alone() -> None:
    doors = [f"lilora.{name}" for name in ("core", "backbones", "benchmarks", "methods", "scorers", "training")]
    modules = [*doors, "lilora.stages", "lilora.matrix", "orchestrator.study", "orchestrator.planning.lowering"]
    assert (
        _said(
            f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
            "from lilora import load, names\n"
            f"for kind in {list(registry.OBJECTS)!r}:\n    for name in names(kind): load(kind, name)\n"
            "print(sorted({'torch', 'transformers', 'peft', 'ray', 'mlflow'} & set(sys.modules)), file=sys.stderr)"
        )
        == "[]"
    )


@pytest.mark.slow
def test_a_worker_under_deepspeed_does_not_load_mlflow_and_may_later() -> None:
    assert (
        _said(
            "import sys\nfrom lilora.training.zero import _import_deepspeed\n_import_deepspeed()\n"
            "before = 'mlflow' in sys.modules\nimport mlflow\nprint(before, bool(mlflow.__version__), file=sys.stderr)"
        )
        == "False True"
    )


def test_no_remote_code_and_no_pickle_on_disk() -> None:
    for path in (path for package in PACKAGES for path in files(package)):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        for call in calls:
            text, name = ast.unparse(call), ast.unparse(call.func)
            assert name not in ("pickle.load", "pickle.dump", "joblib.load"), f"{path}: {text}"
            assert name != "torch.load" or "weights_only=True" in text, f"{path}: {text}"
            assert not any(word.arg == "trust_remote_code" for word in call.keywords), f"{path}: {text}"
