"""BYOL: one network predicts what another, its own slow average, makes of the image's other view.

Grill et al., Bootstrap Your Own Latent, NeurIPS 2020 (arXiv 2006.07733).

The target starts as a copy of the online network; its parameters follow by a momentum that rises from its base to 1
along half a cosine; its batch norm uses the statistics of its own batches, and it drops nothing. Differs from the
paper: views as in `contrastive`, smaller heads, AdamW in place of LARS.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from raylens.config import section
from raylens.ema import follow_, frozen_copy, without_dropout
from raylens.losses import cosine_distance, rise
from raylens.methods.base import Pretraining, group, mlp, spreading
from raylens.models import Model
from raylens.records import Images, Losses
from raylens.space import Choice
from raylens.tasks.pretraining import Task


class BYOL(Pretraining):
    """Predicts the target's projection of each view from the online network's of the other."""

    @section
    class Config:
        name: str = "byol"
        """byol"""
        momentum: Annotated[float, Field(ge=0, lt=1), Choice(0.98, 0.99, 0.996)] = 0.99
        """Of the target at the start; it rises to 1. The paper's 0.996 is for its 1000 epochs."""
        hidden: Annotated[int, Field(ge=1)] = 512
        """Width of the projection head and of the predictor."""
        projection: Annotated[int, Field(ge=1)] = 128
        """Length of what is predicted."""

    def __init__(self, config: Config, model: Model, task: Task) -> None:
        super().__init__(config, model, task)
        self.projector = mlp(model.encoder.dim, config.hidden, config.projection)
        self.predictor = mlp(config.projection, config.hidden, config.projection)
        self.target = without_dropout(frozen_copy(nn.ModuleList([model, self.projector])))

    def groups(self) -> list[dict]:
        heads = nn.ModuleList([self.projector, self.predictor])
        return [group("model", self.model), group("heads", heads)]

    def losses(self, source: Images, progress: float) -> Losses:
        one, two = self.two_views(source)
        predicted = [self.predictor(self.projector(view)) for view in (one, two)]
        with torch.no_grad():
            wanted = [self.target[1](view) for view in self.two_views(source, self.target[0])]
        loss = cosine_distance(predicted[0], wanted[1]) + cosine_distance(predicted[1], wanted[0])
        return Losses(terms={"prediction": loss}, monitors=spreading(one, two))

    def after_step(self, progress: float) -> None:
        follow_(
            self.target, nn.ModuleList([self.model, self.projector]), momentum(self.config.momentum, progress)
        )


def momentum(base: float, progress: float) -> float:
    """From `base` to 1 along half a cosine: Grill et al. 2020, section 3.2."""
    return 1 - (1 - base) * (1 - rise(progress))
