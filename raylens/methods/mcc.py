"""MCC: supervised on the source, while the target's classes are not to be mixed up.

Jin et al., Minimum Class Confusion for Versatile Domain Adaptation, ECCV 2020 (arXiv 1912.03699).

Differs from the authors' code: it starts from a model trained on the source, and each domain goes through batch norm by
its own batch.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylens.augment import DIHEDRAL
from raylens.config import section
from raylens.ema import gathered
from raylens.losses import class_confusion
from raylens.methods.base import Adaptation
from raylens.records import Images, Losses
from raylens.space import LogUniform, Uniform


class MCC(Adaptation):
    """Makes the classifier decide on target images, one class or the other."""

    views = {"view": DIHEDRAL}

    @section
    class Config:
        name: str = "mcc"
        """mcc"""
        weight: Annotated[float, Field(ge=0), LogUniform(0.03, 0.5)] = 0.1
        """Weight of the class confusion beside the source's loss."""
        temperature: Annotated[float, Field(gt=0), Uniform(1.5, 4.0)] = 2.5
        """Divides the logits before confusion is counted."""

    def losses(self, source: Images, target: Images, progress: float) -> Losses:
        _, of_source = self.on_source(source.views["view"])
        _, of_target = self.on_target(target.views["view"])
        # Of all workers, because it is no sum over images.
        confusion = class_confusion(gathered(of_target), self.config.temperature)
        return Losses(
            terms={
                "supervised": self.task.loss(of_source, source.labels),
                "confusion": self.config.weight * confusion,
            },
            monitors={
                "confusion": confusion.detach(),
                "last_class": of_target.detach().softmax(-1)[:, -1].mean(),
            },
        )
