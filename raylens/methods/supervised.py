"""Supervised learning on the source alone: the baseline of every adaptation, and ADDA's start."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylens.augment import DIHEDRAL
from raylens.config import section
from raylens.methods.base import Method, group
from raylens.models import Model
from raylens.records import Images, Losses
from raylens.space import LogUniform
from raylens.tasks.classification import Task


class Supervised(Method):
    """Minimises the task's loss on labelled source images."""

    streams = ("source",)
    tasks = ("classification", "regression", "super_resolution")
    views = {"view": DIHEDRAL}
    space = {"optimizer.lr": LogUniform(1e-4, 1e-2), "optimizer.weight_decay": LogUniform(1e-5, 1e-2)}

    @section
    class Config:
        name: str = "supervised"
        """supervised"""
        label_smoothing: Annotated[float, Field(ge=0, lt=1), LogUniform(1e-3, 0.1)] = 0.01
        """Share of each label that is spread over all classes."""
        encoder_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
        """Learning rate of the encoder, in that of the head: less than 1 keeps more of what was pretrained, which has
        not been worth it: see docs/results.md."""

    def __init__(self, config: Config, model: Model, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.model = config, task, model

    @property
    def result(self) -> Model:
        return self.model

    def groups(self) -> list[dict]:
        if self.config.encoder_rate == 1:
            return super().groups()
        return [
            group("head", self.model.head),
            group("encoder", self.model.encoder, scale=self.config.encoder_rate),
        ]

    def losses(self, source: Images, progress: float) -> Losses:
        logits = self.model(source.views["view"])
        loss = self.task.loss(logits, source.labels, smoothing=self.config.label_smoothing)
        monitors = {}
        if logits.ndim == 2 and logits.shape[1] > 1:
            monitors["accuracy"] = (logits.argmax(-1) == source.labels).float().mean()
        return Losses(terms={"supervised": loss}, monitors=monitors)
