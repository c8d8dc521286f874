"""Encoders, and the model that joins one to a head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Model(nn.Module):
    """An encoder, pixels -> features, and a head, features -> logits."""

    encoder: Any
    head: Any

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def features(self, pixels: Tensor) -> Tensor:
        """What the encoder makes of pixels (N, C, H, W): (N, dim)."""
        return self.encoder(pixels)

    def said(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, dim) and logits (N, K) of pixels (N, C, H, W)."""
        features = self.features(pixels)
        return features, self.head(features)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, K) of pixels (N, C, H, W); a regression's (N, 1)."""
        return self.said(pixels)[1]


class Turned(Model):
    """A model that says what it says on average of an image's eight turns and mirrors, at eight times the work.

    Features and numbers are averaged, and probabilities where there are several classes (Krizhevsky et al. 2012, sec.
    4.1; Dieleman et al. 2015, arXiv 1503.07077, for galaxies): a lens is one whichever way it lies.
    """

    def __init__(self, model: Model) -> None:
        """Of a model of whole images, with its own encoder and head."""
        super().__init__(model.encoder, model.head)

    def features(self, pixels: Tensor) -> Tensor:
        """The mean of what the encoder makes of the turns of pixels (N, C, H, W): (N, dim)."""
        return self.said(pixels)[0]

    def said(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean features (N, dim), and logits (N, K) whose probabilities are the mean of the turns' own."""
        features = torch.stack([self.encoder(turn) for turn in turns(pixels)])
        return features.mean(0), mean_said(torch.stack([self.head(one) for one in features]))


def turns(pixels: Tensor) -> Iterator[Tensor]:
    """Square images (N, C, H, W) in their eight orientations, the dihedral group D4, the given one first."""
    for mirrored in (pixels, pixels.flip(-1)):
        for quarters in range(4):
            yield mirrored.rot90(quarters, (-2, -1))


def turned_back(maps: Sequence[Tensor]) -> Tensor:
    """Maps (N, H, W) of each of the `turns` of images, as the images lay: (8, N, H, W)."""
    back = [one.rot90(-number % 4, (-2, -1)) for number, one in enumerate(maps)]
    return torch.stack([*back[:4], *(one.flip(-1) for one in back[4:])])


def mean_said(said: Tensor) -> Tensor:
    """Of M answers (M, N, K), logits (N, K) of their mean probabilities; of numbers (M, N, 1) the mean."""
    if said.shape[-1] == 1:
        return said.mean(0)
    return said.float().log_softmax(-1).logsumexp(0) - math.log(len(said))


class Painter(Model):
    """An encoder and a head that paints an image, of the image itself and the encoder's maps of it."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Images (N, C, f H, f W) of pixels (N, C, H, W): the same, f times finer."""
        return self.head(pixels, self.encoder.maps(pixels))


def batch_norms(module: nn.Module) -> Iterator[_BatchNorm]:
    """The batch-norm layers of a module, synchronised and equivariant ones among them."""
    return (layer for layer in module.modules() if isinstance(layer, _BatchNorm))


@contextmanager
def without_tracking(module: nn.Module) -> Iterator[None]:
    """Batch norm uses the statistics of the batch, and leaves the running ones as they are."""
    layers = [(layer, layer.training, layer.track_running_stats) for layer in batch_norms(module)]
    try:
        for layer, _, _ in layers:
            layer.training, layer.track_running_stats = True, False
        yield
    finally:
        for layer, training, tracking in layers:
            layer.training, layer.track_running_stats = training, tracking


def forget_statistics(module: nn.Module) -> None:
    """Running statistics begin anew; each batch will count alike."""
    for layer in batch_norms(module):
        layer.reset_running_stats()
        layer.momentum = None  # a plain average


@torch.no_grad()
def adapt_batch_norm(
    model: Model, pixels: np.ndarray, *, batch: int = 256, device: torch.device | str = "cpu"
) -> None:
    """Replace the running statistics of `model`'s batch norm by those of pixels (N, C, H, W), no more.

    Li et al. 2016 (arXiv 1603.04779), AdaBN; the statistics are averaged over batches, each counting alike.
    """
    layers = list(batch_norms(model))
    momenta = [layer.momentum for layer in layers]
    forget_statistics(model)
    model.eval()
    for layer in layers:
        layer.train()
    for begin in range(0, max(1, len(pixels) - batch + 1), batch):
        model.features(torch.from_numpy(np.array(pixels[begin : begin + batch])).to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()
