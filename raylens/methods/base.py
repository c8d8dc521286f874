"""What every method offers: streams and views it wants, losses, parameter groups, a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from raylens.models import Model
from raylens.records import Images, Losses
from raylens.space import Range


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
    """View -> Albumentations pipeline that makes it from a row; see raylens/augment.py."""
    start: ClassVar[str | None] = None
    """Method whose trained model this one starts from."""
    suggests: ClassVar[Mapping[str, Any]] = {}
    """Settings outside its own section that suit it better than the defaults."""
    space: ClassVar[Mapping[str, Range]] = {}
    """Ranges outside its own section, searched by default."""
    Config: ClassVar[type]

    def forward(self, batch: Mapping[str, Images], progress: float) -> Losses:
        return self.losses(**batch, progress=progress)

    def losses(self, **streams: Any) -> Losses:
        """The loss terms of one step; the arguments are the streams, and `progress`."""
        raise NotImplementedError(f"{type(self).__name__} must define losses")

    @property
    def result(self) -> Model:
        """The model that the run leaves behind."""
        raise NotImplementedError(f"{type(self).__name__} must define result")

    def groups(self) -> Sequence[dict[str, Any]]:
        """Parameter groups, each with a `name` and its `lr` where that differs from the optimizer section's."""
        return [{"name": "model", "params": [p for p in self.parameters() if p.requires_grad]}]

    def after_step(self, progress: float) -> None:
        """What follows an optimizer step, such as a moving average."""

    def symptoms(self, metrics: Mapping[str, float]) -> list[str]:
        """What looks wrong in a report's metrics, a sentence each."""
        found = []
        if metrics.get("monitor/weight_change", 1.0) == 0:
            found.append("the weights do not move")
        for name, value in metrics.items():
            if name.startswith("monitor/lr_") and value == 0:
                found.append(f"the learning rate of the {name.removeprefix('monitor/lr_')} is 0")
        return found


class Adaptation(Method):
    """Learns from a labelled source and an unlabelled target. Abstract."""

    streams = ("source", "target")
