"""AdaMatch: pseudo-labels above a relative confidence, with aligned class distributions.

Berthelot et al., AdaMatch: A Unified Approach to Semi-Supervised Learning and Domain Adaptation, ICLR 2022 (arXiv
2106.04732).

Differs from the authors' code: both averages of predicted classes are plain means at first and decay by 0.99 from the
hundredth step on, where theirs begin uniform, the target's over a window of 128 steps; the target's classes may be
aligned to the prior that is expected, where theirs are always aligned to the source's; each domain goes through batch
norm by its own batch, unless asked for otherwise; and it starts from a model trained on the source. The average's
parameters are averaged, its batch norm has the running statistics of the network that learns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raylens.augment import STRONG, WEAK
from raylens.config import section
from raylens.ema import average_, follow_, frozen_copy, over_workers
from raylens.losses import rise
from raylens.methods.base import Adaptation
from raylens.models import Model, batch_norms
from raylens.records import Images, Losses
from raylens.space import LogUniform, Uniform
from raylens.tasks.classification import Task


class AdaMatch(Adaptation):
    """Learns from the target images it is confident about, relative to the source."""

    views = {"weak": WEAK, "strong": STRONG}
    suggests = {"optimizer.lr": 1e-4, "data.batch": 32}
    target_times = 3

    @section
    class Config:
        name: str = "adamatch"
        """adamatch"""
        threshold: Annotated[float, Field(ge=0, le=1), Uniform(0.8, 0.99)] = 0.9
        """Confidence, relative to the source's own, above which a pseudo-label counts."""
        weight: Annotated[float, Field(ge=0), LogUniform(0.1, 10.0)] = 1.0
        """Weight of the pseudo-labels' loss once it has risen, half-way through the run."""
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
        """Decay of the averaged weights that the run leaves behind; 0.999 in the paper, for runs of 100,000 steps."""
        batch_norm: Literal["own", "joint"] = "own"
        """Each domain by its own batch, or the target in the source's company with logits interpolated, as in the
        paper; on domains far apart that called everything one class."""
        target_prior: Annotated[float, Field(gt=0, lt=1)] | None = None
        """Share of lenses expected in the target, to which pseudo-labels are aligned; null for what is predicted of the
        source, as in the paper, which has been no worse: see docs/results.md."""

    def __init__(self, config: Config, model: Model, task: Task) -> None:
        super().__init__(config, model, task)
        self.average = frozen_copy(model)
        classes, prior = len(task.classes), config.target_prior
        self.register_buffer("seen", torch.zeros(()))  # batches that the two averages are of
        self.register_buffer("source_classes", torch.zeros(classes))
        self.register_buffer("target_classes", torch.zeros(classes))
        self.register_buffer("wanted", torch.tensor([] if prior is None else [1 - prior, prior]))

    @property
    def result(self) -> Model:
        return self.average

    def losses(self, source: Images, target: Images, progress: float) -> Losses:
        on_source = torch.cat([source.views["weak"], source.views["strong"]])
        on_target = torch.cat([target.views["weak"], target.views["strong"]])

        _, logits = self.on_source(on_source)
        if self.config.batch_norm == "joint":
            # Random logit interpolation: the source by itself, and in the target's company.
            sizes = [len(on_source), len(on_target)]
            together, guess = self.model(torch.cat([on_source, on_target])).split(sizes)
            logits = torch.lerp(together, logits, torch.rand_like(logits))
        else:
            _, guess = self.on_target(on_target)

        from_weak, from_strong = guess.chunk(2)
        pseudo, keep = self.pseudo_labels(logits.chunk(2)[0], from_weak)
        loss = (keep * F.cross_entropy(from_strong, pseudo, reduction="none")).mean()
        last = len(self.task.classes) - 1
        return Losses(
            terms={
                "supervised": self.task.loss(logits, source.labels.repeat(2)),
                "pseudo_label": self.config.weight * rise(progress, until=0.5) * loss,
            },
            monitors={
                "kept": keep.mean(),
                "last_class": guess.detach().softmax(-1)[:, -1].mean(),
                "last_class_kept": (keep * (pseudo == last)).mean(),
            },
        )

    @torch.no_grad()
    def pseudo_labels(self, source_logits: Tensor, target_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B,) for the target after distribution alignment, and which to keep, as 0 or 1; eqs. 3 to 6."""
        source, target = source_logits.float().softmax(-1), target_logits.float().softmax(-1)
        # A short run would never forget a uniform beginning, where one image in a hundred is a lens.
        decay = (self.seen / (self.seen + 1)).clamp(max=0.99)
        average_(self.source_classes, source.mean(0), decay)
        average_(self.target_classes, target.mean(0), decay)
        self.seen += 1
        wanted = self.source_classes if self.config.target_prior is None else self.wanted
        aligned = F.normalize(target * wanted / self.target_classes.clamp_min(1e-6), p=1, dim=-1)
        confidence, label = aligned.max(-1)
        usual = over_workers(source.amax(-1).mean())
        return label, (confidence >= self.config.threshold * usual).float()

    def after_step(self, progress: float) -> None:
        follow_(self.average, self.model, self.config.decay)
        for slow, fast in zip(batch_norms(self.average), batch_norms(self.model), strict=True):
            if slow.track_running_stats and slow.running_mean is not None:
                slow.running_mean.copy_(fast.running_mean)
                slow.running_var.copy_(fast.running_var)

    def symptoms(self, metrics: Mapping[str, float]) -> list[str]:
        found = super().symptoms(metrics)
        if metrics.get("monitor/kept", 1.0) == 0:
            found.append(
                "no pseudo-label is kept: nothing is learned from the target: lower method.threshold"
            )
        return found
