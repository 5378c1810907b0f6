"""The first page of a study in MLflow's interface: which columns, rows and charts its address opens with.

MLflow keeps a shared view as a tag of the experiment (`mlflow.sharedViewState.KEY`: JSON, deflated, in Base64), and
opens it where an address names the key. Only an address can: without one a browser starts with MLflow's own defaults.
The names below are those of MLflow 3's interface; `tests/browser` holds them to what a browser shows.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from orchestrator.tracking.measures import STORED, TRAINED, accuracy_key

VIEW = "lilora"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
#: Metric, or parameter of a trial -> its width in pixels: the metrics are in sight even beside the panel of MLflow's
#: assistant, which a fresh browser opens on a screen of 1300 pixels.
METRICS = {"AP": 70, "MAP": 70, "BWT": 70, "FWT": 70, "MIF": 70}
PARAMETERS = {"method": 110, "backbone": 95, "order": 150, "seed": 60}
COUNTS = {TRAINED: 130, STORED: 130}
#: The interface's own columns; the first two stay on the left.
NAME, CREATED, DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"
_RUNS = "tags.kind = 'trial'"
#: The mode of the interface that is for training, in which adapters are models and not versions of agents.
_TRAINING = {"workflowType": "machine_learning"}


def first_page(experiment: str, charts: bool = False) -> str:
    """What follows a server's address: the table of an experiment's trials, or its `charts`."""
    words = {**_TRAINING, "viewStateShareKey": VIEW, **({"compareRunsMode": "CHART"} if charts else {})}
    return f"/#/experiments/{experiment}/runs?{urlencode(words)}"


def search_page(experiments: Sequence[str], condition: str) -> str:
    """The same for the runs of several experiments that a filter of MLflow's finds, the best AP first."""
    words = {
        "experiments": json.dumps(sorted(experiments)),
        **_TRAINING,
        "searchFilter": condition,
        "orderByKey": _metric("AP"),
        "orderByAsc": "false",
    }
    return f"/#/compare-experiments/s?{urlencode(words)}"


def shared_view(tasks: Sequence[str]) -> str:
    """The tag's value for trials on these tasks: the table by AP; AP and BWT over the stages, the accuracy on each task
    after the last stage, AP against stored parameters.
    """
    columns = {_metric(name): width for name, width in METRICS.items()}
    columns |= {_parameter(name): width for name, width in PARAMETERS.items()}
    columns |= {_metric(name): width for name, width in COUNTS.items()}
    state = {
        "orderByKey": _metric("AP"),
        "orderByAsc": False,
        "searchFilter": _RUNS,
        "selectedColumns": list(columns),
        "columnOrder": [NAME, CREATED, *columns, DURATION],
        "columnWidths": {NAME: 150, CREATED: 115, **columns},
        # By default only the first ten runs are drawn.
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        # Else the sections are sorted by name.
        "isAccordionReordered": True,
        "compareRunSections": [
            _section("stages", "AP and BWT over the stages", columns=2),
            _section("accuracy", "Accuracy on each task after the last stage", columns=3),
            _section("cost", "AP against stored parameters", columns=2),
            # MLflow adds a chart for each other metric to the sections of these names.
            _section("model", "Model metrics", display=False),
            _section("system", "System metrics", display=False),
        ],
        "compareRunCharts": [
            *(_line(name, f"{name} after each stage") for name in ("AP", "BWT")),
            *(_bars(accuracy_key(task), task) for task in tasks),
            _scatter(STORED, "AP", "AP against stored parameters"),
        ],
    }
    packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)
    return "deflate;" + base64.b64encode(packed).decode()


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _parameter(name: str) -> str:
    return f"params.`{name}`"


def _section(key: str, name: str, columns: int = 3, display: bool = True) -> dict[str, Any]:
    state = {"isReordered": True, "deleted": False, "isGenerated": False, "columns": columns}
    return {"uuid": key, "name": name, "display": display, **state}


def _card(kind: str, section: str, key: str, title: str, more: Mapping[str, Any]) -> dict[str, Any]:
    state = {"deleted": False, "isGenerated": False, "displayName": title, "runsCountToCompare": 100}
    return {"uuid": f"{section}-{key}", "type": kind, "metricSectionId": section, **state, **more}


def _line(metric: str, title: str) -> dict[str, Any]:
    axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "yAxisKey": "metric", "scaleType": "linear", "range": {}}
    same = {"useGlobalXaxisKey": False, "useGlobalLineSmoothing": False, "lineSmoothness": 0, "ignoreOutliers": False}
    more = {"metricKey": metric, "selectedMetricKeys": [metric], "yAxisExpressions": [], "displayPoints": True}
    return _card("LINE", "stages", metric, title, {**more, **axes, **same, "selectedXAxisMetricKey": ""})


def _bars(metric: str, title: str) -> dict[str, Any]:
    return _card("BAR", "accuracy", metric, title, {"metricKey": metric})


def _scatter(across: str, up: str, title: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": across, "type": "METRIC"}, "yaxis": {"key": up, "type": "METRIC"}}
    return _card("SCATTER", "cost", f"{up}-{across}", title, axes)
