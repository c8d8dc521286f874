"""What views are made of: transforms that draw anew for each row of a stack, and pipelines of them by name.

They are Albumentations', whose import takes as long as a third of torch's: only what makes views imports this.

Two habits of Albumentations 2.0.8 are avoided here. Its noise, brightness and contrast clip float images to
[0, 1], while preprocessed pixels may lie beyond: the transforms below do not clip. And a pipeline seeded as
its manual has it gives all its transforms the same generator state, so that a vertical flip comes with every
horizontal one: here they share one generator.
"""

from __future__ import annotations

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks the network for a newer version

import albumentations as A
import cv2
import numpy as np

from raylens import augment

cv2.setNumThreads(0)  # the stream brings its own threads


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
        return augment.turned(images, symmetries)


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
    augment.NONE: lambda height, width: [],
    # The symmetries of a cutout, slightly off centre.
    augment.DIHEDRAL: lambda height, width: [Symmetry(), Shift(4)],
    augment.WEAK: lambda height, width: [Symmetry(), Shift(2)],
    # As another telescope might see it; never cuts the ring.
    augment.STRONG: lambda height, width: strong(),
    augment.NOISE: lambda height, width: [Noise(0.06)],
    augment.ROTATION: lambda height, width: [Symmetry(), rotation()],
    # Two views of the same lens: what does not matter about it, and nothing that its substructure is.
    augment.PRETEXT: lambda height, width: [Symmetry(), Shift(4), Noise(0.06)],
    augment.ALL: lambda height, width: [Symmetry(), rotation(), Shift(4), Noise(0.06)],
    # As published: half of the images at twice the scale, the ring perhaps cut.
    augment.PREDECESSORS: predecessors,
}


def compose(name: str, height: int, width: int) -> A.Compose:
    """A pipeline of `PIPELINES`, with a generator of its own."""
    return A.Compose(PIPELINES[name](height, width))
