"""Pure functions of tensors, each with its paper."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raylens.ema import over_workers


def domain_loss(logits: Tensor, source: bool, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of a discriminator's logits (B,) with one domain for all of them.

    Tzeng et al. 2017, eq. 2 (one of its two sums; with the label inverted, eq. 7). `weights` (B,) with mean 1 count
    images unequally.
    """
    loss = F.softplus(-logits if source else logits)
    return (loss if weights is None else loss * weights).mean()


def importance(labels: Tensor, target_prior: float) -> Tensor:
    """Weights (B,), mean 1, that give the images with label 1 the share `target_prior`; `labels` (B,) are 0 or 1.

    Tachet des Combes et al. 2020 (arXiv 2003.04475), w(y) = p_target(y) / p_source(y), with the shares of the batch
    over all workers. A batch of one class has nothing to weigh: all ones.
    """
    labels = labels.float()
    share = over_workers(labels.mean())
    weights = labels * target_prior / share.clamp_min(1e-6)
    weights = weights + (1 - labels) * (1 - target_prior) / (1 - share).clamp_min(1e-6)
    return weights / over_workers(weights.mean()).clamp_min(1e-6)


def certainty(logits: Tensor) -> Tensor:
    """Weights (B,), mean 1 over all workers, that count sure images up to twice as much as unsure ones; no gradient.

    1 + exp(-H), H the entropy of logits (B, K) in nats: Long et al. 2018, eq. 8; Jin et al. 2020, eq. 5.
    """
    probability = logits.detach().softmax(-1)
    weights = 1 + torch.exp(-torch.special.entr(probability).sum(-1))
    return weights / over_workers(weights.mean())


def class_confusion(logits: Tensor, temperature: float) -> Tensor:
    """How much logits (B, K) mix the classes up: the share of pairs of classes in which both are likely at once.

    Jin et al. 2020 (arXiv 1912.03699), eqs. 2 to 8: probabilities at `temperature`, sure images counting more, rows of
    the confusion matrix normalised. It is no sum over images, so it wants the rows of all workers.
    """
    logits = single(logits) / temperature
    probability = logits.softmax(-1)
    with whole_precision(probability):
        confusion = probability.T @ (certainty(logits)[:, None] * probability)
    confusion = confusion / confusion.sum(1, keepdim=True).clamp_min(torch.finfo(confusion.dtype).tiny)
    return (confusion.sum() - confusion.trace()) / len(confusion)


def nt_xent(one: Tensor, two: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding an image's other view among all 2B - 1 other views; projections (B, D) of two views.

    Chen et al. 2020 (arXiv 2002.05709), eq. 1 and algorithm 1, NT-Xent: cosine similarity over `temperature`.
    """
    both = F.normalize(single(torch.cat([one, two])), dim=1)
    with whole_precision(both):
        similarity = both @ both.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(both), dtype=torch.bool, device=both.device), -math.inf)
    other = torch.arange(len(both), device=both.device).roll(len(one))
    return F.cross_entropy(similarity, other)


def cosine_distance(predicted: Tensor, wanted: Tensor) -> Tensor:
    """2 - 2 cos of predictions and what was wanted, (B, D) each, which has no gradient: from 0 to 4.

    Grill et al. 2020 (arXiv 2006.07733), eq. 2.
    """
    return 2 - 2 * F.cosine_similarity(single(predicted), single(wanted.detach()), dim=1).mean()


def redundancy(one: Tensor, two: Tensor, weight: float) -> Tensor:
    """How far the correlation of two views' projections (B, D), dimension by dimension, is from the identity, over D.

    Zbontar et al. 2021 (arXiv 2103.03230), eqs. 1 and 2; `weight` is that of all pairs of dimensions, their lambda.
    """
    one, two = (
        (view - view.mean(0)) / (view.std(0, correction=0) + 1e-6) for view in map(single, (one, two))
    )
    with whole_precision(one):
        correlation = one.T @ two / len(one)
    same = correlation.diagonal()
    pairs = correlation.square().sum() - same.square().sum()
    return ((1 - same).square().sum() + weight * pairs) / len(same)


def distillation(
    student: Tensor, teacher: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Cross-entropy of the teacher's probabilities, without gradient, with the student's: logits (B, K) each.

    Caron et al. 2021 (arXiv 2104.14294), eq. 2; the teacher's logits come centred.
    """
    wanted = (single(teacher.detach()) / teacher_temperature).softmax(-1)
    return -(wanted * (single(student) / student_temperature).log_softmax(-1)).sum(-1).mean()


def alignment(one: Tensor, two: Tensor) -> Tensor:
    """Mean squared distance of two views' normalised features (B, D), 0 if alike: Wang & Isola 2020, eq. 3."""
    return (F.normalize(one, dim=1) - F.normalize(two, dim=1)).square().sum(1).mean()


def uniformity(features: Tensor) -> Tensor:
    """Log of the mean Gaussian potential of pairs of normalised features (B, D): 0 if all are alike, -4 at best.

    Wang & Isola 2020 (arXiv 2005.10242), eq. 4, t = 2.
    """
    features = single(features)  # half precision has no such distances
    return torch.pdist(F.normalize(features, dim=1)).square().mul(-2).exp().mean().log()


def single(values: Tensor) -> Tensor:
    """`values`, of any shape, in single precision at least."""
    return values.float() if values.dtype.itemsize < 4 else values


def whole_precision(values: Tensor) -> torch.autocast:
    """Products as precise as `values`, of any shape: automatic mixed precision would halve them."""
    return torch.autocast(values.device.type, enabled=False)


def reversed_gradient(value: Tensor, strength: float) -> Tensor:
    """`value`, of any shape, whose gradient is turned round on its way back (Ganin & Lempitsky 2015, eq. 12)."""
    return _Reversed.apply(value, strength)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradient, None


def rise(progress: float, until: float = 1.0) -> float:
    """From 0 to 1 along half a cosine, and 1 from `until` on: AdaMatch's mu, Berthelot et al. 2021, section 3.4."""
    return 0.5 * (1 - math.cos(math.pi * min(1.0, progress / until)))
