"""Gauges that Prometheus reads from each node, `ray_<name>` there: what dashboards/ draws. All names stand here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import isfinite
from typing import Any

AGAIN = 5.0
"""Seconds after which gauges are set anew: Ray drops one that was not set for 20, and reports may be minutes apart."""
WORKER = ("method", "trial", "worker")
SEARCH = ("method", "run")


@dataclass(frozen=True)
class Shown:
    """A gauge, and the reported metrics whose value it takes, the first of them that there is."""

    meaning: str
    metrics: tuple[str, ...] = ()
    tags: tuple[str, ...] = WORKER


SHOWN = {
    "raylens_step": Shown("Optimizer steps taken", ("step",)),
    "raylens_objective": Shown(
        "What the search maximises; reads no target label unless search.oracle is set", ("objective",)
    ),
    "raylens_source_auroc": Shown("AUROC on the source's validation split", ("source/auroc",)),
    "raylens_images_per_second": Shown("Images a second that a worker learns from", ("time/images",)),
    "raylens_step_seconds": Shown("Seconds of a training step", ("time/step",)),
    "raylens_wait_share": Shown("Share of a step in which a worker waits for images"),
    "raylens_checkpoint_seconds": Shown("Seconds to write a checkpoint and hand it over"),
    "raylens_discriminator_accuracy": Shown(
        "Share of images whose domain the discriminator tells: 0.5 is a guess",
        ("monitor/discriminator_accuracy",),
    ),
    "raylens_kept_share": Shown(
        "Share of target images that are sure enough to be learned from; of ADDA of steps in which its encoder moves",
        ("monitor/kept", "monitor/counted", "monitor/gate_open"),
    ),
    "raylens_best_objective": Shown("The best objective of a search so far", tags=SEARCH),
    "raylens_trials": Shown("Trials of a search by their state", tags=(*SEARCH, "state")),
    "raylens_warned_trials": Shown("Trials that warned: of a collapse, a rate of 0, ...", tags=SEARCH),
}


class Gauges:
    """Sets the gauges of a worker of a trial, which are shown until this is left."""

    def __init__(self, method: str, trial: str, worker: int = 0) -> None:
        self.tags = {"method": method, "trial": trial, "worker": str(worker)}

    def __enter__(self) -> Gauges:
        return self

    def __exit__(self, *error: object) -> None:
        forget(self.tags)  # the process goes on to another trial

    def set(self, metrics: Mapping[str, float | str]) -> None:
        """What a worker reports; the objective of a training that diverged would hide all others', and is not told."""
        from raylens.cluster.worker import WORST

        told = {name: value for name, value in metrics.items() if name != "objective" or value > WORST}
        for name, shown in SHOWN.items():
            if found := [told[metric] for metric in shown.metrics if metric in told]:
                tell(name, found[0], self.tags)
        if metrics.get("time/step"):
            tell("raylens_wait_share", metrics["time/wait"] / metrics["time/step"], self.tags)

    def saved(self, seconds: float) -> None:
        """How long a checkpoint took."""
        tell("raylens_checkpoint_seconds", seconds, self.tags)


def tell_search(method: str, run: str, best: float, states: Iterable[str], warned: int) -> None:
    """What is known of a search: its best objective, the state of each trial and how many of them warned."""
    tags = {"method": method, "run": run}
    if isfinite(best):
        tell("raylens_best_objective", best, tags)
    tell("raylens_warned_trials", warned, tags)
    states = list(states)
    for state in STATES:
        tell("raylens_trials", states.count(state), tags | {"state": state})


def forget_search(method: str, run: str) -> None:
    """A search has ended."""
    forget({"method": method, "run": run})


STATES = ("PENDING", "RUNNING", "PAUSED", "TERMINATED", "ERROR")
"""What Tune says of a trial."""


_told: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
_lock = threading.Lock()
_setter: threading.Thread | None = None


def tell(name: str, value: float, tags: Mapping[str, str]) -> None:
    """Set the gauge `name`, and again until it is forgotten."""
    global _setter
    with _lock:
        if _setter is None:
            _setter = threading.Thread(target=_again, name="raylens-gauges", daemon=True)
            _setter.start()
        _told[name, tuple(tags.items())] = float(value)
    _gauge(name).set(float(value), tags=dict(tags))


def forget(tags: Mapping[str, str]) -> None:
    """Set no gauge with these tags any more."""
    with _lock:
        for name, held in [*_told]:
            if tags.items() <= dict(held).items():
                del _told[name, held]


def _again() -> None:
    """Set all gauges anew as long as there are any."""
    global _setter
    while True:
        time.sleep(AGAIN)
        with _lock:
            if not _told:
                _setter = None
                return
            for (name, tags), value in _told.items():
                _gauge(name).set(value, tags=dict(tags))


@cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(name, description=SHOWN[name].meaning, tag_keys=SHOWN[name].tags)
