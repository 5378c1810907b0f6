"""One page of all claims of the papers' tables: each as a statement over two rows, judged, with its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.report.rendering import render
from orchestrator.results.claims import Claim, claim_json, seeds_note


@dataclass(frozen=True)
class StudyClaims:
    """The claims of one study.

    Attributes:
        name: the study's.
        source: paper and table.
        claims: each, judged as far as the store goes.
        caveats: what may not be compared.
        begun: whether the store has anything of its table.
    """

    name: str
    source: str
    claims: tuple[Claim, ...]
    caveats: tuple[str, ...]
    begun: bool

    @property
    def counts(self) -> Counter[str]:
        """How many claims have each outcome; those of a study of which nothing is there are "not run"."""
        return Counter(claim.outcome if self.begun else "not run" for claim in self.claims)

    def verdict(self, claim: Claim) -> str:
        """The claim's, or that the study was not run."""
        return claim.verdict if self.begun else "not run"


def claims_json(judged: StudyClaims) -> dict[str, Any]:
    """A study's claims for machines."""
    found = [claim_json(claim) | ({} if judged.begun else {"outcome": "not run"}) for claim in judged.claims]
    return {"study": judged.name, "source": judged.source, "counts": dict(judged.counts), "claims": found}


def write_claims_page(found: Sequence[StudyClaims], path: Path) -> Path:
    """Write the page; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    total = sum((judged.counts for judged in found), Counter[str]())
    text = render("claims.html.jinja", {"studies": found, "total": total, "note": seeds_note})
    path.write_text(text, encoding="utf-8")
    return path
