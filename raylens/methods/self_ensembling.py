"""Self-Ensembling: a teacher, the student's moving average, tells it what the target's images are.

French et al., Self-ensembling for visual domain adaptation, ICLR 2018 (arXiv 1706.05208).

Each domain goes through the student by itself, so that each has its own batch-norm statistics. The teacher's parameters
follow the student's; its batch norm is in training mode, as in the authors' code, and its running statistics are its
own, those of the target. Differs from the authors' code: the agreement has the weight 0.3, not 3 (docs/results.md);
student and teacher see views of different strength; it starts from a model trained on the source; and the classes are
balanced towards the prior that is expected, not towards equal shares, which is wrong where one image in a hundred is a
lens, and only if asked to, by `balance` alone: theirs is times the number of classes and the agreement's weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field

from raylens.augment import STRONG, WEAK
from raylens.config import section
from raylens.ema import follow_, frozen_copy, gathered, over_workers
from raylens.methods.base import Adaptation
from raylens.models import Model
from raylens.records import Images, Losses
from raylens.space import Choice, LogUniform
from raylens.tasks.classification import Task


class SelfEnsembling(Adaptation):
    """Makes the student agree with its own average on the target; the average is the result."""

    views = {"weak": WEAK, "strong": STRONG}
    prior_needs = "method.balance"

    @section
    class Config:
        name: str = "self_ensembling"
        """self_ensembling"""
        weight: Annotated[float, Field(ge=0), LogUniform(0.03, 3.0)] = 0.3
        """Weight of the squared difference of student and teacher."""
        decay: Annotated[float, Field(ge=0, lt=1), Choice(0.98, 0.99, 0.995)] = 0.99
        """Decay of the average that the teacher is."""
        threshold: Annotated[float, Field(ge=0, lt=1)] | None = None
        """Confidence of the teacher above which an image counts, 0.968 in the paper; without one all count, with a
        weight that rises over the first quarter of the run."""
        balance: Annotated[float, Field(ge=0)] = 0.0
        """Weight of the cross-entropy between target_prior and the student's mean prediction; 0.005 in the paper,
        whose code makes 0.03 of it for two classes."""
        target_prior: Annotated[float, Field(gt=0, lt=1)] | None = None
        """Share of lenses expected in the target, for balance; null for equal shares, as in the paper."""

    def __init__(self, config: Config, model: Model, task: Task) -> None:
        super().__init__(config, model, task)
        self.teacher = frozen_copy(model)
        classes = len(task.classes)
        prior = config.target_prior
        shares = [1 / classes] * classes if prior is None else [1 - prior, prior]
        self.register_buffer("shares", torch.tensor(shares))

    @property
    def result(self) -> Model:
        return self.teacher

    def losses(self, source: Images, target: Images, progress: float) -> Losses:
        _, source_logits = self.on_source(source.views["strong"])
        _, target_logits = self.on_target(target.views["strong"])
        with torch.no_grad():
            wanted = self.teacher(target.views["weak"]).softmax(-1)
        said = target_logits.softmax(-1)

        if self.config.threshold is None:
            risen = math.exp(-5 * (1 - min(1.0, 4 * progress)) ** 2)  # section 3.1
            counts = torch.full_like(wanted[:, 0], risen)
        else:
            counts = (wanted.amax(-1) > self.config.threshold).float()
        difference = (said - wanted).square().mean(-1)
        terms = {
            "supervised": self.task.loss(source_logits, source.labels),
            "consistency": self.config.weight * (counts * difference).mean(),
        }
        if self.config.balance:
            # Of all workers, because it is no sum over images.
            mean = gathered(said.float()).mean(0).clamp(1e-6, 1 - 1e-6)
            counted = over_workers(counts.mean())
            # Written out, because automatic mixed precision refuses binary_cross_entropy.
            entropy = -(self.shares * mean.log() + (1 - self.shares) * (1 - mean).log()).mean()
            terms["balance"] = self.config.balance * counted * entropy
        return Losses(
            terms=terms,
            monitors={
                "counted": counts.mean(),
                "teacher_distance": difference.detach().mean(),
                "last_class": wanted[:, -1].mean(),
            },
        )

    def after_step(self, progress: float) -> None:
        follow_(self.teacher, self.model, self.config.decay)

    def symptoms(self, metrics: Mapping[str, float]) -> list[str]:
        found = super().symptoms(metrics)
        if metrics.get("monitor/counted", 1.0) == 0:
            found.append("no image passes the threshold: the teacher teaches nothing: lower method.threshold")
        return found
