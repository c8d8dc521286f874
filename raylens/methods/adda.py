"""ADDA: a target encoder that a discriminator cannot tell from the source's.

Tzeng et al., Adversarial Discriminative Domain Adaptation, CVPR 2017 (arXiv 1702.05464).

Differs from the authors' code: one backward updates both opponents, since the discriminator sees detached features and
the adversary a discriminator with detached weights. Both streams pass batch norm in the same mode, so that the
discriminator cannot win by its statistics. The adversary pauses while the discriminator is no better than chance (the
gate), may be anchored by the source loss, and the discriminator's source images may be weighed to the target's prior,
because matching unequal priors forces errors (Zhao et al. 2019, arXiv 1901.09453).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from raylens.augment import DIHEDRAL
from raylens.config import section
from raylens.ema import frozen_copy, over_workers
from raylens.losses import domain_loss
from raylens.methods.base import Adaptation, group, judge, opponent, target_weights
from raylens.models import Model, batch_norms, without_tracking
from raylens.records import Images, Losses
from raylens.space import Choice, LogUniform, Uniform
from raylens.tasks.classification import Task

APART = 0.2
"""Feature distance, in standard deviations, that a discriminator that learns anything should see."""


class ADDA(Adaptation):
    """Moves the target's features onto the source's; the classifier stays what it was."""

    views = {"view": DIHEDRAL}
    suggests = {"optimizer.lr": 3e-5, "optimizer.betas": (0.5, 0.999), "optimizer.weight_decay": 1e-5}
    space = {"optimizer.lr": LogUniform(3e-6, 5e-5)}

    @section
    class Config:
        name: str = "adda"
        """adda"""
        discriminator_lr: Annotated[float, Field(ge=0), LogUniform(1e-4, 3e-3)] = 1e-3
        """Peak learning rate of the discriminator; the encoder's is optimizer.lr."""
        hidden: Annotated[int, Field(ge=1)] = 128
        """Width of the discriminator's two hidden layers."""
        gate: Annotated[float, Field(ge=0, le=1), Uniform(0.5, 0.7)] = 0.55
        """Accuracy of the discriminator below which the encoder waits; 0 never waits."""
        source_weight: Annotated[float, Field(ge=0), Choice(0.0, 0.3, 1.0)] = 0.0
        """Weight of the source's loss on the target encoder, which keeps it from forgetting; 0 as in the paper."""
        batch_norm: Literal["target", "source"] = "target"
        """Each domain by its own batch and the target's running statistics, or all by the source's."""
        target_prior: Annotated[float, Field(gt=0, lt=1)] | None = 0.01
        """Share of lenses expected in the target, to which the discriminator's source images are weighed; about 1 in
        100 galaxies in a search, null for as many as in the source."""

    def __init__(self, config: Config, model: Model, task: Task) -> None:
        super().__init__(config, model, task)
        self.source_encoder = frozen_copy(model.encoder)
        model.head.requires_grad_(False)
        self.discriminator = opponent(model.encoder.dim, config.hidden, config.hidden, activation=nn.PReLU)

    def groups(self) -> Sequence[dict[str, Any]]:
        discriminator = group("discriminator", self.discriminator, self.config.discriminator_lr)
        return [group("encoder", self.model.encoder), discriminator]

    def train(self, mode: bool = True) -> ADDA:
        """Both encoders in the same mode: no dropout, and batch norm as the settings say."""
        super().train(mode)
        self.source_encoder.eval()
        self.model.eval()
        for layer in batch_norms(self.model.encoder):
            layer.train(mode and self.config.batch_norm == "target")
        return self

    def losses(self, source: Images, target: Images, progress: float) -> Losses:
        from_source = self._source_features(source)
        from_target = self.model.features(target.views["view"])

        weights = target_weights(source, len(self.task.classes), self.config.target_prior)
        on_source, on_target = self.discriminator(from_source), self.discriminator(from_target.detach())
        discriminator = domain_loss(on_source, True, weights) + domain_loss(on_target, False)

        right = ((weights * (on_source > 0)).mean() + (on_target <= 0).float().mean()) / 2
        right = over_workers(right)
        fooled = domain_loss(judge(self.discriminator, from_target), True)
        moves = (right >= self.config.gate).float()

        terms = {"discriminator": discriminator, "adversary": moves * fooled}
        if self.config.source_weight:
            with without_tracking(self.model) if self._by_batch else nullcontext():
                logits = self.model(source.views["view"])
            terms["supervised"] = self.config.source_weight * self.task.loss(logits, source.labels)
        return Losses(
            terms=terms,
            monitors={
                "discriminator_accuracy": right,
                "adversary": fooled.detach(),
                "gate_open": moves,
                "feature_distance": distance(from_source, from_target.detach(), weights),
            },
        )

    def symptoms(self, metrics: Mapping[str, float]) -> list[str]:
        found = super().symptoms(metrics)
        accuracy = metrics.get("monitor/discriminator_accuracy", 0.75)
        at_chance = abs(metrics.get("loss/discriminator", 0.0) - 2 * math.log(2)) < 0.01 and accuracy < 0.55
        if at_chance and metrics.get("monitor/feature_distance", 0.0) > APART:
            found.append(
                "the discriminator stays at ln 2 while the domains' features are apart: it learns nothing"
            )
        if metrics.get("monitor/gate_open", 1.0) == 0:
            found.append("the gate never opened, so the encoder does not move: lower method.gate")
        if accuracy > 0.98:
            found.append("the discriminator is always right: the encoder cannot follow it")
        return found

    @property
    def _by_batch(self) -> bool:
        return self.training and self.config.batch_norm == "target"

    @torch.no_grad()
    def _source_features(self, source: Images) -> torch.Tensor:
        with without_tracking(self.source_encoder) if self._by_batch else nullcontext():
            return self.source_encoder(source.views["view"])


def distance(source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Distance of the mean features, source (B, dim) weighed and target (B', dim), in standard deviations.

    Less what the chance of two batches alone makes of its square.
    """
    source, target = source.float(), target.float()
    spread = source.var(0).sum().clamp_min(1e-12)
    gap = ((weights[:, None] * source).mean(0) - target.mean(0)).square().sum() / spread
    chance = weights.square().mean() / len(source) + 1 / len(target)
    return (gap - chance).clamp_min(0).sqrt()
