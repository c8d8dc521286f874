"""What TensorBoard shows of a model: views, first candidates, what it paints, features, and a training's curves.

    views/DOMAIN          a few validation images, and beside each the views that the method learns from
    first/target          the target's validation images of the highest probability of the last class
    painted               of a masked autoencoder: true, masked, painted, interpolated
    features              under PROJECTOR: features of validation images, by domain, label and probability
    loss/TERM, ...        every number that a training reports, against the step; those of trials Ray Tune writes itself

No label of the target is read.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from raylens import checkpoint, find
from raylens.cluster.launch import task_device
from raylens.cluster.progress import reported
from raylens.config import Run
from raylens.data.stream import Split, views
from raylens.loop import collect
from raylens.storage import copy, exists, patient

ROWS, SHOWN = 500, 8
"""Images of each domain among the features, and in a picture."""


def write(run: Run, model: str, data: Any, out: str, reports: str | None = None) -> None:
    """Show the checkpoint `model`, and a training's `reports`, in the folder or address `out`, by a task of Ray's.

    What was there is replaced, so that a run that is gone on with has no curve twice. `data` holds validation splits,
    or is a reference to what does. A run is whole without it: what fails is told.
    """
    import ray

    task = ray.remote(num_cpus=run.scale.cpus, num_gpus=run.scale.gpus, max_retries=2)(_write)
    try:
        ray.get(task.remote(model, data, out, reports))
    except ray.exceptions.RayError as error:
        logging.getLogger(__name__).warning(
            "TensorBoard has nothing of this model: %s", str(error).splitlines()[-1]
        )


def _write(path: str, data: Any, out: str, reports: str | None = None) -> None:
    from torch.utils.tensorboard import SummaryWriter

    found, device = checkpoint.read(path), task_device()
    splits = {name: data.validation[name] for name in ("source", "target") if name in data.validation}
    step = int(found.metrics["step"])
    with tempfile.TemporaryDirectory(prefix="raylens-") as folder:
        with SummaryWriter(folder) as writer:
            for name, value, at in curves(reported(reports)) if reports else ():
                writer.add_scalar(name, value, at)
            for name, picture in pictures(found, splits, device):
                writer.add_image(name, picture, step)
            if found.run.task.name != "super_resolution":
                writer.add_embedding(**features(found, splits, device), tag="features")
        if exists(out):  # in object storage the events of before would stay beside these
            fs, inner = patient(out)
            fs.delete_dir(inner)
        copy(folder, out)


def curves(reports: Mapping[int, str]) -> Iterator[tuple[str, float, int]]:
    """Names, values and steps of all numbers in reports, lines of JSON by their step."""
    for step, line in reports.items():
        for name, value in json.loads(line).items():
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                yield name, value, step


def pictures(
    found: checkpoint.Checkpoint, splits: dict[str, Split], device: torch.device | str = "cpu"
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and pictures (C, H, W), from 0 to 1."""
    run, method = found.run, find.method(found.run.method.name)
    for name, split in splits.items():
        if run.task.name != "super_resolution":  # whose views are pairs
            pixels = split.pixels[:SHOWN]
            seen = views(run, method, pixels, (name, 0, 0)).values()
            yield f"views/{name}", _sheet([pixels, *(view.numpy() for view in seen)])
    if run.task.name == "classification" and "target" in splits:
        pixels = splits["target"].pixels[: 4 * ROWS]
        said = collect(found.model(device), pixels, None, device=device)
        best = np.argsort(-_last(said.logits))[: 4 * SHOWN]
        wide = min(4, len(best))
        best = best[: len(best) // wide * wide].reshape(-1, wide)
        yield "first/target", _sheet([pixels[column] for column in best.T])
    if run.method.name == "mae":
        from raylens.reconstruction import reconstruction

        pixels = splits["source"].pixels[:SHOWN]
        made = reconstruction(found.method(device), pixels, seed=run.seed, shown=SHOWN, device=device)
        yield "painted", _sheet(made.images[:4])


def features(
    found: checkpoint.Checkpoint, splits: dict[str, Split], device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """What SummaryWriter.add_embedding takes: features (N, D), a row of words for each, and small images."""
    model, classifies = found.model(device), found.run.task.name == "classification"
    held, words, images = [], [], []
    for name, split in splits.items():
        pixels = split.pixels[:ROWS]
        said = collect(model, pixels, None, device=device)
        held.append(said.features)
        known = name == "source" and split.labels is not None
        labels = map(str, split.labels[:ROWS]) if known else [""] * len(pixels)
        shares = [f"{share:.4f}" if classifies else "" for share in _last(said.logits)]
        words += [[name, *row] for row in zip(labels, shares, strict=True)]
        images += map(_scaled, pixels)
    return {
        "mat": np.concatenate(held),
        "metadata": words,
        "metadata_header": ["domain", "label", "probability"],
        "label_img": torch.from_numpy(np.stack(images)),
    }


def _last(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N,) of the last class."""
    return torch.from_numpy(logits).softmax(1)[:, -1].numpy()


def _sheet(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns of images (N, C, H, W) side by side, every row of them on one scale: (C, H', W')."""
    rows = []
    for row in zip(*columns, strict=True):
        scaled = _scaled(np.concatenate(row, axis=-1))
        images = np.split(scaled, len(row), axis=-1)
        framed = [np.pad(image, ((0, 0), (0, 2), (0, 2)), constant_values=1.0) for image in images]
        rows.append(np.concatenate(framed, axis=-1))
    return np.concatenate(rows, axis=1)


def _scaled(image: np.ndarray) -> np.ndarray:
    """(C, H, W) from 0 to 1, in one band or three; what is unknown is grey."""
    image = image if len(image) in (1, 3) else image.mean(0, keepdims=True)
    low, high = np.nanmin(image), np.nanmax(image)
    return np.nan_to_num((image - low) / max(float(high - low), 1e-12), nan=0.5).astype(np.float32)
