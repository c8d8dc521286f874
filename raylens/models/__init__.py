"""Encoders, and the model that joins one to a head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Model(nn.Module):
    """An encoder, pixels -> features, and a head, features -> logits."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def features(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.encoder(pixels))


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
