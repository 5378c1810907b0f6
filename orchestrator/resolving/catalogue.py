"""The catalogue of studies by name: files in ./experiments, in the package `experiments`, or `path.py:function`.

The file has a function called like the file, or `study`, that takes no arguments and returns a Study (or a Step, or
several, for work without trials such as pre-training a backbone). This package never imports `experiments` by name:
what a study is comes from outside.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator.errors import UserError
from orchestrator.planning.lowering import Lowered
from orchestrator.resolving.resolve import Resolved, resolve
from orchestrator.results.reading import ResultReader
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store
from orchestrator.study import Study

PACKAGE = "experiments"
REMEDY = "name a file of experiments/, or give path.py:function"


@dataclass(frozen=True)
class Target:
    """What a command works on: a study, or steps.

    Attributes:
        name: the study's, or the file's.
        asked: the study as its file gives it; None for steps without trials.
        steps: the steps asked for where there is no study.
        file: that gives it, from the working directory on where it lies there.
    """

    name: str
    asked: Study | None
    steps: tuple[Step, ...] = ()
    file: str = ""

    @property
    def has_trials(self) -> bool:
        """Whether there is a table to make."""
        return self.asked is not None

    @property
    def plan(self) -> Plan:
        """Every step needed, where no search is finished; see `plan_in`."""
        return self.plan_in(None)

    def plan_in(self, store: Store | None) -> Plan:
        """Every step needed, with what the searches in `store` chose."""
        return resolve(self.asked, store).plan if self.asked else Plan.of(self.steps)

    def resolve(self, store: Store | None, reader: ResultReader | None = None) -> Resolved:
        """The study's search and table as steps, with what is in `store`; what `reader` has read is not read again.

        Raises:
            UserError: it has steps without trials, so there is no table to make.
            ValueError, TypeError: the study itself is wrong (see `orchestrator.planning.checks.check`).
        """
        if self.asked is None:
            raise UserError(f"'{self.name}' has steps and no trials, so there is no table: `lilora run {self.name}` it")
        return resolve(self.asked, store, reader)

    def study(self, store: Store | None = None, reader: ResultReader | None = None) -> Lowered:
        """The table's study as steps.

        Raises:
            UserError: there is none, or its search is not finished in `store`.
        """
        return self.resolve(store, reader).known_table()


def folders() -> list[Path]:
    """The folders that studies are looked for in: ./experiments, then the installed package."""
    spec = importlib.util.find_spec(PACKAGE)
    installed = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    candidates = [Path.cwd() / PACKAGE, *installed]
    found: list[Path] = []
    for folder in candidates:
        if folder.is_dir() and not any(folder.samefile(other) for other in found):
            found.append(folder)
    return found


def studies() -> list[str]:
    """Names of all files that may hold a study."""
    return sorted({path.stem for folder in folders() for path in folder.glob("*.py") if path.stem[0] not in "_."})


def is_no_study(error: Exception) -> bool:
    """Whether `find_target` says of a file of experiments/ that it has other things in it: helpers, manifests."""
    return isinstance(error, UserError) and " has no function " in str(error)


def find_target(name: str) -> Target:
    """The study (or steps) called `name`; whether the study itself can run is checked where it is resolved.

    Raises:
        UserError: there is no such file or function, or it returns something else; the message lists the choices.
    """
    path_text, _, function_name = name.partition(":")
    if path_text.endswith(".py"):
        path = Path(path_text)
        if not path.is_file():
            raise UserError(f"there is no file {path}; {REMEDY}")
    else:
        path = _file_of(path_text)
    function = _function(_import(path), path, function_name)
    try:
        value = function()
    except TypeError as error:
        if "required positional argument" in str(error):
            raise UserError(f"{path}:{function.__name__} needs arguments; give each of them a default") from error
        raise
    target = _target(value, function_name or path.stem, f"{path}:{function.__name__}")
    return replace(target, file=_shown(path))


def _shown(path: Path) -> str:
    """The file as people call it: no path of the machine."""
    path = path.resolve()
    if path.is_relative_to(Path.cwd().resolve()):
        return str(path.relative_to(Path.cwd().resolve()))
    return f"{path.parent.name}/{path.name}"


def _file_of(name: str) -> Path:
    for folder in folders():
        path = folder / f"{name}.py"
        if path.is_file() and name.isidentifier():
            return path
    choices = studies()
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = ", ".join(choices) if choices else "none here"
    raise UserError(f"no study '{name}'.{hint} There are: {listed}; {REMEDY}")


def _import(path: Path) -> ModuleType:
    """The module of `path`: of the package `experiments` where it lies there, else a top-level one.

    Its folder joins the import path, so that a worker process, which gets a copy of that path, finds it as well.
    """
    path = path.resolve()
    spec = importlib.util.find_spec(PACKAGE)
    places = [Path(place).resolve() for place in (spec.submodule_search_locations or ())] if spec else []
    if path.parent in places:
        return importlib.import_module(f"{PACKAGE}.{path.stem}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    found = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
    if found is None or found.origin is None or Path(found.origin).resolve() != path:
        raise UserError(
            f"{path} cannot be imported as '{path.stem}', which is taken or no name for a module: rename it"
        )
    return importlib.import_module(path.stem)


def _function(module: ModuleType, path: Path, name: str) -> Callable[[], Any]:
    wanted = (name,) if name else (path.stem, "study")
    for candidate in wanted:
        function = getattr(module, candidate, None)
        if callable(function):
            return function
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__ and not key.startswith("_")
    ]
    has = f"it has: {', '.join(sorted(own))}" if own else "it has none"
    raise UserError(f"{path} has no function {' or '.join(wanted)} that returns a study; {has}")


def _target(value: Any, name: str, where: str) -> Target:
    if isinstance(value, Study):
        return Target(value.name, value)
    if isinstance(value, Step):
        return Target(name, None, (value,))
    if isinstance(value, Sequence) and value and all(isinstance(item, Step) for item in value):
        return Target(name, None, tuple(value))
    raise UserError(f"{where} returns a {type(value).__name__}; return a Study from orchestrator.study (or steps)")
