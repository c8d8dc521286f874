"""Measure a checkpoint on a split: `python -m raylens.evaluate CHECKPOINT --data DIR --split test`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from raylens import checkpoint, cli, metrics
from raylens.checkpoint import Checkpoint
from raylens.data import bands
from raylens.data.outputs import examples, look, some
from raylens.data.sets import target_of
from raylens.data.shards import HIGH, Manifest, read_manifest
from raylens.errors import ConfigError, DataError
from raylens.models import adapt_batch_norm, batch_norms
from raylens.records import Outputs


def evaluate(argv: Sequence[str]) -> str:
    """Write metrics.json and pictures of the checkpoint that `argv` names; returns their folder."""
    parser = cli.Parser(
        prog="python -m raylens.evaluate",
        usage="python -m raylens.evaluate CHECKPOINT --data DIR [--FLAG VALUE ...]",
        description="Measure a checkpoint on a split of labelled images: a table, metrics.json and pictures.",
        example="python -m raylens.evaluate runs/NAME/best --data shards/survey --split test",
    )
    cli.model(parser)
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="shard set, with what the checkpoint predicts"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for metrics.json and pictures [evaluation/ beside the checkpoint]",
    )
    rows = parser.add_argument_group("images")
    rows.add_argument("--split", default="test", help="split to measure on [test]")
    rows.add_argument("--where", help="rows to measure on, COLUMN=VALUE[,VALUE...]; all without it")
    model = parser.add_argument_group("model")
    cli.more(model)
    model.add_argument(
        "--batch-norm-from",
        metavar="DIR",
        help="take batch norm's statistics from this set's train split first",
    )
    cli.dihedral(model)
    model.add_argument("--batch", type=int, default=256, metavar="N", help="images at a time [256]")
    cli.device(model)
    measured = parser.add_argument_group("metrics")
    measured.add_argument(
        "--threshold", type=float, default=0.5, help="probability of the last class that counts as it [0.5]"
    )
    measured.add_argument(
        "--resamples",
        type=int,
        default=1000,
        metavar="N",
        help="bootstrap resamples behind each interval [1000]",
    )
    measured.add_argument("--seed", type=int, default=0, help="seed of the bootstrap [0]")
    asked = parser.parse_args(argv)
    if not 0 < asked.threshold < 1:
        raise ConfigError(f"--threshold {asked.threshold:g} is no probability; give one between 0 and 1")
    for name in ("batch", "resamples"):
        if (value := getattr(asked, name)) < 1:
            raise ConfigError(f"--{name} {value} is too few; give 1 or more")
    if asked.seed < 0:
        raise ConfigError(f"--seed {asked.seed} is no seed; give 0 or more")
    beside, _, last = asked.checkpoint.rstrip("/").rpartition("/")
    if "://" in beside and not asked.out:
        raise ConfigError(
            f"the checkpoint {asked.checkpoint} is not on this machine; name a folder here by --out"
        )
    found, *others = together = checkpoint.together([asked.checkpoint, *asked.more])
    if others and found.run.task.name != "classification":
        raise ConfigError(
            f"an ensemble is measured of classes, and {asked.checkpoint} is of {found.run.task.name}"
        )
    if remark := bands.compare(
        asked.data, fits(found, asked.data).bands, asked.checkpoint, found.facts.bands
    ):
        print(remark)
    about = {
        "checkpoint": ", ".join([asked.checkpoint, *asked.more]),
        "data": asked.data,
        "split": asked.split,
        "where": asked.where,
    }
    about |= {"batch_norm_from": asked.batch_norm_from, "dihedral": asked.dihedral}
    about |= {"weights": "+".join(one.weights for one in together)}
    for one in together:
        about |= warning(one)
    place = "-".join(
        [
            last,
            read_manifest(asked.data).name or "data",
            asked.split,
            *([asked.where] if asked.where else []),
            *(["batch-norm"] if asked.batch_norm_from else []),
            *(["dihedral"] if asked.dihedral else []),
            *([f"ensemble-of-{len(together)}"] if others else []),
        ]
    )
    usual = Path(f"{beside or '.'}/evaluation/{place.replace('/', '_')}")
    out = Path(asked.out) if asked.out else _free(usual, about)
    if found.run.method.name == "mae":
        report = about | painted(found, asked.data, asked.split, out, asked)
        save(out, report)
        show(report)
        return str(out)
    output = averaged(
        [
            outputs(
                one,
                asked.data,
                asked.split,
                where=asked.where,
                batch_norm_from=asked.batch_norm_from,
                dihedral=asked.dihedral,
                batch=asked.batch,
                device=asked.device,
            )
            for one in together
        ]
    )
    report = about | found.facts.task(found.run.task).report(
        output.logits, output.labels, threshold=asked.threshold, resamples=asked.resamples, seed=asked.seed
    )
    write(out, report, output, found, asked.threshold, asked.device)
    show(report)
    return str(out)


def _free(folder: Path, about: Mapping[str, Any]) -> Path:
    """`folder`, or where that has a report of something else, of a set of the same name, one beside it."""
    try:
        held = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return folder
    asked = [about[name] for name in ("checkpoint", "data", "where", "batch_norm_from")]
    if asked == [held.get(name) for name in ("checkpoint", "data", "where", "batch_norm_from")]:
        return folder
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]
    return folder.with_name(f"{folder.name}-{digest}")


def averaged(said: Sequence[Outputs]) -> Outputs:
    """What an ensemble says: logits whose probabilities are the mean of the models'; of one model its own."""
    first = said[0]
    if len(said) == 1:
        return first
    mean = logsumexp([log_softmax(one.logits, axis=-1) for one in said], axis=0) - np.log(len(said))
    return replace(first, logits=mean.astype(np.float32))


def warning(found: Checkpoint) -> dict[str, str]:
    """What stands on all that is told of a checkpoint which target labels have chosen."""
    told = "this checkpoint was chosen by target labels (search.oracle)"
    return {"warning": told} if found.run.search.oracle else {}


def painted(
    found: Checkpoint, data: str, split: str, out: Path, asked: Any, *, apart: bool = False
) -> dict[str, Any]:
    """What a masked autoencoder paints: errors beside what needs no learning, and a picture."""
    from raylens import pictures, reconstruction

    if asked.where or asked.batch_norm_from or asked.dihedral:
        raise ConfigError(
            f"{found.address} is a masked autoencoder, whose painting is measured on all rows as it is; leave "
            "--where, --batch-norm-from and --dihedral out"
        )
    device = resolved(asked.device)
    fits(found, data)
    pixels = some(data, split, found.run.data.transform, reconstruction.IMAGES)
    made = reconstruction.reconstruction(found.method(device), pixels, seed=asked.seed, device=device)
    each = {name: getattr(made, name) for name in ("masked", "mean_of_visible", "interpolated", "noise")}
    folder(out)
    pictures.draw_reconstruction(made.images, out, apart=apart)
    return metrics.evaluate_means(each, resamples=asked.resamples, seed=asked.seed)


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
    partial = out / ".metrics.json"
    partial.write_text(json.dumps(report, indent=1))
    os.replace(partial, out / "metrics.json")


def show(report: dict[str, Any]) -> None:
    """Print the metrics as a table."""
    from rich.console import Console
    from rich.table import Table

    counts = ", ".join(f"{count} {name}" for name, count in report.get("classes", {}).items())
    counts = counts or f"{report['rows']} images"
    where = f" where {report['where']}" if report["where"] else ""
    turned = ", each turned and mirrored" if report.get("dihedral") else ""
    title = f"{report['data']}, {report['split']}{where}: {counts}{turned}"
    table = Table(title=title, title_justify="left")
    for name in ("metric", "value", "95 % interval", "meaning"):
        table.add_column(name)
    for name, found in report["metrics"].items():
        interval = f"[{_number(found['low'])}, {_number(found['high'])}]"
        table.add_row(name, _number(found["value"]), interval, metrics.explain(name).meaning)
    Console(markup=False).print(table)
    for remark in (report.get("warning"), metrics.scarce(report.get("classes", {}))):
        if remark:
            print(remark)
    if "confusion" in report:
        at = f", threshold {report['threshold']:g}" if report["threshold"] is not None else ""
        print(f"confusion matrix, rows are true classes{at}: {report['confusion']}")


def _number(value: float) -> str:
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2e}"


if __name__ == "__main__":
    cli.main(evaluate)
