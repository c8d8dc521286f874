"""CDAN: a discriminator that knows what the classifier thinks, and an encoder that it cannot tell the domains by.

Long et al., Conditional Adversarial Domain Adaptation, NeurIPS 2018 (arXiv 1705.10667), with its entropy conditioning
(CDAN+E).

Differs from the authors' code: the full outer product of features and probabilities, never a random projection of it;
weights of sure images have no gradient, where theirs let a reversed one through; each domain goes through batch norm by
its own batch; it starts from a model trained on the source; and the discriminator's source images may be weighed to the
target's prior, because matching unequal priors forces errors (Zhao et al. 2019, arXiv 1901.09453).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from raylens.augment import DIHEDRAL
from raylens.config import section
from raylens.ema import over_workers
from raylens.losses import certainty, domain_loss, reversed_gradient
from raylens.methods.base import Adaptation, group, opponent, target_weights
from raylens.models import Model
from raylens.records import Images, Losses
from raylens.space import LogUniform
from raylens.tasks.classification import Task


class CDAN(Adaptation):
    """Makes features and predictions of the two domains alike, together."""

    views = {"view": DIHEDRAL}

    @section
    class Config:
        name: str = "cdan"
        """cdan"""
        weight: Annotated[float, Field(ge=0), LogUniform(0.03, 3.0)] = 1.0
        """Strength of the encoder's gradient from the discriminator, once it has risen."""
        discriminator_lr: Annotated[float, Field(ge=0), LogUniform(1e-4, 3e-3)] = 1e-3
        """Peak learning rate of the discriminator; the model's is optimizer.lr."""
        hidden: Annotated[int, Field(ge=1)] = 256
        """Width of the discriminator's two hidden layers."""
        target_prior: Annotated[float, Field(gt=0, lt=1)] | None = 0.01
        """Share of lenses expected in the target, to which the discriminator's source images are weighed; null for as
        many as in the source."""

    def __init__(self, config: Config, model: Model, task: Task) -> None:
        super().__init__(config, model, task)
        self.discriminator = opponent(model.encoder.dim * len(task.classes), config.hidden, config.hidden)

    def groups(self) -> Sequence[dict[str, Any]]:
        discriminator = group("discriminator", self.discriminator, self.config.discriminator_lr)
        return [group("model", self.model), discriminator]

    def losses(self, source: Images, target: Images, progress: float) -> Losses:
        of_source, source_logits = self.on_source(source.views["view"])
        of_target, target_logits = self.on_target(target.views["view"])
        risen = 2 / (1 + math.exp(-10 * progress)) - 1  # Ganin & Lempitsky 2015, eq. 14
        strength = self.config.weight * risen

        wanted = target_weights(source, len(self.task.classes), self.config.target_prior)
        guess_source = self.discriminator(reversed_gradient(joint(of_source, source_logits), strength))
        guess_target = self.discriminator(reversed_gradient(joint(of_target, target_logits), strength))
        weights = wanted * certainty(
            source_logits
        )  # each has mean 1, and both follow the class: their product has not
        domain = domain_loss(guess_source, True, weights / over_workers(weights.mean()))
        domain = (domain + domain_loss(guess_target, False, certainty(target_logits))) / 2
        right = ((wanted * (guess_source > 0)).mean() + (guess_target <= 0).float().mean()) / 2
        return Losses(
            terms={"supervised": self.task.loss(source_logits, source.labels), "domain": domain},
            monitors={
                "discriminator_accuracy": right,
                "last_class": target_logits.detach().softmax(-1)[:, -1].mean(),
            },
        )

    def symptoms(self, metrics: Mapping[str, float]) -> list[str]:
        found = super().symptoms(metrics)
        if metrics.get("monitor/discriminator_accuracy", 0.75) > 0.98:
            found.append("the discriminator is always right: the encoder cannot follow it")
        return found


def joint(features: Tensor, logits: Tensor) -> Tensor:
    """The outer product (B, dim K) of features (B, dim) and probabilities, which carry no gradient here; eq. 5."""
    return torch.einsum("bk,bd->bkd", logits.detach().softmax(-1), features).flatten(1)
