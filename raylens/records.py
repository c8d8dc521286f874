"""What crosses a module boundary: images, losses, outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """A batch of one stream.

    `views` maps a view's name to float32 pixels (B, C, H, W); `labels` is (B,), or images (B, C, f H, f W), or
    None where the stream has none: the target stream never has; `ids` are the rows' positions in their data set, (B,).
    """

    views: Mapping[str, Tensor]
    labels: Tensor | None = None
    ids: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.views.values())))

    def to(self, device: torch.device | str) -> Images:
        """The same on a device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        views = {name: view.to(device, non_blocking=True) for name, view in self.views.items()}
        return Images(views, move(self.labels), move(self.ids))


@dataclass(frozen=True)
class Losses:
    """`terms`, named scalars whose sum is the loss, and `monitors`, named scalars that are only logged."""

    terms: Mapping[str, Tensor]
    monitors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        return torch.stack([*self.terms.values()]).sum()


@dataclass(frozen=True)
class Outputs:
    """What a model says of a whole split: features (N, dim), logits (N, K), labels (N,) or None, ids (N,).

    Of painted images logits are what a task judged them to be, and there are no features, (N, 0).
    """

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray | None
    ids: np.ndarray
    mixed: Callable[[np.ndarray, np.ndarray, float], np.ndarray] | None = None
    """Logits (M, K) of mixtures of images: rows (M,), other rows (M,), and the share of the first."""
    prior: np.ndarray | None = None
    """Shares of the classes (K,) that are expected here, where something is known of them without labels."""
