"""A trial as it ended, as what chooses, measures and shows trials knows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylens.cluster.folders import addressed
from raylens.cluster.worker import WORST
from raylens.config import Run
from raylens.health import COLLAPSED


@dataclass(frozen=True)
class Found:
    """A trial as it ended: its settings, its last metrics and its last checkpoint."""

    trial: str
    run: Run
    objective: float
    steps: int
    metrics: dict[str, Any]
    checkpoint: str | None
    error: str | None
    agreement: float | None = None
    """With all the trials that took the most steps, if it is one of them and was asked; see raylens/ensemble.py."""
    refused: str | None = None
    """Why it is not released."""
    averaged: int = 0
    """Of how many trials it is the average; then its settings are those of the first of them."""
    kept: str | None = None
    """Where its checkpoint was copied to, of those that are kept."""


def of_result(run: Run, result: Any) -> Found:
    """A trial of the settings `run` as it ended.

    A nested trial's checkpoint is kept by its own training, and named by its reports. The last checkpoint, not
    the one with the highest objective: a label-free score is noisier from report to report than training is, and a
    trial that got worse should say so.
    """
    metrics, table = dict(result.metrics or {}), result.metrics_dataframe
    if table is not None and "warnings" in table:  # of all reports; a collapse that it came back from is none
        said, last = "; ".join(table["warnings"].dropna().astype(str)).split("; "), str(metrics["warnings"])
        kept = (one for one in said if one and (not one.startswith(COLLAPSED) or one in last))
        metrics["warnings"] = "; ".join(dict.fromkeys(kept))
    if result.checkpoint:
        path = addressed(result.checkpoint.path, run.storage)
    elif path := metrics.get("checkpoint_path"):  # of where the run lay then, which may have been moved since
        path = f"{run.storage}/{run.title}/workers/{path.rpartition('/workers/')[2]}"
    return Found(
        trial=Path(result.path).name,
        run=run,
        objective=float(metrics.get("objective", WORST)),
        steps=int(metrics.get("step", 0)),
        metrics=metrics,
        checkpoint=path,
        error=None if result.error is None else str(result.error).strip().splitlines()[-1],
    )
