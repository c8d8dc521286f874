"""WDGRL: features of the two domains at the smallest Wasserstein distance, by a critic with a gradient penalty.

Shen et al., Wasserstein Distance Guided Representation Learning for Domain Adaptation, AAAI 2018 (arXiv 1707.01217).

Differs from the authors' code: one step of the critic for each of the encoder's, at a higher learning rate, where
theirs takes several; one backward updates both, since the critic sees detached features and the encoder a critic with
detached weights; each domain goes through batch norm by its own batch; it starts from a model trained on the source;
and the critic's source images may be weighed to the target's prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from raylens.augment import DIHEDRAL
from raylens.config import section
from raylens.methods.base import Adaptation, group, judge, opponent, target_weights
from raylens.models import Model
from raylens.records import Images, Losses
from raylens.space import LogUniform
from raylens.tasks.classification import Task


class WDGRL(Adaptation):
    """Moves the features of both domains together, and keeps the source's classes apart."""

    views = {"view": DIHEDRAL}

    @section
    class Config:
        name: str = "wdgrl"
        """wdgrl"""
        weight: Annotated[float, Field(ge=0), LogUniform(0.003, 0.04)] = 0.03
        """Weight of the distance in the encoder's loss."""
        penalty: Annotated[float, Field(ge=0)] = 10.0
        """Weight of the critic's gradient penalty."""
        critic_lr: Annotated[float, Field(ge=0), LogUniform(1e-4, 3e-3)] = 1e-3
        """Peak learning rate of the critic; the model's is optimizer.lr."""
        hidden: Annotated[int, Field(ge=1)] = 128
        """Width of the critic's hidden layer."""
        target_prior: Annotated[float, Field(gt=0, lt=1)] | None = 0.01
        """Share of lenses expected in the target, to which the critic's source images are weighed; null for as many as
        in the source."""

    def __init__(self, config: Config, model: Model, task: Task) -> None:
        super().__init__(config, model, task)
        self.critic = opponent(model.encoder.dim, config.hidden)

    def groups(self) -> Sequence[dict[str, Any]]:
        return [group("model", self.model), group("critic", self.critic, self.config.critic_lr)]

    def losses(self, source: Images, target: Images, progress: float) -> Losses:
        of_source, source_logits = self.on_source(source.views["view"])
        of_target, target_logits = self.on_target(target.views["view"])
        wanted = target_weights(source, len(self.task.classes), self.config.target_prior)

        features = torch.cat([of_source, of_target])
        distance = gap(judge(self.critic, features), wanted)
        estimate = gap(self.critic(features.detach()), wanted)
        penalty = self.steepness(of_source.detach(), of_target.detach())
        return Losses(
            terms={
                "supervised": self.task.loss(source_logits, source.labels),
                "distance": self.config.weight * distance,
                "critic": self.config.penalty * penalty - estimate,
            },
            monitors={
                "wasserstein": estimate.detach(),
                "steepness": penalty.detach(),
                "last_class": target_logits.detach().softmax(-1)[:, -1].mean(),
            },
        )

    def steepness(self, source: Tensor, target: Tensor) -> Tensor:
        """Mean of (|gradient| - 1)^2 of the critic at the features and at points between them; eq. 4."""
        rows, source, target = min(len(source), len(target)), source.float(), target.float()
        share = torch.rand(rows, 1, device=source.device)
        between = torch.lerp(source[:rows], target[:rows], share)
        points = torch.cat([between, source, target]).requires_grad_(True)
        with torch.autocast(
            source.device.type, enabled=False
        ):  # a gradient of gradients wants all its digits
            (gradient,) = torch.autograd.grad(self.critic(points).sum(), points, create_graph=True)
        return (gradient.norm(dim=1) - 1).square().mean()


def gap(scores: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the source's scores, which come first, minus the mean of the target's; eq. 2."""
    return (weights * scores[: len(weights)]).mean() - scores[len(weights) :].mean()
