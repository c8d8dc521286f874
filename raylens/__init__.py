"""raylens: learn lenses on simulations, find them on real sky."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from raylens.predictor import Predictor


def load(
    checkpoint: str | PathLike[str], device: str | None = None, batch: int = 256, *, dihedral: bool = False
) -> Predictor:
    """The model of a checkpoint, a folder such as runs/NAME/best or an address, ready for images as they are.

    On `device`, "cpu" or "cuda", or the GPU if there is one; `batch` images at a time. With `dihedral` all that it says
    is averaged over each image's eight turns and mirrors, which is better and eight times the work. Raises ConfigError
    when the checkpoint is none or broken.
    """
    from raylens.checkpoint import read
    from raylens.predictor import Predictor

    return Predictor(read(checkpoint), device, batch, dihedral=dihedral)
