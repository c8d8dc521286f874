"""Classification into two or more classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from raylens import metrics
from raylens.tasks import base


class Task(base.Task):
    """Which of `classes` an image shows; class k is classes[k], for lenses ("nonlens", "lens")."""

    objective = "auroc"
    shown = ("auroc",)
    measured = "auroc"
    gives = "probabilities"
    card = "tells which of the classes {classes} an image shows"

    def head(self, dim: int) -> nn.Module:
        """A layer from features (N, dim) to logits (N, K)."""
        return nn.Linear(dim, len(self.classes))

    def loss(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy, in nats, of logits (N, K) with labels (N,)."""
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities (N, K), in double precision: single makes ties of the surest."""
        return metrics.softmax64(logits)

    def told(self, said: Tensor) -> Tensor:
        """Probabilities (N, K), in single precision."""
        return said.softmax(1)

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """What metrics compare: the probability of the last class (N,) of two, or all (N, K)."""
        chances = self.predict(logits)
        return chances[:, 1] if chances.shape[1] == 2 else chances

    def metrics(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Metrics of logits (N, K) against labels (N,), computed once over all rows."""
        return metrics.classification(self.predict(logits), labels)

    def report(self, logits: np.ndarray, labels: np.ndarray, **settings: Any) -> dict:
        """All metrics with their intervals, ready for JSON; see metrics.evaluate."""
        return metrics.evaluate(self.predict(logits), labels, self.classes, **settings)

    def fitted(self, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (K, D) and bias (K,) of a head, by logistic regression of features (N, D) with labels (N,)."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        scaler, classifier = StandardScaler(), LogisticRegression(C=0.1, max_iter=500)
        classifier.fit(scaler.fit_transform(features.astype(np.float64)), labels)
        weights, bias = classifier.coef_, classifier.intercept_
        if len(self.classes) == 2:
            weights, bias = np.concatenate([0 * weights, weights]), np.concatenate([0 * bias, bias])
        weights = weights / scaler.scale_
        return weights.astype(np.float32), (bias - weights @ scaler.mean_).astype(np.float32)
