"""The words of MLflow's pages: of a study, of a trial, and of an adapter, with how it is loaded elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from orchestrator.formats import format_count
from orchestrator.planning.lowering import TrialPlan
from orchestrator.results.reading import TrialResult
from orchestrator.results.table import metrics_after
from orchestrator.study.naming import method_name
from orchestrator.tracking.pages.first_page import first_page
from orchestrator.tracking.pages.origin import Origin

NOTE_TAG = "mlflow.note.content"
_LEARNS = {
    "sequential": "learns {tasks}, one after another",
    "independent": "learns each of {tasks} alone, from the backbone",
    "joint": "learns {tasks} all at once",
    "none": "is the backbone as it is, on {tasks}",
}
#: Metrics that a trial's note names.
_SHOWN = ("AP", "MAP", "BWT", "FWT", "MIF")


def study_note(title: str, description: str, experiment: str) -> str:
    """An experiment's note: what the study is, and the way to its table and charts."""
    links = f"[Table by AP]({first_page(experiment)}) · [Charts]({first_page(experiment, charts=True)})"
    return "\n\n".join(filter(None, (title and f"**{title}**", description, links)))


def trial_note(result: TrialResult, study: str, pictures: Mapping[str, str]) -> str:
    """A trial's note: what it is, what came out, and its pictures (title -> address) once there are any."""
    plan = result.plan
    flat = plan.bound.parameters
    learns = _LEARNS[plan.trial.method.schedule].format(tasks=" → ".join(plan.tasks))
    told = ", told at test which task an item is from" if plan.trial.needs_task_id else ""
    text = [
        f"**{plan.name}** of the study `{study}`: {method_name(plan.trial.method)} on {flat['backbone']} {learns} "
        f"(benchmark {flat['benchmark']}, instructions {flat['instructions']}, seed {flat['seed']}){told}. "
        f"Scored on the {flat['split']} split."
    ]
    if result.num_missing:
        return text[0] + f"\n\nNot finished: {result.num_missing} of {plan.num_scores} scores are missing."
    known = {name: value for name, value in metrics_after(result).items() if name in _SHOWN and value is not None}
    figures = ", ".join(f"{name} {known[name]:.1f}" for name in _SHOWN if name in known)
    counts = [("trained", result.trainable), ("stored", result.stored_parameters)]
    said = ", ".join(f"{format_count(count)} parameters {how}" for how, count in counts if count is not None)
    text.append(f"After the last stage: {figures}; {said}.")
    text += [f"![{title}]({address})" for title, address in pictures.items()]
    return "\n\n".join(text)


def adapter_note(plan: TrialPlan, row: int, study: str, origin: Origin | None) -> str:
    """An adapter's note: what made it, and the lines that load it in stock PEFT, or why there are none."""
    after, tasks = plan.after[row], plan.tasks[: plan.num_learned(row)]
    own = tasks if plan.trial.method.schedule != "independent" else (after,)
    what = (
        f"What **{plan.name}** of the study `{study}` had learned after stage {row + 1} of {len(plan.after)}, {after}, "
        f"on {plan.trial.backbone.name}: it answers {', '.join(own)}. The accuracy on each is below. "
        "The files are lilora's own: named tensors as safetensors, and JSON."
    )
    return f"{what}\n\n{_loading(plan, after, own, origin or Origin(study, study=study), study)}"


def _loading(plan: TrialPlan, after: str, tasks: tuple[str, ...], origin: Origin, study: str) -> str:
    if not plan.trial.method.mergeable:
        return (
            "**Stock PEFT cannot load it**: its update depends on the input (a router weighs the experts for each "
            "token, or an adapter is chosen for each sample), which no single LoRA pair holds; lilora answers with it."
        )
    if origin.study != study:
        return (
            f"**To load it in stock PEFT** it has to be a trial of the study's table: this is one of the search of "
            f"`{origin.name}`. `lilora export {shlex.quote(origin.name)} --help` writes those of the table."
        )
    task = tasks[-1]
    words = [
        "lilora",
        "export",
        origin.name,
        "--method",
        plan.name,
        "--after",
        after,
        "--task",
        task,
        "--out",
        "adapter",
    ]
    others = f" `--task` may be any of {', '.join(tasks)}." if len(tasks) > 1 else ""
    return (
        "**To load it in stock PEFT**, write it as a PEFT folder (with `--store DIR` where the store is not .lilora):"
        f"\n\n```\n{shlex.join(words)}\n```\n\nand load that.{others}\n\n"
        f"```python\n{peft_lines(plan)}\n```"
    )


def peft_lines(plan: TrialPlan) -> str:
    """The Python lines that put the exported folder "adapter" on the trial's backbone."""
    backbone = plan.trial.backbone
    shipped = Path(backbone.location).is_absolute()
    base = f'registry.load("backbones", "{backbone.name}").location' if shipped else f'"{backbone.location}"'
    revision = "" if shipped else f', revision="{backbone.revision}"'
    head = ["from lilora.core import registry"] if shipped else []
    return "\n".join(
        [
            *head,
            "from peft import PeftModel",
            "from transformers import AutoModelForImageTextToText",
            "",
            f"base = {base}",
            f"model = AutoModelForImageTextToText.from_pretrained(base{revision})",
            'model = PeftModel.from_pretrained(model, "adapter")',
        ]
    )
