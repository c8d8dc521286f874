"""A trained model, ready for images as they are: what `raylens.load` gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from raylens import saliency
from raylens.checkpoint import Checkpoint
from raylens.data.preprocess import preprocess
from raylens.errors import ConfigError, DataError


class Predictor:
    """Says of raw images what a checkpoint was trained to say; they are preprocessed as its training images were.

    Images are (N, C, H, W), (H, W) for one of one channel, (N, H, W) for several of one channel, or (C, H, W) for one
    of several channels, of any numbers; a pixel that is NaN or infinite takes the median of its image. All methods
    raise DataError for images of another shape.
    """

    def __init__(
        self, found: Checkpoint, device: str | None = None, batch: int = 256, *, dihedral: bool = False
    ) -> None:
        """On `device`, or the GPU if there is one; `batch` images at a time, over the turns of each if `dihedral`."""
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device {device!r} was asked for, and there is no GPU here; give 'cpu'")
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.batch = batch
        self.model = found.model(self.device, dihedral=dihedral)
        self.task = found.facts.task(found.run.task)
        self.transform = found.run.data.transform
        self.kind = found.run.task.name
        """classification, regression, super_resolution, or pretraining."""
        self.target = found.run.task.target if self.kind == "regression" else None
        """What the number is that a regression predicts."""
        self.classes: tuple[str, ...] = found.facts.classes if self.kind == "classification" else ()
        """Names of the columns of probabilities; for lenses ("nonlens", "lens")."""
        self.size: int = found.facts.size
        """Height and width of an image, pixels."""
        self.channels: int = found.facts.channels

    def __call__(self, images: ArrayLike) -> np.ndarray:
        """Probabilities (N, K) of `classes`; of a regression numbers (N,).

        Of super-resolution painted images (N, C, f H, f W), in the units of the preprocessed one; of pretraining
        features (N, dim). Images are (N, C, H, W), one of them, or (N, H, W) where there is one channel. Raises
        DataError for images of another shape, and for what is no image.
        """
        said = self._each(images, self.model)
        return said if self.kind == "super_resolution" else self.task.predict(said)

    def features(self, images: ArrayLike) -> np.ndarray:
        """What the encoder makes of images (N, C, H, W): (N, dim). Raises DataError for images of another shape."""
        return self._each(images, self.model.features)

    def explain(self, images: ArrayLike, target: int | str | None = None) -> np.ndarray:
        """Where images speak for a class, its number or name, or the likeliest: (N, H, W), 0 to 1; see saliency.maps.

        Raises ConfigError for a model that says nothing of a whole image and for a class that there is not, DataError
        for images of another shape.
        """
        if isinstance(target, str):
            if target not in self.classes:
                raise ConfigError(
                    f"there is no class {target!r} to explain; known here: {', '.join(self.classes) or 'none'}"
                )
            target = self.classes.index(target)
        pixels = self._checked(images)
        saliency.check(self.model, target)
        seen = [np.zeros((0, self.size, self.size), np.float32)]
        for begin in range(0, len(pixels), self.batch):
            some = preprocess(pixels[begin : begin + self.batch], self.transform)
            seen.append(saliency.maps(self.model, some, target))
        return np.concatenate(seen)

    def __repr__(self) -> str:
        what = ", ".join(self.classes) or self.target or self.kind
        side = f"{self.channels} x {self.size} x {self.size}"
        return f"<raylens model of {what}: images of {side}, {self.transform}, on {self.device}>"

    @torch.inference_mode()
    def _each(self, images: ArrayLike, act: Callable[[Tensor], Tensor]) -> np.ndarray:
        pixels, said = self._checked(images), []
        for begin in range(0, max(1, len(pixels)), self.batch):
            some = preprocess(pixels[begin : begin + self.batch], self.transform)
            said.append(act(torch.from_numpy(some).to(self.device)).float().cpu().numpy())
        return np.concatenate(said)

    def _checked(self, images: ArrayLike) -> np.ndarray:
        """Images as (N, C, H, W)."""
        try:
            pixels = np.asarray(images)
        except ValueError as error:
            raise DataError(f"the images are no array: {error}") from None
        if pixels.dtype.kind not in "fiub":
            raise DataError(f"the images hold {pixels.dtype}, and no numbers")
        given = pixels.shape
        if pixels.ndim == 2:
            pixels = pixels[None, None]
        elif pixels.ndim == 3:
            pixels = pixels[:, None] if self.channels == 1 else pixels[None]
        if pixels.shape[1:] != (self.channels, self.size, self.size):
            single = f", (N, {self.size}, {self.size})" if self.channels == 1 else ""
            raise DataError(
                f"the images are {given}, the model takes (N, {self.channels}, {self.size}, {self.size}){single} "
                "or one of them; cut or scale them to that size"
            )
        return pixels
