"""Pretraining: features alone are learned, without labels; where there are any, they tell what features are worth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from raylens import representation
from raylens.tasks import base


class Task(base.Task):
    """Features for tasks to come; `classes` are those of the labels, if there are any."""

    objective = None
    shown = ("rankme", "probe", "knn")
    gives = "features"
    card = "turns an image into features for other tasks; it tells nothing by itself"

    def head(self, dim: int) -> nn.Module:
        """Features as they are."""
        return nn.Identity()

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """Features (N, dim), as they are."""
        return logits

    def metrics(self, logits: np.ndarray, labels: np.ndarray | None) -> Mapping[str, float]:
        """`rankme`, `spread` and, of 3 rows or more, `dimensions` of features (N, dim); of labels `probe`, `knn`."""
        if not np.isfinite(logits).all():
            return dict.fromkeys(("rankme", "dimensions", "spread"), float("nan"))
        some = logits[representation.some(len(logits))]
        found = {
            "rankme": representation.rankme(some),
            "spread": representation.spread(logits),
        }
        if len(some) > 2:  # two points are always on a line
            found["dimensions"] = representation.dimensions(some)
        if representation.measurable(labels):
            found |= {
                "probe": representation.probe(logits, labels),
                "knn": representation.knn(logits, labels),
            }
        return found
