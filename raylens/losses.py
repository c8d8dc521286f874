"""Pure functions of tensors, each with its paper."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def domain_loss(logits: Tensor, source: bool, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of a discriminator's logits (B,) with one domain for all of them.

    Tzeng et al. 2017, eq. 7 (one of its two sums; with the label inverted, eq. 8). `weights` (B,) with mean 1 count
    images unequally.
    """
    loss = F.softplus(-logits if source else logits)
    return (loss if weights is None else loss * weights).mean()


def importance(labels: Tensor, target_prior: float) -> Tensor:
    """Weights (B,), mean 1, that give the images with label 1 the share `target_prior`; `labels` (B,) are 0 or 1.

    Tachet des Combes et al. 2020 (arXiv 2003.04475), w(y) = p_target(y) / p_source(y), with the batch's own shares.
    A batch of one class has nothing to weigh: all ones.
    """
    labels = labels.float()
    share = labels.mean()
    weights = labels * target_prior / share.clamp_min(1e-6)
    weights = weights + (1 - labels) * (1 - target_prior) / (1 - share).clamp_min(1e-6)
    return weights / weights.mean().clamp_min(1e-6)
