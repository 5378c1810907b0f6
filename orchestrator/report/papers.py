"""The report's sections on papers: a paper's table beside ours with its claims judged, and figures of adapters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from orchestrator.planning.lowering import Lowered
from orchestrator.report.figures import fusion_svg, grid_svg
from orchestrator.results.claims import Claim, claims
from orchestrator.results.reading import StudyResults
from orchestrator.results.table import TableRow
from orchestrator.study import Figure


def paper_block(lowered: Lowered, rows: Sequence[TableRow]) -> dict[str, Any] | None:
    """The comparison with the study's paper; None where it reproduces none."""
    paper = lowered.study.paper
    if paper is None:
        return None
    found = claims(paper, rows)
    lines = [
        {
            "label": theirs.label if theirs else "not in the paper",
            "name": row.name,
            "cells": [(theirs.get(metric) if theirs else None, row.metric(metric)) for metric in paper.metrics],
        }
        for theirs, row in zip(paper.rows, rows, strict=True)
    ]
    against = list(dict.fromkeys((claim.focus, claim.other) for claim in found))
    judged = {(claim.focus, claim.other, claim.metric): claim for claim in found}
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
    }


def claim_sentence(claim: Claim) -> str:
    """ "paper +38.7, here +35.1, decides beyond 2.3"."""
    ours = "not finished" if claim.ours is None else f"{claim.ours:+.1f}"
    noise = "noise not known" if claim.threshold is None else f"decides beyond {claim.threshold:.1f}"
    return f"paper {claim.paper:+.1f}, here {ours}, {noise}"


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
