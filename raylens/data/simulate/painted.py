"""Simulated arcs on real cutouts: what a lens finder meets on the sky is real, but for the arcs.

As HOLISMOKES does (Cañameras et al. 2020, arXiv 2004.13048), but without knowing the lens: its light is measured on the
cutout, in whatever units its pixels are, and the source is fainter than it by the preset's contrast. In each band the
unit follows from the galaxy's own light there, taken for that of a red elliptical, so bands may be scaled each by
themselves. On pictures whose pixels are no linear measure of light, arcs come out as bright as asked for, but not as a
camera and the same stretch would have shown them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raylens.data.shards import read_manifest, read_split
from raylens.data.simulate.presets import BANDS, RED, ZERO_POINT
from raylens.errors import DataError

APERTURE = 1.5
"""Radius in which a galaxy's light is measured, arcsec."""
SEEN = 10.0
"""A galaxy that is less bright, in standard deviations of the sky's noise within the aperture, is not taken for one."""
WITHIN = 0.6
"""About the share of an elliptical's light that lies within it: half-light radius 1 arcsec, seeing 0.7."""


@dataclass(frozen=True)
class Backgrounds:
    """Real cutouts of one split: pixels (N, C, H, W), ids, and the light of the galaxies in their middle (N, C)."""

    pixels: np.ndarray
    ids: np.ndarray
    light: np.ndarray

    def paint(
        self, arcs: np.ndarray, magnitude: np.ndarray, bands: list[int], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cutouts drawn at random, turned and mirrored, with `arcs` (B, C, H, W) added; and their ids (B,).

        `arcs` are in counts, where the galaxy has i-band `magnitude` (B,). Nothing becomes brighter than the brightest
        pixel of its band, where pictures saturate.
        """
        rows, turns = rng.integers(len(self.pixels), size=len(arcs)), rng.integers(8, size=len(arcs))
        cutouts = np.stack([_turned(self.pixels[row], turn) for row, turn in zip(rows, turns, strict=True)])
        offsets = np.array([*RED, 0.0])[bands]
        counts = 10 ** (-0.4 * (magnitude[:, None] + offsets - ZERO_POINT))
        unit = self.light[rows] / WITHIN / counts
        brightest = self.pixels.max((0, 2, 3))[:, None, None]
        images = np.minimum(cutouts + arcs * unit[..., None, None], brightest)
        if np.issubdtype(self.pixels.dtype, np.integer):
            images = np.rint(images)  # fractions would tell what was painted on
        return images.astype(self.pixels.dtype), self.ids[rows]


def _turned(image: np.ndarray, turn: int) -> np.ndarray:
    """An image (C, H, W) in one of the eight orientations 0 ... 7 of a square."""
    image = np.rot90(image, turn % 4, axes=(-2, -1))
    return image[..., ::-1] if turn >= 4 else image


def backgrounds(path: str, pixel: float) -> dict[str, Backgrounds]:
    """By split, the cutouts of a set that are unlabelled or of its first class and have a galaxy in their middle.

    A cutout with a pixel that is no number is left out. Raises DataError when there are none, or its bands are not all
    of g, r and i.
    """
    manifest = read_manifest(path)
    if not manifest.bands or any(band not in BANDS for band in manifest.bands):
        raise DataError(
            f"{path} has the bands {', '.join(manifest.bands) or '(not named)'}, arcs have {', '.join(BANDS)}; "
            "convert it with --bands or --band-names"
        )
    found = {}
    for split in manifest.splits:
        held = read_split(path, split)
        whole = np.isfinite(held["pixels"]).all((1, 2, 3))
        held = {name: held[name][whole] for name in ("pixels", "id", "label")}
        light, noise = measured(held["pixels"], pixel)
        usable = (light > SEEN * noise).all(1) & (light > 0).all(1) & (held["label"] <= 0)
        if usable.any():
            found[split] = Backgrounds(held["pixels"][usable], held["id"][usable], light[usable])
    if not found:
        raise DataError(
            f"{path} has no cutout with a galaxy in its middle that is no lens; give another set to --onto"
        )
    return found


def measured(pixels: np.ndarray, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """Light above the sky within APERTURE arcsec of the middle (N, C), and the sky's noise there, (N, C).

    Sky and noise are the median and the median absolute deviation along the edges.
    """
    size = pixels.shape[-1]
    axis = (np.arange(size) - (size - 1) / 2) * pixel
    inside = np.hypot(axis[:, None], axis) < APERTURE
    around = pixels[..., border(size)].astype(np.float32)
    sky = np.median(around, axis=-1, keepdims=True)
    noise = 1.4826 * np.median(np.abs(around - sky), axis=-1)
    return (pixels[..., inside] - sky).sum(-1), noise * np.sqrt(inside.sum())


def border(size: int) -> np.ndarray:
    """The pixels along the edges of an image, a tenth of its width deep: (size, size), true there."""
    edge, deep = np.ones((size, size), bool), max(1, size // 10)
    edge[deep:-deep, deep:-deep] = False
    return edge
