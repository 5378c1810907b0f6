"""A sweep for people and machines: its trials, best first, by which protocol they were judged, and how each ended."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.formats import DASH, format_score
from orchestrator.resolving.resolve import Resolved
from orchestrator.resolving.swept import Swept, figure_of, upper_bound
from orchestrator.results.exports import trial_json
from orchestrator.results.reading import TrialResult
from orchestrator.study.search import Choice, Option, best_first, describe_protocol, describe_values

#: Rows of the trial table on a terminal; the report and --json have all of them.
MOST_ROWS = 20


def show_sweep(resolved: Resolved, output: Output) -> None:
    """Print the configurations, best first, with their figure, and which one the protocol chose."""
    (choice,) = resolved.choices
    title = "the sweep, judged on TEST data (oracle)" if choice.split == "test" else "the sweep, on validation data"
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in choice.fields:
        grid.add_column(escape(name), no_wrap=True)
    grid.add_column(f"{choice.split} {choice.metric}", justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True)
    options = sorted(choice.options, key=best_first)
    for option in options[:MOST_ROWS]:
        grid.add_row(
            *(escape(_shown(value)) for value in option.values), format_score(option.figure), _state(option, choice)
        )
    output.say("", f"[bold]{title}[/bold]")
    output.table(grid)
    if len(options) > MOST_ROWS:
        output.say(f"[dim]and {len(options) - MOST_ROWS} more, in the report[/dim]")
    if resolved.unasked:
        output.say(f"[dim]{resolved.unasked} more are still to be suggested[/dim]")
    if choice.options:
        output.say(f"[dim]{escape(describe_protocol(resolved.choices))}[/dim]")


def _shown(value: Any) -> str:
    return DASH if value is None else describe_values([value])


def _state(option: Option, choice: Choice) -> str:
    if option is choice.best:
        return "[bold]chosen[/bold]"
    if option.figure is not None:
        return ""
    if option.stopped_after is not None:
        return f"stopped after {option.stopped_after} of {len(choice.tasks)} tasks"
    return f"[red]failed[/red]: {escape(option.failed)}" if option.failed else "not finished"


def sweep_json(resolved: Resolved) -> dict[str, Any]:
    """The sweep for machines: by which protocol, on which split, and each trial with how it ended."""
    swept = resolved.swept
    assert swept is not None
    sweep = swept.sweep
    return {
        "protocol": sweep.protocol,
        "split": sweep.split,
        "oracle": sweep.split == "test",
        "metric": sweep.metric,
        "sampler": sweep.sampler,
        "unasked": resolved.unasked,
        "trials": [_trial_json(swept, place, result) for place, result in enumerate(resolved.results)],
    }


def _trial_json(swept: Swept, place: int, result: TrialResult) -> dict[str, Any]:
    stopped = swept.stopped.get(place)
    error = swept.failed.get(place, "") if result.num_missing else ""
    state = "stopped" if stopped is not None else "failed" if error else "open" if result.num_missing else "done"
    figure = figure_of(result, swept.sweep.metric) if state == "done" else None
    return trial_json(result) | {"state": state, "figure": figure, "stopped_after": stopped, "error": error}


def say_sweep_plan(resolved: Resolved, output: Output) -> dict[str, Any]:
    """Print how many trials the sweep has, and, with Optuna, how many steps it takes at most; gives both."""
    swept = resolved.swept
    if swept is None:
        return {}
    sweep = swept.sweep
    answer: dict[str, Any] = {"trials": len(swept.points), "protocol": sweep.protocol, "split": sweep.split}
    how = f"{len(swept.points)} trials by {sweep.sampler}, judged by {sweep.metric} on the {sweep.split} split"
    output.say(f"{how}, protocol {sweep.protocol}{' (ORACLE: test data)' if sweep.split == 'test' else ''}")
    if sweep.stopping is not None:
        output.say("[dim]trials that are stopped early take fewer steps than counted here[/dim]")
    if sweep.sampler == "optuna":
        bound = upper_bound(swept.study)
        stages = sum(count for kind, count in bound.distinct.items() if kind == "train")
        answer["upper_bound"] = {"requested": bound.requested.total(), "distinct": bound.distinct.total()}
        output.say(
            f"Optuna suggests {sweep.samples} trials as results come ({resolved.unasked} of them still to come, not "
            f"counted above). In all at most {bound.requested.total()} steps requested, {bound.distinct.total()} "
            f"distinct, {stages} of them stages: an upper bound, since trials may share steps"
        )
    return answer
