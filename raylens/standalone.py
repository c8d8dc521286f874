"""A model that needs no raylens: from raw images to what it tells of them, as ONNX or as torch.export's .pt2.

Every file is read back and held against the original, NumPy's preprocessing and all, before it counts.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from raylens.data.preprocess_torch import Preprocess
from raylens.errors import ConfigError
from raylens.predictor import Predictor

FORMATS = {"onnx": "model.onnx", "torch": "model.pt2"}
TOLERANCE = 1e-4
"""Largest difference from the original, in the unit of what is told, or of an image's largest number beyond 1."""


class Standalone(nn.Module):
    """Raw images float32 (N, C, H, W), in the data's units -> what `raylens.load` says of them, single precision."""

    def __init__(self, ready: Predictor) -> None:
        super().__init__()
        self.preprocess = Preprocess(ready.transform, ready.size)
        self.model, self.task = copy.deepcopy(ready.model), ready.task
        if hasattr(self.model.encoder, "plain"):
            self.model.encoder = self.model.encoder.plain()
        self.to(memory_format=torch.contiguous_format)  # .pt2 files keep no other
        self.requires_grad_(False).eval()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.task.told(self.model(self.preprocess(pixels)))


def write(ready: Predictor, form: str, path: Path) -> float:
    """Write `ready`, on the CPU, to `path` as `form`; returns the largest difference from the original.

    Raises ConfigError for a network that cannot be written so, or that says something else when it is read back.
    """
    if form == "onnx" and (missing := [name for name in ("onnxscript", "onnxruntime") if not _there(name)]):
        raise ConfigError(
            f"--format onnx needs {' and '.join(missing)}; install them with: pip install 'raylens[export]', or give "
            "--format torch"
        )
    try:
        with quiet():
            says = (_onnx if form == "onnx" else _torch)(ready, path)
    except Exception as error:  # the exporters raise whatever they meet
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ConfigError(
            f"this model cannot be written as {form}: {reason}; try another --format"
        ) from error
    return compare(ready, says, form)


def compare(ready: Predictor, says: Callable[[np.ndarray], np.ndarray], form: str) -> float:
    """The largest difference of `says` from `ready` over `trials`. Raises ConfigError when it is above TOLERANCE."""
    worst = 0.0
    for name, images in trials(ready).items():
        expected, found = ready(images), says(images)
        if found.shape != expected.shape or not np.array_equal(np.isfinite(found), np.isfinite(expected)):
            raise ConfigError(
                f"as {form} the model says something else of {name} images; nothing was written"
            )
        over = tuple(range(1, expected.ndim))
        unit = np.maximum(1, np.abs(expected).max(over, keepdims=True)) if over else np.abs(expected).clip(1)
        worst = max(worst, float(np.nan_to_num(np.abs(found - expected) / unit).max()))
        if worst > TOLERANCE:
            raise ConfigError(
                f"as {form} the model differs by {worst:.1g} in {name} images, above {TOLERANCE:g}; nothing was written"
            )
    return worst


def trials(ready: Predictor) -> dict[str, np.ndarray]:
    """Images float32 (N, C, H, W) to compare models on: likely ones and extremes, batches of several sizes."""
    rng, side = np.random.default_rng(0), ready.size
    y, x = np.mgrid[:side, :side] - side / 2
    blob = np.exp(-(x**2 + y**2) / (2 * (side / 10) ** 2))
    noise = rng.standard_normal((7, ready.channels, side, side))
    sky = 100 + 300 * blob + 3 * noise
    powers = (
        range(-30, 25, 9) if ready.transform != "none" else range(-3, 4)
    )  # "none" leaves units to the network
    flat = np.zeros((5, ready.channels, side, side))
    flat[1:4] = np.array([1, -1, 255])[:, None, None, None]
    flat[4, 0, side // 2, side // 2] = 1
    dead = sky.copy()
    dead[0, 0, :3], dead[1, -1, 5, 5], dead[2, 0, 5, 5], dead[3] = np.nan, np.inf, -np.inf, np.nan
    found = {
        "random": rng.random((3, ready.channels, side, side)),
        "single": sky[:1],
        "noisy": sky,
        "very faint and bright": sky * 10.0 ** np.array(powers)[:, None, None, None],
        "flat": flat,
        "damaged": dead,
    }
    return {name: images.astype(np.float32) for name, images in found.items()}


def _onnx(ready: Predictor, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    made = torch.onnx.export(
        Standalone(ready),
        (_example(ready),),
        dynamo=True,
        verbose=False,
        external_data=False,
        input_names=["pixels"],
        output_names=[ready.task.gives],
        dynamic_shapes={"pixels": {0: "batch"}},
    )
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()  # where in whose files it was traced
    about = {"classes": ",".join(ready.classes), "transform": ready.transform, "target": ready.target or ""}
    made.model.metadata_props.update({key: value for key, value in about.items() if value})
    made.save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"pixels": images})[0]


def _torch(ready: Predictor, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    batch = torch.export.Dim("batch")
    made = torch.export.export(
        Standalone(ready), (_example(ready),), dynamic_shapes={"pixels": {0: batch}}, strict=False
    )
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # where in whose files it was traced
    torch.export.save(made, path)
    module = torch.export.load(path).module()
    return lambda images: module(torch.from_numpy(images)).numpy()


def _example(ready: Predictor) -> Tensor:
    return torch.rand(2, ready.channels, ready.size, ready.size)


def _there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@contextlib.contextmanager
def quiet():
    """Without what the exporters print of their own progress."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
