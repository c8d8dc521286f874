"""Regression of one number an image, such as the log10 of an axion's mass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from raylens import metrics
from raylens.losses import single
from raylens.tasks import base


class Task(base.Task):
    """The number in the column task.target, taken with the mean and deviation that it has among training images."""

    objective = "r2"
    unused = ("method.label_smoothing",)
    shown = ("r2", "mae")
    measured = "mae"
    beside = ("rmse", "r2")
    gives = "number"
    card = "tells {target} of an image"

    @staticmethod
    def column(settings: Any) -> str:
        return settings.target

    def head(self, dim: int) -> nn.Module:
        """A layer from features (N, dim) to the standardised number (N, 1)."""
        return nn.Linear(dim, 1)

    def loss(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean squared error of standardised numbers, logits (N, 1) and labels (N,)."""
        said = single(logits[:, 0])  # half precision holds -23 to 0.1
        return F.mse_loss(said, ((labels.double() - self.scale[0]) / self.scale[1]).to(said.dtype))

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """Numbers (N,) in their own unit."""
        return np.asarray(logits, np.float64)[:, 0] * self.scale[1] + self.scale[0]

    def told(self, said: Tensor) -> Tensor:
        """Numbers (N,) in their own unit, in single precision."""
        return said[:, 0] * self.scale[1] + self.scale[0]

    scores = predict
    """What metrics compare."""

    def metrics(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Metrics of logits (N, 1) against numbers (N,), over all rows."""
        return metrics.regression(self.predict(logits), labels)

    def report(
        self, logits: np.ndarray, labels: np.ndarray, *, seed: int = 0, resamples: int = 1000, **_
    ) -> dict:
        """All metrics with their intervals, ready for JSON."""
        return metrics.evaluate_regression(self.predict(logits), labels, seed=seed, resamples=resamples)

    def fitted(self, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (1, D) and bias (1,) of a head, by ridge regression of features (N, D) with numbers (N,)."""
        from sklearn.linear_model import RidgeCV
        from sklearn.preprocessing import StandardScaler

        scaler, ridge = StandardScaler(), RidgeCV(alphas=np.logspace(-2, 4, 13))
        ridge.fit(scaler.fit_transform(features.astype(np.float64)), (labels - self.scale[0]) / self.scale[1])
        weights = ridge.coef_[None] / scaler.scale_
        return weights.astype(np.float32), (ridge.intercept_ - weights @ scaler.mean_).astype(np.float32)
