"""A checkpoint is measured on a split: what it says, the report of it, and its pictures, in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from raylens import metrics, storage
from raylens.checkpoint import Checkpoint
from raylens.data import bands
from raylens.data.outputs import examples, look, some
from raylens.data.sets import target_of
from raylens.data.shards import HIGH, Manifest, read_manifest
from raylens.errors import ConfigError, DataError
from raylens.models import adapt_batch_norm, batch_norms
from raylens.records import Outputs


def outputs(
    found: Checkpoint,
    data: str,
    split: str,
    *,
    where: str | None = None,
    batch_norm_from: str | None = None,
    dihedral: bool = False,
    batch: int = 256,
    device: str = "auto",
) -> Outputs:
    """What a checkpoint says of the labelled rows of a split, file by file, preprocessed as in its training.

    Raises DataError when the images do not fit the model, or the split has rows of one class only; ConfigError for a
    pretrained encoder, which says nothing yet.
    """
    if found.run.task.name == "pretraining":
        raise ConfigError(
            f"{found.address} is a pretrained encoder and has no predictions to measure; finetune it first: "
            f"python -m raylens.finetune {found.address} classification"
        )

    device = resolved(device)
    manifest, facts = fits(found, data), found.facts
    if batch_norm_from:
        fits(found, batch_norm_from)
    target = target_of(found.run)
    if target == HIGH and manifest.high != facts.size * facts.factor:
        raise DataError(
            f"{data} has no twins of {facts.size * facts.factor} pixels, which the checkpoint paints (it has "
            f"{manifest.high or 'none'}); give a set that has them in its column {HIGH!r}"
        )
    if target is None and manifest.classes and manifest.classes != facts.classes:
        raise DataError(
            f"{data} has the classes {', '.join(manifest.classes)}, the checkpoint {', '.join(facts.classes)}; "
            "convert it with --classes"
        )
    model, transform = found.model(device, dihedral=dihedral), found.run.data.transform
    if batch_norm_from:
        if not any(batch_norms(model)):
            raise ConfigError(
                f"{found.address} has no batch norm (encoder {found.run.encoder.name}); leave --batch-norm-from out"
            )
        unlabelled = some(batch_norm_from, "train", transform)
        adapt_batch_norm(model, unlabelled, batch=batch, device=device)
    judge = facts.task(found.run.task).judge
    joined = look(
        model, data, split, transform, where=where, target=target, judge=judge, batch=batch, device=device
    )
    if target is None and len(classes := np.unique(joined.labels)) < 2:
        raise DataError(
            f"split {split!r} of {data}{f' where {where}' if where else ''} has labels of "
            f"{facts.classes[int(classes[0])]!r} only, so nothing can be measured; name another --split or --where"
        )
    return joined


def averaged(said: Sequence[Outputs]) -> Outputs:
    """What an ensemble says: logits whose probabilities are the mean of the models'; of one model its own."""
    first = said[0]
    if len(said) == 1:
        return first
    mean = logsumexp([log_softmax(one.logits, axis=-1) for one in said], axis=0) - np.log(len(said))
    return replace(first, logits=mean.astype(np.float32))


def painted(
    found: Checkpoint,
    data: str,
    split: str,
    out: Path,
    *,
    device: str = "auto",
    resamples: int = metrics.RESAMPLES,
    seed: int = 0,
    apart: bool = False,
) -> dict[str, Any]:
    """What a masked autoencoder paints: errors beside what needs no learning, and a picture."""
    from raylens import pictures, reconstruction

    device = resolved(device)
    fits(found, data)
    pixels = some(data, split, found.run.data.transform, reconstruction.IMAGES)
    made = reconstruction.reconstruction(found.method(device), pixels, seed=seed, device=device)
    each = {name: getattr(made, name) for name in ("masked", "mean_of_visible", "interpolated", "noise")}
    folder(out)
    pictures.draw_reconstruction(made.images, out, apart=apart)
    return metrics.evaluate_means(each, resamples=resamples, seed=seed)


def fits(found: Checkpoint, data: str) -> Manifest:
    """The manifest of a set. Raises DataError when its images are not shaped, or banded, as the checkpoint's."""
    manifest, facts = read_manifest(data), found.facts
    if (manifest.channels, manifest.size) != (facts.channels, facts.size):
        raise DataError(
            f"{data} has {manifest.channels} channel(s) of {manifest.size} x {manifest.size}, the checkpoint was "
            f"trained on {facts.channels} of {facts.size} x {facts.size}; convert it with --size, --crop or --bands"
        )
    bands.compare(data, manifest.bands, found.address, facts.bands)
    return manifest


def resolved(device: str) -> str:
    """`auto` as the GPU if there is one. Raises ConfigError for a GPU that is not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda was asked for, and there is no GPU here; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def warning(found: Checkpoint) -> dict[str, str]:
    """What stands on all that is told of a checkpoint which target labels have chosen."""
    told = "this checkpoint was chosen by target labels (search.oracle)"
    return {"warning": told} if found.run.search.oracle else {}


def write(
    out: Path,
    report: dict[str, Any],
    output: Outputs,
    found: Checkpoint,
    threshold: float,
    device: str = "auto",
    *,
    apart: bool = False,
) -> None:
    """metrics.json and the pictures, each panel `apart` or not; a report's `warning` stands on them too."""
    from raylens import pictures

    folder(out)
    if found.run.task.name == "regression":
        predicted = found.facts.task(found.run.task).predict(output.logits)
        pictures.draw_regression(predicted, output.labels, found.run.task.target, out, report=report)
    elif found.run.task.name == "super_resolution":
        device, transform = resolved(device), found.run.data.transform
        place = (report["data"], report["split"], transform, 4)
        shown = examples(found.model(device), *place, where=report["where"], device=device)
        pictures.draw_super_resolution(*shown, output.logits, out, apart=apart)
    else:
        classes = found.facts.classes
        warning = report.get("warning")
        pictures.draw(output, classes, out, threshold=threshold, warning=warning, apart=apart, report=report)
    save(out, report)


def folder(out: Path) -> None:
    """Make the folder. Raises ConfigError when it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror}") from None


def save(out: Path, report: dict[str, Any]) -> None:
    """Write metrics.json, whole or not at all."""
    storage.write(f"{out.absolute()}/metrics.json", json.dumps(report, indent=1))
