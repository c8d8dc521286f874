"""DINO: a student says of each view what a teacher, its slow average, says of the other.

Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021 (arXiv 2104.14294).

The teacher starts as a copy of the student, drops nothing, and is the result. It is kept from collapsing by centring,
which alone would lead to equal shares, and sharpening, which alone would lead to one prototype. Differs from the paper:
two views as in `contrastive` and no local crops, which would cut the ring; smaller heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raylens.config import section
from raylens.ema import follow_, frozen_copy, without_dropout
from raylens.health import COLLAPSED
from raylens.losses import distillation, single, whole_precision
from raylens.methods.base import Pretraining, group, mlp, spreading
from raylens.methods.byol import momentum
from raylens.models import Model
from raylens.records import Images, Losses
from raylens.space import Choice, LogUniform
from raylens.tasks.pretraining import Task

CENTRE = 0.9
"""Decay of the teacher's mean logits: section 3.1."""


class Prototypes(nn.Module):
    """Features (B, dim) -> logits (B, K): an MLP, a unit vector, and its cosine with each of K prototypes."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = mlp(dim, hidden, bottleneck)
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck) / math.sqrt(bottleneck))

    def forward(self, features: Tensor, frozen: bool = False) -> Tensor:
        held = self.prototypes.detach() + 0 * self.prototypes if frozen else self.prototypes
        directions = F.normalize(single(self.mlp(features)), dim=1)
        with whole_precision(directions):
            return F.linear(directions, F.normalize(held, dim=1))


class DINO(Pretraining):
    """Makes the student's sharpened choice of prototypes the teacher's."""

    @section
    class Config:
        name: str = "dino"
        """dino"""
        momentum: Annotated[float, Field(ge=0, lt=1), Choice(0.98, 0.99, 0.996)] = 0.99
        """Of the teacher at the start; it rises to 1. The paper's 0.996 is for its 100 epochs and more."""
        student_temperature: Annotated[float, Field(gt=0)] = 0.1
        """Divides the student's logits."""
        teacher_temperature: Annotated[float, Field(gt=0), LogUniform(0.02, 0.08)] = 0.04
        """Divides the teacher's: sharper than the student's."""
        prototypes: Annotated[int, Field(ge=2)] = 256
        """What is chosen among."""
        hidden: Annotated[int, Field(ge=1)] = 512
        """Width of the head."""
        bottleneck: Annotated[int, Field(ge=1)] = 128
        """Length of the unit vectors that are compared with prototypes."""
        frozen: Annotated[float, Field(ge=0, lt=1)] = 0.02
        """Share of the run in which the prototypes do not learn: the paper's first epoch."""

    def __init__(self, config: Config, model: Model, task: Task) -> None:
        super().__init__(config, model, task)
        self.head = Prototypes(model.encoder.dim, config.hidden, config.bottleneck, config.prototypes)
        self.teacher = without_dropout(frozen_copy(nn.ModuleList([model, self.head])))
        self.register_buffer("centre", torch.zeros(config.prototypes))

    @property
    def result(self) -> Model:
        return self.teacher[0]

    def groups(self) -> list[dict]:
        return [group("model", self.model), group("head", self.head)]

    def losses(self, source: Images, progress: float) -> Losses:
        config, features = self.config, self.two_views(source)
        said = [self.head(view, frozen=progress < config.frozen) for view in features]
        with torch.no_grad():
            wanted = [self.teacher[1](view).float() for view in self.two_views(source, self.teacher[0])]
            centred = [view - self.centre for view in wanted]
        losses = [
            distillation(student, teacher, config.student_temperature, config.teacher_temperature)
            for student, teacher in ((said[0], centred[1]), (said[1], centred[0]))
        ]
        if self.training:
            self.centre.lerp_(torch.cat(wanted).mean(0), 1 - CENTRE)
        chances = (torch.cat(centred) / config.teacher_temperature).softmax(-1)
        used = torch.special.entr(chances.mean(0)).sum().exp() / config.prototypes
        return Losses(
            terms={"distillation": sum(losses) / 2},
            monitors={**spreading(*features), "prototypes_used": used},
        )

    def after_step(self, progress: float) -> None:
        follow_(
            self.teacher, nn.ModuleList([self.model, self.head]), momentum(self.config.momentum, progress)
        )

    def symptoms(self, metrics: Mapping[str, float]) -> list[str]:
        found = super().symptoms(metrics)
        if metrics.get("monitor/prototypes_used", 1.0) < 1.5 / self.config.prototypes:
            found.append(f"{COLLAPSED}the teacher gives all images to one prototype")
        return found
