"""The documentation's pictures, drawn from a store that has their studies: `make pictures`."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.report.blocks.panels import curves
from orchestrator.report.figures import lines_file
from orchestrator.report.style import styles
from orchestrator.resolving.catalogue import find_target
from orchestrator.results.reading import read_results
from orchestrator.results.table import table
from orchestrator.storage.store import Store

IMAGES = Path(__file__).parent / "images"


def draw_curves(study: str, store: Store) -> Path:
    """The score on each task over the sequence, a panel a task, of a study that is finished in `store`.

    Raises:
        SystemExit: it is not finished; the message says how to finish it.
    """
    results = read_results(find_target(study).study(store), store)
    missing = sum(result.num_missing for result in results.trials)
    if missing:
        raise SystemExit(f"{missing} cells of {study} are not in {store.url}: lilora run {study}")
    rows = table(results.trials)
    path = IMAGES / f"{study}.png"
    path.write_bytes(lines_file(curves(rows, styles(rows)), "png"))
    return path


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    print(draw_curves("quickstart", Store(os.environ.get("LILORA_STORE", ".lilora"))))
