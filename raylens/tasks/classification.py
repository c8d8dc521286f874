"""Classification into two or more classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from raylens import metrics


class Task:
    """Which of `classes` an image shows; class k is classes[k], for lenses ("nonlens", "lens")."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    def head(self, dim: int) -> nn.Module:
        """A layer from features (N, dim) to logits (N, K)."""
        return nn.Linear(dim, len(self.classes))

    def loss(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy, in nats, of logits (N, K) with labels (N,)."""
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities (N, K), in double precision: single makes ties of the surest."""
        return metrics.softmax64(logits)

    def metrics(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Metrics of logits (N, K) against labels (N,), computed once over all rows."""
        return metrics.classification(self.predict(logits), labels)
