"""Encoders, and the model that joins one to a head."""

from __future__ import annotations

from collections.abc import Iterator
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

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, K) of pixels (N, C, H, W); a regression's (N, 1)."""
        return self.head(self.encoder(pixels))


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
