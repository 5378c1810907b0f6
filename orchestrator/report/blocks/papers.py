"""The report's sections on papers: a paper's table beside ours with its claims judged, and figures of adapters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from orchestrator.planning.lowering import Lowered
from orchestrator.report.figures import fusion_svg, grid_svg
from orchestrator.results.claims import Claim, seeds_note
from orchestrator.results.reading import StudyResults
from orchestrator.results.table import TableRow
from orchestrator.study import Figure


def paper_block(lowered: Lowered, rows: Sequence[TableRow], found: Sequence[Claim]) -> dict[str, Any] | None:
    """The comparison with the study's paper, `found` its claims; None where it reproduces none."""
    paper = lowered.study.paper
    if paper is None:
        return None
    lines = [
        {
            "label": theirs.label if theirs else "not in the paper",
            "name": row.name,
            "row": row,
            "cells": [(theirs.get(metric) if theirs else None, row.metric(metric)) for metric in paper.metrics],
        }
        for theirs, row in zip(paper.rows, rows, strict=True)
    ]
    against = list(dict.fromkeys((claim.focus, claim.other) for claim in found))
    judged = {(claim.focus, claim.other, claim.here.metric): claim for claim in found}
    return {
        "paper": paper,
        "metrics": paper.metrics,
        "lines": lines,
        "counts": Counter(claim.outcome for claim in found),
        "claims": [
            {
                "name": f"{focus} against {other}" if paper.pairs else other,
                "cells": [judged.get((focus, other, metric)) for metric in paper.metrics],
            }
            for focus, other in against
        ],
        "sentence": claim_sentence,
        "judged": seeds_note(found),
    }


def claim_sentence(claim: Claim) -> str:
    """ "paper +38.7, here +35.1 (95 %: +30.2 to +40.0), p 0.0002, by Holm 0.0061, 3 and 3 seeds; 640 other
    items: +33.4 to +36.8".
    """
    if claim.here.points is None:
        return f"paper {claim.paper:+.1f}, here not finished"
    text = f"paper {claim.paper:+.1f}, here {claim.here.points:+.1f}"
    if claim.here.test is None or claim.here.adjusted is None:
        text += ", not measured"
    else:
        low, high = claim.here.test.interval.low, claim.here.test.interval.high
        text += f" (95 %: {low:+.1f} to {high:+.1f}), p {claim.here.test.p:.2g}, by Holm {claim.here.adjusted:.2g}"
        text += "" if claim.here.test.paired is None else f", in pairs {claim.here.test.paired:.2g}"
    text += f", {claim.here.seeds[0]} and {claim.here.seeds[1]} seeds"
    if claim.here.items is None:
        return text
    return f"{text}; {claim.here.num_items:,} other items: {claim.here.items.low:+.1f} to {claim.here.items.high:+.1f}"


def figure_blocks(results: StudyResults) -> list[dict[str, Any]]:
    """Title, caption and panels of each figure; no panels until its step is finished."""
    figures = zip(results.lowered.study.figures, results.figures, strict=True)
    return [
        {
            "title": figure.title or figure.kind,
            "caption": figure.caption,
            "panels": [] if content is None else _panels(figure, content),
        }
        for figure, content in figures
    ]


def _panels(figure: Figure, content: dict[str, Any]) -> list[str]:
    if figure.kind == "cka":
        return [
            grid_svg(f"{figure.title}: {name}" if figure.title else name, content["tasks"], content[name])
            for name in ("A", "B")
        ]
    if figure.kind == "allocation":
        return [grid_svg(figure.title, content["tasks"], content["weights"], content["blocks"])]
    return [fusion_svg(task, part["before"], part["after"]) for task, part in content.items()]
