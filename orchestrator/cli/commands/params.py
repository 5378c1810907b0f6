"""`lilora params`: what a method trains and stores on a backbone, counted without weights.

Where the paper (LiLoRA, Table 2) has a figure for the same setting, it stands beside ours.
"""

from __future__ import annotations

import dataclasses
import json as json_module
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.cli.options import AsJson
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from lilora.backbones import Backbone
    from lilora.costs.parameters import Account
    from lilora.methods import Method, Sites
    from orchestrator.study.paper import PaperRow

SOURCE, TABLE2 = "LiLoRA, Table 2", "lilora_table2_components.csv"
#: Its columns: parameters a task (EP) and in all (TP).
EP, TP = "EP_MB", "TP_MB"
#: Where Table 2 was measured: backbone, tasks, r, r~ (the paper, Implementation Details).
TABLE2_BACKBONE, TABLE2_TASKS, TABLE2_RANK, TABLE2_TASK_RANK = "llava-1.5-7b", 6, 128, 64


def params(
    backbone: Annotated[str, typer.Option(metavar="NAME", help="A file of lilora/backbones; '-' and '.' may be '_'.")],
    method: Annotated[str, typer.Option(metavar="NAME", help="A file of lilora/methods.")],
    rank: Annotated[int | None, typer.Option(metavar="R", min=1, help="r; by default the method's.")] = None,
    task_rank: Annotated[
        int | None, typer.Option(metavar="S", min=1, help="r~, below r; by default the method's, r // 2.")
    ] = None,
    tasks: Annotated[int, typer.Option(metavar="N", min=1, help="Tasks learned, for the total.")] = 6,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Another field of the method, as --set decompose_b=false."),
    ] = None,
    json: AsJson = False,
) -> None:
    """What a method trains and stores on a backbone: parameters and MiB, counted without weights.

    Example: lilora params --backbone llava-1.5-7b --method lilora --rank 128 --task-rank 64 --tasks 6
    """
    from lilora.core import registry
    from lilora.costs.parameters import account

    output = Output(json)
    chosen, notes = make_method(method, rank, task_rank, set_ or [])
    model_of: Backbone = registry.load("backbones", backbone)
    with output.quiet():
        model = model_of.meta_model()
        sites = model_of.find_sites(model)
    size = sum(parameter.numel() for parameter in model.parameters())
    counted = account(chosen, sites, tasks)
    paper = published(model_of, chosen, tasks)
    notes += [*_rehearsed(chosen), *_about(chosen, sites, paper)]
    output.say(
        f"{model_of.name}: {size:,} parameters, {counted.modules} linear layers adapted; "
        f"{_title(chosen)}; {tasks} task{'s' if tasks > 1 else ''}"
    )
    output.table(_table(counted, paper))
    for note in notes:
        output.say(note)
    output.finish(_answer(model_of, size, chosen, counted, paper, notes))


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


def published(backbone: Backbone, method: Method, num_tasks: int) -> PaperRow | None:
    """Table 2's row of this setting; None where it has none, or the table is not installed."""
    from orchestrator.resolving import catalogue
    from orchestrator.study.naming import method_name
    from orchestrator.study.paper import read_rows

    fields = dataclasses.asdict(method)
    if (backbone.name, num_tasks, fields.get("rank")) != (TABLE2_BACKBONE, TABLE2_TASKS, TABLE2_RANK):
        return None
    match method_name(method), fields.get("share_a"), fields.get("decompose_b"):
        case ("dirlora", _, _) | ("lilora", False, False):
            components = (False, False, False)
        case "lilora", True, False:
            components = (True, False, False)
        case "lilora", True, True if getattr(method, "inner_rank", None) == TABLE2_TASK_RANK:
            components = (True, True, fields["basis"] == "regularised" and fields["lam"] > 0)
        case _:
            return None
    wanted = {name: str(int(on)) for name, on in zip(("share_A", "decompose_B", "L_reg"), components, strict=True)}
    for path in (folder / "reference" / TABLE2 for folder in catalogue.folders()):
        if path.is_file():
            return read_rows(path, [(SOURCE, wanted)])[0]
    return None


def _rehearsed(method: Method) -> list[str]:
    rehearsal = method.rehearsal()
    if rehearsal is None:
        return []
    return [f"It also keeps {rehearsal.size} training rows of each earlier task, which are no parameters."]


def _about(method: Method, sites: Sites, paper: PaperRow | None) -> list[str]:
    """Why the paper's figures are not ours."""
    if paper is None:
        return []
    from lilora.costs.parameters import mebibytes

    source = f"Paper: {SOURCE}; its MB are MiB."
    fields = dataclasses.asdict(method)
    if not fields.get("share_a") or fields["decompose_b"]:
        return [
            f"{source} Its totals are 0.02 to 0.07 % above the count: some 350 bytes a tensor in all its rows but that "
            "of share-A alone, about what names and headers add to a file (our reading, the paper does not say)."
        ]
    rank = fields["rank"]
    a, b = (mebibytes(rank * sum(shape[axis] for shape in sites.values())) for axis in (1, 0))
    return [
        f"{source} Its {paper.get(EP)} is half of DirLoRA's 357.3, and its {paper.get(TP)} is seven such halves, one A "
        f"and six B, as if A and B were of one size. They are not: over these {len(sites)} layers A (r k) takes "
        f"{a:.2f} MiB and B (r d) {b:.2f}, so a task stores {b:.2f}."
    ]


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


def _table(counted: Account, paper: PaperRow | None) -> Table:
    from lilora.costs.parameters import mebibytes

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("", no_wrap=True)
    for column in ("parameters", "MiB at 2 bytes", *(("paper, MB",) if paper else ())):
        grid.add_column(column, justify="right", no_wrap=True)
    rows: list[tuple[str, int, float | None]] = [
        ("trainable, first stage", counted.trainable, None),
        ("trainable, later stages", counted.trainable_later, None),
        ("stored per task (EP)", counted.per_task, paper.get(EP) if paper else None),
        ("stored once, shared", counted.shared, None),
        (f"stored after {counted.num_tasks} (TP)", counted.total, paper.get(TP) if paper else None),
    ]
    if counted.memory:
        rows.append(("memory to learn, not to answer", counted.memory, None))
    for label, number, figure in rows:
        cells = (f"{figure:,.1f}" if figure else "",) if paper else ()
        grid.add_row(label, f"{number:,}", f"{mebibytes(number):,.2f}", *cells)
    return grid


def _answer(
    backbone: Backbone, size: int, method: Method, counted: Account, paper: PaperRow | None, notes: list[str]
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
        **numbers,
        **{f"{name}_mib": mebibytes(number) for name, number in numbers.items() if name != "modules"},
        "paper": paper and {"source": SOURCE, "per_task_mb": paper.get(EP), "total_mb": paper.get(TP)},
        "notes": notes,
    }
