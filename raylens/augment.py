"""Views: Albumentations pipelines by name, made by one function on a batch of rows.

A call of an Albumentations pipeline costs more than its work on a small cutout, so `augment` calls it with a
stack of rows. The transforms of raylens/pipelines.py (`PerRow`) draw anew for each row of a stack. Albumentations'
own draw once for the stack: a pipeline with any of them is called for groups of `ROWS_PER_DRAW` shuffled rows. The
view of any one row is distributed as if it were alone, and so is its expected gradient; two rows of a batch
of B share a draw with probability (ROWS_PER_DRAW - 1) / (B - 1), which adds a little to the variance
between batches.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raylens.errors import ConfigError
from raylens.find import guess

if TYPE_CHECKING:
    import albumentations as A

NONE = "none"
DIHEDRAL = "dihedral"
WEAK = "weak"
STRONG = "strong"
NOISE = "noise"
ROTATION = "rotation"
PRETEXT = "pretext"
ALL = "all"
PREDECESSORS = "predecessors"
_NAMES = (NONE, DIHEDRAL, WEAK, STRONG, NOISE, ROTATION, PRETEXT, ALL, PREDECESSORS)

ROWS_PER_DRAW = 8
STACK = 1 << 20
"""Bytes of a stack at most where each row has its draw; larger ones leave the processor's cache."""


def names() -> list[str]:
    """The pipelines there are."""
    return list(_NAMES)


def augment(pixels: np.ndarray, pipeline: str, seed: int | Sequence[int]) -> np.ndarray:
    """Views of `pixels`, float32 (N, C, H, W), that depend on pixels, pipeline and seed alone.

    Raises ConfigError for an unknown pipeline. Safe to call from several threads.
    Two views of the same rows need two seeds: a sequence such as (seed, rank, step, view) makes them.
    """
    compose = composed(pipeline, *pixels.shape[2:])
    if pipeline == NONE:
        return pixels
    rng = np.random.default_rng(seed)
    compose.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    views = np.empty(pixels.shape, np.float32)
    for rows in stacks(compose, pixels, rng):
        images = np.ascontiguousarray(pixels[rows].transpose(0, 2, 3, 1))
        views[rows] = compose(images=images)["images"].transpose(0, 3, 1, 2)
    return views


def twins(pixels: np.ndarray, high: np.ndarray, seed: int | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) and twins (N, C, f H, f W), both by the same symmetry of a square, drawn for each row."""
    symmetries = np.random.default_rng(seed).integers(8, size=len(pixels))

    def moved(images: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(turned(images.transpose(0, 2, 3, 1), symmetries).transpose(0, 3, 1, 2))

    return moved(pixels), moved(high)


def turned(images: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
    """Each image of (N, H, W, C) by its symmetry of a square, 0 to 7: quarter turns, and from 4 on mirrored."""
    moved = np.empty_like(images)
    for symmetry in np.unique(symmetries):
        rows = symmetries == symmetry
        some = np.rot90(images[rows], symmetry % 4, axes=(1, 2))
        moved[rows] = some[:, ::-1] if symmetry >= 4 else some
    return moved


def stacks(compose: A.Compose, pixels: np.ndarray, rng: np.random.Generator) -> Iterator[slice | np.ndarray]:
    """Which rows the pipeline is called with at a time."""
    from raylens.pipelines import PerRow

    if all(isinstance(transform, PerRow) for transform in compose.transforms):
        length = max(1, STACK // max(1, pixels[:1].nbytes))
        yield from (slice(start, start + length) for start in range(0, len(pixels), length))
    else:
        order = rng.permutation(len(pixels))
        yield from (order[start : start + ROWS_PER_DRAW] for start in range(0, len(pixels), ROWS_PER_DRAW))


_here = threading.local()  # a pipeline holds its generator, so each thread has its own


def composed(pipeline: str, height: int, width: int) -> A.Compose:
    """The pipeline of this thread for images of this size; raises ConfigError for an unknown one."""
    if pipeline not in _NAMES:
        known = ", ".join(_NAMES)
        raise ConfigError(f"unknown views {pipeline!r}{guess(pipeline, _NAMES)}; known here: {known}")
    made = _here.__dict__.setdefault("made", {})
    key = (pipeline, height, width)
    if key not in made:
        from raylens import pipelines

        made[key] = pipelines.compose(pipeline, height, width)
    return made[key]
