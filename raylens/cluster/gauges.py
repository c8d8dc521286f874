"""Gauges that Prometheus reads from each node, so that a dashboard can draw trials: `ray_raylens_<name>`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

SHOWN = {
    "step": ("raylens_step", "Optimizer steps taken"),
    "objective": (
        "raylens_objective",
        "What the search maximises; reads no target label unless search.oracle is set",
    ),
    "source/auroc": ("raylens_source_auroc", "AUROC on the source's validation split"),
    "time/step": ("raylens_step_seconds", "Seconds of a training step"),
}


class Gauges:
    """Sets every gauge under the names of a method and a trial."""

    def __init__(self, method: str, trial: str) -> None:
        self.tags = {"method": method, "trial": trial}

    def set(self, metrics: Mapping[str, float | str]) -> None:
        for name in SHOWN:
            if name in metrics:
                _gauge(name).set(float(metrics[name]), tags=self.tags)


@cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    title, meaning = SHOWN[name]
    return Gauge(title, description=meaning, tag_keys=("method", "trial"))
