"""Predict over images of any number: `python -m raylens.predict CHECKPOINT IMAGES --out DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raylens import checkpoint, cli, evaluate, priors
from raylens.checkpoint import Checkpoint
from raylens.errors import ConfigError


def predict(argv: Sequence[str]) -> str:
    """Write predictions of what `argv` names; returns their folder."""
    parser = cli.Parser(
        prog="python -m raylens.predict",
        description=(
            "Predict over images of any number, on all of a cluster: Parquet files of id and probability, the best "
            "candidates as a table and as pictures to grade by eye. The same command goes on with what is left."
        ),
        usage="python -m raylens.predict CHECKPOINT IMAGES --out DIR [--FLAG VALUE ...]",
        example="python -m raylens.predict runs/NAME/best cutouts/ --out found --prior 0.01",
    )
    cli.model(parser)
    cli.images(parser)
    parser.add_argument("--out", required=True, help="folder or address of the predictions")
    models = parser.add_argument_group("models")
    models.add_argument(
        "--checkpoint",
        dest="more",
        nargs="+",
        default=[],
        metavar="DIR",
        help="more checkpoints: an ensemble",
    )
    models.add_argument("--features", action="store_true", help="keep the encoder's features too")
    models.add_argument("--batch", type=int, default=256, help="images at a time [256]")
    models.add_argument(
        "--cpus", type=float, default=1.0, help="CPUs of each process that holds the models [1]"
    )
    models.add_argument("--gpus", type=float, help="GPUs of each, fractions allowed [1 where there are any]")
    chances = parser.add_argument_group("probabilities")
    chances.add_argument(
        "--calibrate",
        metavar="DIR",
        help="shard set whose labelled val split sets the scale of probabilities",
    )
    chances.add_argument(
        "--prior",
        type=float,
        help="share of the last class among the images, for which probabilities are corrected",
    )
    chances.add_argument(
        "--top", type=int, default=100, help="candidates in the table and the pictures [100]"
    )
    asked = parser.parse_args(argv)
    found = [checkpoint.read(path) for path in (asked.checkpoint, *asked.more)]
    _check(asked, found)

    from raylens.cluster import launch, nodes
    from raylens.cluster.predict import Request
    from raylens.cluster.predict import predict as work
    from raylens.data.sets import absolute

    reader = cli.reader(asked, found[0])
    request = Request(
        checkpoints=tuple(absolute(path) for path in (asked.checkpoint, *asked.more)),
        images=absolute(asked.images),
        out=absolute(asked.out).rstrip("/"),
        split=asked.split,
        features=asked.features or found[0].run.task.name == "pretraining",
        calibrate=absolute(asked.calibrate) if asked.calibrate else None,
        prior=asked.prior,
        corrections=tuple(corrected(one, asked.calibrate, asked.prior) for one in found)
        if asked.calibrate or asked.prior is not None
        else (),
        top=asked.top,
        batch=asked.batch,
        cpus=asked.cpus,
        gpus=asked.gpus,
    )
    reader.check(request.images, reader.pieces(request.images, request.split))
    if remark := reader.remark(request.images):
        print(remark, flush=True)
    launch.connect(dashboard=False)
    launch.check_writable(request.out, "--out")
    models = {f"checkpoint {number}": path for number, path in enumerate(request.checkpoints, 1)}
    nodes.check_shared(models | {"IMAGES": request.images, "--out": request.out})
    return work(request, reader)


def _check(asked: Any, found: Sequence[Checkpoint]) -> None:
    """Raises ConfigError for what cannot be predicted."""
    first = found[0]
    if first.run.task.name == "super_resolution":
        raise ConfigError(
            f"{asked.checkpoint} paints images; use python -m raylens.data resolve {asked.checkpoint} SET --out DIR, "
            "of a set that raylens.data convert makes of them"
        )
    for path, other in zip(asked.more, found[1:], strict=True):
        for what in ("classes", "channels", "size"):
            if getattr(other.facts, what) != getattr(first.facts, what):
                raise ConfigError(
                    f"{path} has the {what} {getattr(other.facts, what)}, {asked.checkpoint} "
                    f"{getattr(first.facts, what)}; an ensemble predicts the same of the same images"
                )
        if (other.run.task.name, other.run.data.transform) != (first.run.task.name, first.run.data.transform):
            raise ConfigError(
                f"{path} is of {other.run.task.name} on images by {other.run.data.transform}, {asked.checkpoint} of "
                f"{first.run.task.name} by {first.run.data.transform}; an ensemble predicts the same of the same images"
            )
        if first.run.task.name == "regression" and other.run.task.target != first.run.task.target:
            raise ConfigError(
                f"{path} predicts {other.run.task.target}, {asked.checkpoint} {first.run.task.target}; an ensemble "
                "predicts the same of the same images"
            )
    for name, value, least in (("batch", asked.batch, 1), ("top", asked.top, 0), ("cpus", asked.cpus, 0)):
        if value < least:
            raise ConfigError(f"--{name} {value:g} is too few; give {least} or more")
    if asked.prior is not None and not 0 < asked.prior < 1:
        raise ConfigError(f"--prior {asked.prior:g} is no share; give one between 0 and 1")
    if asked.prior is not None and len(first.facts.classes) != 2:
        raise ConfigError(
            f"--prior is of one class of two, and there are {', '.join(first.facts.classes)}; leave it out"
        )
    if (asked.calibrate or asked.prior is not None) and first.run.task.name != "classification":
        raise ConfigError(
            f"{asked.checkpoint} is of {first.run.task.name}; --calibrate and --prior are of classes"
        )


def corrected(found: Checkpoint, calibrate: str | None, prior: float | None) -> Any:
    """How logits of a checkpoint become probabilities of images with a share `prior` of the last class.

    Calibration is by bias-corrected temperature scaling on labelled rows (Alexandari et al. 2020), and the shift by the
    shares that the classifier has learned (Saerens et al. 2002, eq. 2.4): those rows', or its training images'.
    """
    from raylens.cluster.predict import Correction

    temperature, shift = 1.0, np.zeros(len(found.facts.classes))
    if calibrate:
        output = evaluate.outputs(found, calibrate, "val")
        temperature, shift = priors.calibration(output.logits, output.labels)
        held = np.bincount(output.labels, minlength=len(shift)) / len(output.labels)
    elif found.run.data.balance is not None:
        held = np.array([1 - found.run.data.balance, found.run.data.balance])
    else:
        if "source" not in found.facts.manifests:
            raise ConfigError(f"{found.folder} does not know what it was trained on; give --calibrate")
        counts = found.facts.manifests["source"]["splits"]["train"]["labels"]
        held = np.array([counts[name] for name in found.facts.classes], float)
    if prior is not None:
        shift = shift + np.log([1 - prior, prior]) - np.log(held / held.sum())
    return Correction(temperature, tuple(shift.tolist()))


if __name__ == "__main__":
    cli.main(predict)
