"""Pretraining: features alone are learned, without labels; where there are any, they tell what features are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from raylens import representation


class Task:
    """Features for tasks to come; `classes` are those of the labels, if there are any."""

    objective = None
    """Trials are ranked by search.validator."""
    shown = ("rankme", "probe", "knn")
    """Metrics on a leaderboard."""

    def __init__(self, classes: Sequence[str], scale: tuple[float, float] = (0.0, 1.0)) -> None:
        self.classes = tuple(classes)

    def head(self, dim: int) -> nn.Module:
        """Features as they are."""
        return nn.Identity()

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """Features (N, dim), as they are."""
        return logits

    def metrics(self, logits: np.ndarray, labels: np.ndarray | None) -> Mapping[str, float]:
        """`rankme` and `spread` of features (N, dim); with labels (N,) `probe` and `knn`."""
        if not np.isfinite(logits).all():
            return {"rankme": float("nan"), "spread": float("nan")}
        found = {
            "rankme": representation.rankme(logits[: representation.ROWS]),
            "spread": representation.spread(logits),
        }
        if representation.measurable(labels):
            found |= {
                "probe": representation.probe(logits, labels),
                "knn": representation.knn(logits, labels),
            }
        return found
