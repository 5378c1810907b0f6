"""`lilora params`: the parameters that a method trains and stores on a backbone, counted without weights.

Where a paper has figures of the same setting (`reference/parameters.csv` in experiments/), they stand beside ours.
"""

from __future__ import annotations

import csv
import dataclasses
import json as json_module
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.cli.options import AsJson
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from lilora.backbones import Backbone
    from lilora.costs.parameters import Account
    from lilora.methods import Method

#: In a folder of studies; a line a setting, so that no method is named here.
PUBLISHED = "reference/parameters.csv"


@dataclasses.dataclass(frozen=True)
class Published:
    """A paper's numbers for one setting, and what is to be said of them; None where it has none.

    Attributes:
        per_task_mb, total_mb: MiB at 2 bytes a parameter.
        trainable_millions: parameters that a later stage trains.
    """

    source: str
    per_task_mb: float | None
    total_mb: float | None
    trainable_millions: float | None
    note: str


def params(
    backbone: Annotated[str, typer.Option(metavar="NAME", help="A file of lilora/backbones; '-' and '.' may be '_'.")],
    method: Annotated[str, typer.Option(metavar="NAME", help="A file of lilora/methods.")],
    rank: Annotated[int | None, typer.Option(metavar="R", min=1, help="r; by default the method's.")] = None,
    task_rank: Annotated[
        int | None, typer.Option(metavar="S", min=1, help="r~, below r; by default the method's, r // 2.")
    ] = None,
    tasks: Annotated[int, typer.Option(metavar="N", min=1, help="Tasks learned, for the total.")] = 6,
    sites: Annotated[
        str | None,
        typer.Option(metavar="SET", help="Other layers: all-linear (CoIN's), ffn, attention, gate+up, ffn+projector."),
    ] = None,
    projector: Annotated[
        Literal["adapted", "full", "frozen"] | None,
        typer.Option(
            help="With --sites: the projector adapted, trained in full (CoIN's) or frozen, which is the default."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Another field of the method, as --set decompose_b=false."),
    ] = None,
    json: AsJson = False,
) -> None:
    """What a method trains and stores on a backbone: parameters and MiB, counted without weights.

    Example: lilora params --backbone llava-1.5-7b --method lilora --rank 128 --task-rank 64 --tasks 6
    """
    from lilora.costs.parameters import account, num_full

    output = Output(json)
    chosen, notes = make_method(method, rank, task_rank, set_ or [])
    model_of = _backbone(backbone, sites, projector)
    with output.quiet():
        model = model_of.meta_model()
        counted, full = account(chosen, model_of.find_sites(model), tasks), num_full(model_of, model)
    size = sum(parameter.numel() for parameter in model.parameters())
    paper = published(model_of, chosen, tasks)
    notes += [*_rehearsed(chosen), *([f"Paper: {paper.source}. {paper.note}"] if paper else [])]
    output.say(
        f"{model_of.name}: {size:,} parameters, {counted.modules} linear layers adapted; "
        f"{_title(chosen)}; {tasks} task{'s' if tasks > 1 else ''}"
    )
    output.table(_table(counted, full, paper))
    for note in notes:
        output.say(escape(note))
    output.finish(_answer(model_of, size, chosen, counted, full, paper, notes))


def _backbone(name: str, sites: str | None, projector: Literal["adapted", "full", "frozen"] | None) -> Backbone:
    from lilora.core import registry

    backbone: Backbone = registry.load("backbones", name)
    if sites is None:
        if projector is not None:
            raise UserError(
                f"--projector {projector} needs --sites: say which layers of the language model are adapted"
            )
        return backbone
    if sites == "ffn+projector" and projector not in (None, "adapted"):
        raise UserError(f"--sites ffn+projector adapts the projector, so it is not {projector}: take --sites ffn")
    return backbone.adapted(sites, projector or "frozen")


def make_method(
    name: str, rank: int | None, task_rank: int | None, settings: Sequence[str]
) -> tuple[Method, list[str]]:
    """The method with these fields, and what to say of options that it has no use for.

    Args:
        settings: further fields as FIELD=VALUE, the value as in JSON or bare text.

    Raises:
        ValueError: there is no such method or field, or the method refuses a value; the message lists the choices.
    """
    from lilora.core import registry

    kind: type[Method] = registry.load("methods", name)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    notes = []
    for option, value in (("rank", rank), ("task_rank", task_rank)):
        if value is not None and option in fields:
            values[option] = value
        elif value is not None:
            notes.append(f"{name} has no {option}, so --{option.replace('_', '-')} {value} changes nothing.")
    if task_rank is not None and "rank" in fields:
        whole: Any = fields["rank"].default if rank is None else rank
        if task_rank >= whole:
            raise UserError(f"--task-rank is {task_rank} and the rank is {whole}: r~ must be below r")
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals or field not in fields:
            known = ", ".join(fields) or "none"
            raise UserError(f"--set {setting}: give FIELD=VALUE with one of {name}'s fields: {known}")
        if field in values:
            raise UserError(f"--set {setting}: {field} is given already; give it once")
        values[field] = _value(fields[field], text)
    return kind(**values), notes


def _value(field: dataclasses.Field[Any], text: str) -> Any:
    """`text` as JSON where it is, else as it stands; of a type that the field's annotation names."""
    try:
        value = json_module.loads(text)
    except ValueError:
        value = text
    value = tuple(value) if isinstance(value, list) else value
    annotation = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
    names = {part.strip() for part in annotation.split("|")}
    plain = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "None": (type(None),)}
    # Other annotations (a Literal, an alias) stand for texts, which the method itself checks.
    allowed = {kind for part in names for kind in plain.get(part.partition("[")[0], (str, tuple))}
    if type(value) not in allowed:
        raise UserError(f"--set {field.name}={text}: the field is of type {annotation}")
    return value


def published(backbone: Backbone, method: Method, num_tasks: int) -> Published | None:
    """What a paper says of this setting; None where none does, or the file of such figures is not there.

    A line is of this setting if it names the backbone, its adapted layers (a set of sites: the projector may be trained
    in full beside), the number of tasks, the method, and fields that the method has.
    """
    from orchestrator.resolving import catalogue
    from orchestrator.study.naming import method_name

    setting = (backbone.name, str(num_tasks), method_name(method))
    for path in (folder / PUBLISHED for folder in catalogue.folders()):
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                for line in csv.DictReader(file):
                    same = (line["backbone"], line["tasks"], line["method"]) == setting
                    same = same and backbone.adapted(line["sites"]).sites == backbone.sites
                    if same and all(_has(method, field) for field in line["fields"].split()):
                        columns = ("per_task_mb", "total_mb", "trainable_millions")
                        figures = {name: float(line[name]) if line[name] else None for name in columns}
                        return Published(source=line["source"], note=line["note"], **figures)
    return None


def _has(method: Method, setting: str) -> bool:
    field, _, text = setting.partition("=")
    return bool(getattr(method, field) == json_module.loads(text))


def _rehearsed(method: Method) -> list[str]:
    rehearsal = method.rehearsal()
    if rehearsal is None:
        return []
    return [f"It also keeps {rehearsal.size} training rows of each earlier task, which are no parameters."]


def _title(method: Method) -> str:
    """The method's name and ranks."""
    from orchestrator.study.naming import method_name

    ranks = [("r", getattr(method, "rank", None))]
    if getattr(method, "decompose_b", True):
        ranks.append(("r~", getattr(method, "inner_rank", None)))
    said = [f"{name} {value}" for name, value in ranks if value is not None]
    changed = [
        f"{field.name} {getattr(method, field.name)}"
        for field in dataclasses.fields(method)
        if field.name not in ("rank", "task_rank") and getattr(method, field.name) != field.default
    ]
    return ", ".join([method_name(method), *said, *changed])


def _table(counted: Account, full: int, paper: Published | None) -> Table:
    from lilora.costs.parameters import mebibytes

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("", no_wrap=True)
    for column in ("parameters", "MiB at 2 bytes", *(("paper",) if paper else ())):
        grid.add_column(column, justify="right", no_wrap=True)
    said = {
        "trainable_later": paper and paper.trainable_millions and f"{paper.trainable_millions:,.0f} million",
        "per_task": paper and paper.per_task_mb and f"{paper.per_task_mb:,.1f} MB",
        "total": paper and paper.total_mb and f"{paper.total_mb:,.1f} MB",
    }
    rows = {
        "trainable": ("trainable, first stage", counted.trainable),
        "trainable_later": ("trainable, later stages", counted.trainable_later),
        "per_task": ("stored per task (EP)", counted.per_task),
        "shared": ("stored once, shared", counted.shared),
        "total": (f"stored after {counted.num_tasks} (TP)", counted.total),
    }
    if full:
        rows["full"] = ("projector in full, beside", full)
    if counted.memory:
        rows["memory"] = ("memory to learn, not to answer", counted.memory)
    for name, (label, number) in rows.items():
        cells = (said.get(name) or "",) if paper else ()
        grid.add_row(label, f"{number:,}", f"{mebibytes(number):,.2f}", *cells)
    return grid


def _answer(
    backbone: Backbone,
    size: int,
    method: Method,
    counted: Account,
    full: int,
    paper: Published | None,
    notes: list[str],
) -> dict[str, Any]:
    from lilora.costs.parameters import mebibytes
    from orchestrator.study.naming import method_name

    numbers = dataclasses.asdict(counted)
    return {
        "backbone": backbone.name,
        "backbone_parameters": size,
        "method": method_name(method),
        "fields": dataclasses.asdict(method),
        "tasks": numbers.pop("num_tasks"),
        "full": full,
        **numbers,
        **{f"{name}_mib": mebibytes(number) for name, number in numbers.items() if name != "modules"},
        "paper": paper and {key: value for key, value in dataclasses.asdict(paper).items() if key != "note"},
        "notes": notes,
    }
