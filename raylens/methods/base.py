"""What every method offers: streams and views it wants, losses, parameter groups, a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from raylens.augment import PRETEXT
from raylens.ema import gathered
from raylens.errors import ConfigError
from raylens.health import ALIKE, COLLAPSED, FLAT
from raylens.losses import alignment, importance, uniformity
from raylens.models import Model, without_tracking
from raylens.records import Images, Losses
from raylens.space import LogUniform, Range
from raylens.tasks.classification import Task


class Method(nn.Module):
    """A way to learn. Abstract: subclasses declare the constants below and define `losses` and `result`.

    State is parameters and buffers, so it is saved, resumed and shared between workers without further code; schedules
    are functions of `progress`, which runs from 0 to 1.
    """

    streams: ClassVar[tuple[str, ...]]
    """Names of the streams that `losses` takes."""
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    """Tasks it can learn."""
    views: ClassVar[Mapping[str, str]]
    """View -> Albumentations pipeline that makes it from a row; see raylens/pipelines.py."""
    labelled: ClassVar[bool] = True
    """Whether the source must have labels."""
    encoders: ClassVar[tuple[str, ...]] = ()
    """Encoders that it can train, the first its default; any without a name here."""
    start: ClassVar[str | None] = None
    """Method whose trained model this one starts from."""
    suggests: ClassVar[Mapping[str, Any]] = {}
    """Settings outside its own section that suit it better than the defaults."""
    target_times: ClassVar[int] = 1
    """Target images to each source image, unless data.target_batch says how many there are."""
    space: ClassVar[Mapping[str, Range]] = {}
    """Ranges outside its own section, searched by default."""
    prior_needs: ClassVar[str | None] = None
    """Setting that is 0 unless method.target_prior is to count; none where it always does."""
    Config: ClassVar[type]

    def forward(self, batch: Mapping[str, Images], progress: float) -> Losses:
        """`losses` of a batch, Images by stream: what data parallelism wraps."""
        return self.losses(**batch, progress=progress)

    def losses(self, **streams: Any) -> Losses:
        """The loss terms of one step; the arguments are the streams, and `progress` from 0 to 1. Abstract."""
        raise NotImplementedError(f"{type(self).__name__} must define losses")

    @property
    def result(self) -> Model:
        """The model that the run leaves behind."""
        raise NotImplementedError(f"{type(self).__name__} must define result")

    def groups(self) -> Sequence[dict[str, Any]]:
        """Parameter groups: each has a `name`, and an `lr` of its own, or a `scale` of the optimizer section's."""
        return [group("model", self)]

    def after_step(self, progress: float) -> None:
        """What follows an optimizer step, such as a moving average."""

    def symptoms(self, metrics: Mapping[str, float]) -> list[str]:
        """What looks wrong in a report's metrics, a sentence each."""
        found = []
        if metrics.get("monitor/weight_change", 1.0) == 0:
            found.append("the weights of the result do not move")
        for name, value in metrics.items():
            if name.startswith("monitor/lr_") and value == 0:
                found.append(f"the learning rate of the {name.removeprefix('monitor/lr_')} is 0")
        return found


class Adaptation(Method):
    """Learns from a labelled source and an unlabelled target, and starts from the source's model. Abstract.

    Each domain goes through batch norm by its own batch; the running statistics, which the result is used with, are the
    target's alone, of several workers those of the first.
    """

    streams = ("source", "target")
    start = "supervised"
    suggests = {"optimizer.lr": 1e-4}
    space = {"optimizer.lr": LogUniform(1e-5, 5e-4)}

    def __init__(self, config: Any, model: Model, task: Task) -> None:
        super().__init__()
        check_prior(getattr(config, "target_prior", None), task.classes)
        self.config, self.task, self.model = config, task, model

    @property
    def result(self) -> Model:
        return self.model

    def on_source(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, dim) and logits (B, K) of source images; leaves batch norm's running statistics alone."""
        with without_tracking(self.model) if self.training else nullcontext():
            return self.model.said(pixels)

    def on_target(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, dim) and logits (B, K) of target images; batch norm's running statistics follow them."""
        return self.model.said(pixels)


class Pretraining(Method):
    """Learns features from two views of each image, without a label. Abstract.

    What becomes of the features, `two_views`, is computed from the rows of all workers, so that batch norm in the
    heads, negatives and correlations are of the whole batch. Encoders drop nothing unless they are told to: what a
    projection head behind them makes up for, the features would lack.
    """

    streams = ("source",)
    tasks = ("pretraining",)
    labelled = False
    views = {"one": PRETEXT, "two": PRETEXT}
    suggests = {
        "task.name": "pretraining",
        "search.validator": "rankme",
        "fit.steps": 2000,
        "encoder.dropout": 0.0,
    }
    space = {"optimizer.lr": LogUniform(1e-4, 1e-2), "optimizer.weight_decay": LogUniform(1e-6, 1e-2)}

    def __init__(self, config: Any, model: Model, task: Task) -> None:
        super().__init__()
        self.config, self.model = config, model

    @property
    def result(self) -> Model:
        return self.model

    def two_views(self, source: Images, model: Model | None = None) -> tuple[Tensor, Tensor]:
        """Features (W B, dim) of both views of W workers, each by itself, by the model that learns or another one."""
        model = model or self.model
        one, two = (gathered(model.features(source.views[view])) for view in ("one", "two"))
        return one, two

    def symptoms(self, metrics: Mapping[str, float]) -> list[str]:
        """What looks wrong in a report's metrics, a sentence each; features that are all alike do, or all on a line."""
        found = super().symptoms(metrics)
        if metrics.get("monitor/spread", 1.0) < ALIKE:
            found.append(f"{COLLAPSED}all images have the same features")
        elif metrics.get("source/dimensions", FLAT) < FLAT:
            found.append(f"{COLLAPSED}the features fill one dimension")
        return found


@torch.no_grad()
def spreading(one: Tensor, two: Tensor) -> dict[str, Tensor]:
    """Monitors of two views' features (B, dim): `spread`, 1 or less, and 0 if all are alike; alignment and uniformity.

    Chen & He 2021, section 4.1, and Wang & Isola 2020.
    """
    one, two = one.float(), two.float()
    deviation = F.normalize(one, dim=1).std(0, correction=0).mean() * one.shape[1] ** 0.5
    return {"spread": deviation, "alignment": alignment(one, two), "uniformity": uniformity(one)}


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, with batch norm and ReLU between them: a projection head or a predictor."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def group(name: str, net: nn.Module, lr: float | None = None, scale: float | None = None) -> dict[str, Any]:
    """The parameter group of all that is trained in `net`, at an `lr` of its own or `scale` times the section's."""
    own = {key: value for key, value in (("lr", lr), ("scale", scale)) if value is not None}
    return {"name": name, "params": [p for p in net.parameters() if p.requires_grad], **own}


def opponent(inputs: int, *hidden: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A net from features (B, inputs) to one number each, (B,): a discriminator's logit or a critic's score."""
    layers = [layer for widths in pairwise((inputs, *hidden)) for layer in (nn.Linear(*widths), activation())]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], 1), nn.Flatten(0))


def judge(net: nn.Module, features: Tensor) -> Tensor:
    """`net` of features (B, dim), with a gradient for these and none for the net: how an encoder sees its opponent."""
    fixed = {name: weight.detach() for name, weight in net.named_parameters()}
    return functional_call(net, fixed, (features,))


def target_weights(source: Images, classes: int, prior: float | None) -> Tensor:
    """Weights (B,), mean 1, of source images that give the last class the share `prior`; all 1 without one."""
    if prior is None:
        return torch.ones(len(source), device=next(iter(source.views.values())).device)
    assert source.labels is not None, "the source has labels"
    return importance(source.labels == classes - 1, prior)


def check_prior(prior: float | None, classes: Sequence[str]) -> None:
    """Raises ConfigError for a prior of lenses in data of more classes than two."""
    if prior is not None and len(classes) != 2:
        raise ConfigError(
            f"method.target_prior is a share of lenses, and the data has the classes {', '.join(classes)}; "
            "set it to null"
        )
