"""What every task offers: a model on an encoder, its loss, what it says and how that is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from raylens.models import Model


class Task:
    """What a model learns to say of an image. Abstract: subclasses declare the constants and define the rest."""

    objective: ClassVar[str | None]
    """Metric that trials without a target are ranked by; by search.validator without one."""
    shown: ClassVar[tuple[str, ...]]
    """Metrics on a leaderboard."""
    measured: ClassVar[str]
    """Metric that finetuned models are compared by."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Metrics that stand beside it."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Settings of methods that change nothing here, and are not searched unless asked for."""
    gives: ClassVar[str]
    """What a model gives for images, in a word that may name a variable."""
    card: ClassVar[str]
    """What a network of it does, for its card; {classes}, {target} and {factor} are filled in."""
    judge: Callable | None = None
    """Where what a model says is an image: what is kept of it, numbers (N, K) in place of logits."""

    def __init__(
        self, classes: Sequence[str] = (), scale: tuple[float, float] = (0.0, 1.0), **settings: Any
    ) -> None:
        self.classes, self.scale = tuple(classes), scale

    @staticmethod
    def column(settings: Any) -> str | None:
        """The column of a set that is learned, of a task's `settings`; None for the labels of classes."""
        return None

    def head(self, dim: int) -> nn.Module:
        """A layer on features (N, dim). Abstract."""
        raise NotImplementedError(f"{type(self).__name__} must define head")

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """What logits (N, K) tell: probabilities (N, K), numbers (N,), or as the task has it. Abstract."""
        raise NotImplementedError(f"{type(self).__name__} must define predict")

    def told(self, said: Tensor) -> Tensor:
        """In torch what `predict` tells of what a model says (N, ...); an image is told as it is."""
        return said

    def model(self, encoder: nn.Module, channels: int, size: int) -> Model:
        """`encoder`, of images (N, channels, size, size), under a head of this task."""
        dim: Any = encoder.dim
        return Model(encoder, self.head(dim))
