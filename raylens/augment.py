"""Views: Albumentations pipelines by name, made by one function on a batch of rows.

A call of an Albumentations pipeline costs more than its work on a small cutout, so `augment` calls it with a
stack of rows. The transforms below (`PerRow`) draw anew for each row of a stack. Albumentations' own draw
once for the stack: a pipeline with any of them is called for groups of `ROWS_PER_DRAW` shuffled rows. The
view of any one row is distributed as if it were alone, and so is its expected gradient; two rows of a batch
of B share a draw with probability (ROWS_PER_DRAW - 1) / (B - 1), which adds a little to the variance
between batches.

Two habits of Albumentations 2.0.8 are avoided here. Its noise, brightness and contrast clip float images to
[0, 1], while preprocessed pixels may lie beyond: the transforms below do not clip. And a pipeline seeded as
its manual has it gives all its transforms the same generator state, so that a vertical flip comes with every
horizontal one: here they share one generator.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator, Sequence

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks the network for a newer version

import albumentations as A
import cv2
import numpy as np

from raylens.errors import ConfigError
from raylens.find import guess

cv2.setNumThreads(0)  # the stream brings its own threads

NONE = "none"
DIHEDRAL = "dihedral"
WEAK = "weak"
STRONG = "strong"
NOISE = "noise"
ROTATION = "rotation"
PRETEXT = "pretext"
ALL = "all"
PREDECESSORS = "predecessors"

ROWS_PER_DRAW = 8
STACK = 1 << 20
"""Bytes of a stack at most where each row has its draw; larger ones leave the processor's cache."""


class PerRow(A.ImageOnlyTransform):
    """A transform with a draw of its own for each image of a stack (N, H, W, C)."""

    def __init__(self) -> None:
        super().__init__(p=1)

    def apply(self, img: np.ndarray, **params: np.ndarray) -> np.ndarray:
        return self.apply_to_images(img[None], **params)[0]

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict[str, np.ndarray]:
        stack = data["images"] if "images" in data else data["image"][None]
        return self.draw(self.random_generator, stack.shape)


class Symmetry(PerRow):
    """One of the eight symmetries of a square, each as likely; A.D4 with a draw for each row."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        return {"symmetries": rng.integers(8, size=shape[0])}

    def apply_to_images(self, images: np.ndarray, symmetries: np.ndarray, **_: object) -> np.ndarray:
        return turned(images, symmetries)


def turned(images: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
    """Each image of (N, H, W, C) by its symmetry of a square, 0 to 7: quarter turns, and from 4 on mirrored."""
    moved = np.empty_like(images)
    for symmetry in np.unique(symmetries):
        rows = symmetries == symmetry
        some = np.rot90(images[rows], symmetry % 4, axes=(1, 2))
        moved[rows] = some[:, ::-1] if symmetry >= 4 else some
    return moved


class Shift(PerRow):
    """Moves by whole pixels, up to `limit`; what comes in is mirrored at the edge."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        return {"shifts": rng.integers(-self.limit, self.limit, size=(shape[0], 2), endpoint=True)}

    def apply_to_images(self, images: np.ndarray, shifts: np.ndarray, **_: object) -> np.ndarray:
        border, (height, width) = self.limit, images.shape[1:3]
        moved = np.empty_like(images)
        for image, (down, right), view in zip(images, shifts + border, moved, strict=True):
            wide = cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_REFLECT_101)
            view[:] = wide.reshape(*wide.shape[:2], -1)[down : down + height, right : right + width]
        return moved


class Levels(PerRow):
    """Multiplies by 1 up to `gain` more or less, adds up to `offset`."""

    def __init__(self, gain: float, offset: float) -> None:
        super().__init__()
        self.gain, self.offset = gain, offset

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        gain, offset = rng.uniform(-1, 1, size=(2, shape[0], 1, 1, 1)).astype(np.float32)
        return {"gain": 1 + self.gain * gain, "offset": self.offset * offset}

    def apply_to_images(
        self, images: np.ndarray, gain: np.ndarray, offset: np.ndarray, **_: object
    ) -> np.ndarray:
        return images * gain + offset


class Blur(PerRow):
    """Convolves a share of the rows with a Gaussian whose standard deviation, in pixels, lies between the limits."""

    def __init__(self, low: float, high: float, share: float) -> None:
        super().__init__()
        self.low, self.high, self.share = low, high, share

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        sigmas = rng.uniform(self.low, self.high, size=shape[0])
        return {"sigmas": np.where(rng.random(shape[0]) < self.share, sigmas, 0)}

    def apply_to_images(self, images: np.ndarray, sigmas: np.ndarray, **_: object) -> np.ndarray:
        blurred = images.copy()
        for row in np.flatnonzero(sigmas):
            blurred[row] = cv2.GaussianBlur(images[row], (0, 0), sigmas[row]).reshape(images.shape[1:])
        return blurred


class Noise(PerRow):
    """Adds Gaussian noise to a share of the rows, independent in every pixel, of a standard deviation up to `sigma`."""

    def __init__(self, sigma: float, share: float = 1.0) -> None:
        super().__init__()
        self.sigma, self.share = sigma, share

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        sigma = rng.uniform(0, self.sigma, size=(shape[0], 1, 1, 1))
        sigma = np.where(rng.random(sigma.shape) < self.share, sigma, 0).astype(np.float32)
        return {"noise": sigma * rng.standard_normal(shape, dtype=np.float32)}

    def apply_to_images(self, images: np.ndarray, noise: np.ndarray, **_: object) -> np.ndarray:
        return images + noise


def strong() -> list[A.BasicTransform]:
    blur = Blur(0.3, 1.2, share=0.5)
    return [Symmetry(), Shift(4), blur, Levels(gain=0.2, offset=0.05), Noise(0.06)]


def rotation() -> A.BasicTransform:
    return A.Rotate(limit=45, border_mode=cv2.BORDER_REFLECT_101, p=1)


def predecessors(height: int, width: int) -> list[A.BasicTransform]:
    crop = A.Sequential([A.RandomCrop(height // 2, width // 2), A.Resize(height, width)], p=0.5)
    return [crop, A.HorizontalFlip(p=0.25), A.VerticalFlip(p=0.25), Noise(0.03, share=0.5)]


PIPELINES = {
    NONE: lambda height, width: [],
    # The symmetries of a cutout, slightly off centre.
    DIHEDRAL: lambda height, width: [Symmetry(), Shift(4)],
    WEAK: lambda height, width: [Symmetry(), Shift(2)],
    # As another telescope might see it; never cuts the ring.
    STRONG: lambda height, width: strong(),
    NOISE: lambda height, width: [Noise(0.06)],
    ROTATION: lambda height, width: [Symmetry(), rotation()],
    # Two views of the same lens: what does not matter about it, and nothing that its substructure is.
    PRETEXT: lambda height, width: [Symmetry(), Shift(4), Noise(0.06)],
    ALL: lambda height, width: [Symmetry(), rotation(), Shift(4), Noise(0.06)],
    # As published: half of the images at twice the scale, the ring perhaps cut.
    PREDECESSORS: predecessors,
}


def names() -> list[str]:
    """The pipelines there are."""
    return list(PIPELINES)


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


def stacks(compose: A.Compose, pixels: np.ndarray, rng: np.random.Generator) -> Iterator[slice | np.ndarray]:
    """Which rows the pipeline is called with at a time."""
    if all(isinstance(transform, PerRow) for transform in compose.transforms):
        length = max(1, STACK // max(1, pixels[:1].nbytes))
        yield from (slice(start, start + length) for start in range(0, len(pixels), length))
    else:
        order = rng.permutation(len(pixels))
        yield from (order[start : start + ROWS_PER_DRAW] for start in range(0, len(pixels), ROWS_PER_DRAW))


_here = threading.local()  # a pipeline holds its generator, so each thread has its own


def composed(pipeline: str, height: int, width: int) -> A.Compose:
    made = _here.__dict__.setdefault("made", {})
    key = (pipeline, height, width)
    if key not in made:
        if pipeline not in PIPELINES:
            known = ", ".join(PIPELINES)
            raise ConfigError(f"unknown views {pipeline!r}{guess(pipeline, names())}; known here: {known}")
        made[key] = A.Compose(PIPELINES[pipeline](height, width))
    return made[key]
