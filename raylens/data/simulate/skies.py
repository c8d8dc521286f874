"""Noise of a real sky, to be laid under simulated light in place of white or smoothed noise.

A cutout's own sky, with its galaxies cut out: pixels above SOURCE standard deviations of the smoothed image, and those
around them, are covered with sky from elsewhere in the same cutout. The correlation of neighbours and of bands, the
unsubtracted background and the steps of an 8-bit picture stay what they are; each field is scaled to unit deviation.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter

from raylens.data.shards import read_manifest, read_split
from raylens.data.simulate.painted import border
from raylens.errors import DataError

SOURCE = 3.0
SKY = 0.3
"""Share of its pixels that must be sky, for a cutout to count."""


def skies(path: str, bands: str, size: int) -> dict[str, np.ndarray]:
    """By split, fields of noise (N, C, size, size) of unit deviation, from the cutouts of a set.

    Raises DataError when its bands or its size are others, or no cutout has enough sky.
    """
    manifest = read_manifest(path)
    if tuple(bands) != manifest.bands or size > manifest.size:
        raise DataError(
            f"{path} has the bands {', '.join(manifest.bands)} and {manifest.size} pixels, asked for are {bands} and "
            f"{size}; give --bands and --size that it has, or convert it with others"
        )
    found = {split: fields(read_split(path, split)["pixels"], size) for split in manifest.splits}
    found = {split: held for split, held in found.items() if len(held)}
    if not found:
        raise DataError(f"no cutout of {path} has enough sky to take noise from; give another set")
    return found


def fields(pixels: np.ndarray, size: int) -> np.ndarray:
    """Noise of cutouts (N, C, H, W), of unit deviation, from their middle: (M, C, size, size)."""
    begin = (pixels.shape[-1] - size) // 2
    made = [
        _field(image[:, begin : begin + size, begin : begin + size].astype(np.float32)) for image in pixels
    ]
    return np.array([field for field in made if field is not None], np.float32).reshape(
        -1, pixels.shape[1], size, size
    )


def _field(image: np.ndarray) -> np.ndarray | None:
    """The sky of one cutout (C, H, W), or None where it has too little."""
    random, field = np.random.default_rng(0), image.copy()
    smooth, edge = gaussian_filter(image, (0, 1, 1)), border(image.shape[-1])
    level = np.median(smooth[:, edge], axis=1)[:, None, None]
    deviation = 1.4826 * np.median(np.abs(smooth - level)[:, edge], axis=1)[:, None, None]
    sky = ~binary_dilation((smooth > level + SOURCE * deviation).any(0), iterations=2)
    if sky.mean() < SKY:
        return None
    left = ~sky
    while left.any():
        shift = random.integers(image.shape[-1], size=2)
        there = left & np.roll(sky, shift, axis=(0, 1))
        field[:, there] = np.roll(image, shift, axis=(1, 2))[:, there]
        left &= ~there
    held = field[:, sky]
    mean, spread = held.mean(1)[:, None, None], held.std(1)[:, None, None]
    return (field - mean) / spread if (spread > 0).all() else None


def drawn(held: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the fields `held` (N, C, H, W), at random, each turned, mirrored and rolled by itself."""
    rows, turns = rng.integers(len(held), size=count), rng.integers(8, size=count)
    shifts = rng.integers(held.shape[-1], size=(count, 2))
    made = []
    for row, turn, shift in zip(rows, turns, shifts, strict=True):
        field = np.roll(np.rot90(held[row], turn % 4, axes=(-2, -1)), shift, axis=(-2, -1))
        made.append(field[..., ::-1] if turn >= 4 else field)
    return np.stack(made)
