"""Predict over images of any number: `python -m raylens.predict CHECKPOINT IMAGES --out DIR`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from raylens import checkpoint, cli, measure, priors
from raylens.checkpoint import Checkpoint
from raylens.cluster.folders import releases
from raylens.errors import ConfigError, DataError
from raylens.find import guess
from raylens.storage import exists


@releases
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
    cli.more(models)
    cli.dihedral(models)
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
        metavar="SHARE",
        help="share of the last class among the images, or CLASS=SHARE,... of each; corrects probabilities",
    )
    chances.add_argument(
        "--top", type=int, default=100, help="candidates in the table and the pictures [100]"
    )
    chances.add_argument(
        "--class", dest="of", metavar="NAME", help="class whose candidates these are [the last]"
    )
    asked = parser.parse_args(argv)
    found = checkpoint.together([asked.checkpoint, *asked.more])
    _check(asked, found)
    prior = None if asked.prior is None else shares(asked.prior, found[0].facts.classes)

    from raylens.cluster import launch, nodes
    from raylens.cluster.predict import Request
    from raylens.cluster.predict import predict as work
    from raylens.data.pieces import amount
    from raylens.data.sets import absolute

    reader, out = cli.reader(asked, found[0]), launch.lasting(asked.out)
    corrections: tuple = ()
    if (asked.calibrate or prior) and not exists(
        f"{out}/predict.json"
    ):  # which keeps those that it began with
        corrections = tuple(corrected(one, asked.calibrate, prior, dihedral=asked.dihedral) for one in found)
    request = Request(
        checkpoints=tuple(absolute(path) for path in (asked.checkpoint, *asked.more)),
        images=absolute(asked.images),
        out=out,
        split=asked.split,
        dihedral=asked.dihedral,
        features=asked.features or found[0].run.task.name == "pretraining",
        calibrate=absolute(asked.calibrate) if asked.calibrate else None,
        prior=prior,
        corrections=corrections,
        top=asked.top,
        candidates=asked.of,
        batch=asked.batch,
        cpus=asked.cpus,
        gpus=asked.gpus,
    )
    pieces = reader.pieces(request.images, request.split)
    reader.check(request.images, pieces)
    if remark := reader.remark(request.images):
        print(remark, flush=True)
    print(f"predicting {amount(pieces)} of {request.images}, in {len(pieces)} piece(s)", flush=True)
    launch.connect(dashboard=False)
    launch.check_writable(request.out, "--out")
    models = {f"checkpoint {number}": path for number, path in enumerate(request.checkpoints, 1)}
    nodes.check_shared(models | {"IMAGES": request.images, "--out": request.out})
    return work(request, reader, pieces)


def _check(asked: Any, found: Sequence[Checkpoint]) -> None:
    """Raises ConfigError for what cannot be predicted."""
    first = found[0]
    if first.run.task.name == "super_resolution":
        raise ConfigError(
            f"{asked.checkpoint} paints images; use python -m raylens.data resolve {asked.checkpoint} SET --out DIR, "
            "of a set that raylens.data convert makes of them"
        )
    for name, value, least in (("batch", asked.batch, 1), ("top", asked.top, 0)):
        if value < least:
            raise ConfigError(f"--{name} {value:g} is too few; give {least} or more")
    if not 0 < asked.cpus < math.inf:
        raise ConfigError(f"--cpus {asked.cpus:g} is no number of CPUs; give one above 0")
    if asked.gpus is not None and not 0 <= asked.gpus < math.inf:
        raise ConfigError(f"--gpus {asked.gpus:g} is no number of GPUs; give 0 or more")
    if (asked.calibrate or asked.prior or asked.of) and first.run.task.name != "classification":
        raise ConfigError(
            f"{asked.checkpoint} is of {first.run.task.name}; --calibrate, --prior and --class are of classes"
        )
    if asked.of is not None and asked.of not in first.facts.classes:
        known = ", ".join(first.facts.classes)
        raise ConfigError(
            f"unknown class {asked.of!r}{guess(asked.of, first.facts.classes)}; known here: {known}"
        )


def shares(text: str, classes: Sequence[str]) -> tuple[float, ...]:
    """The share of each class that `0.01`, of the last of two, or `no_sub=0.8,cdm=0.1,axion=0.1` says.

    Raises ConfigError.
    """
    parts = [part.partition("=") for part in text.split(",")]
    try:
        given = {name.strip(): float(value) for name, _, value in parts} if "=" in text else float(text)
    except ValueError:
        given = None
    if isinstance(given, float) and len(classes) == 2:
        given = {classes[0]: 1 - given, classes[1]: given}
    every = ",".join(f"{name}=SHARE" for name in classes)
    if not isinstance(given, dict) or given.keys() != set(classes):
        one = "a number, or " if len(classes) == 2 else ""
        raise ConfigError(f"--prior {text} is no share of each class; give {one}{every}")
    if not min(given.values()) > 0 or not math.isclose(sum(given.values()), 1, abs_tol=1e-6):  # nan is none
        raise ConfigError(
            f"--prior {text} is no share; shares are between 0 and 1, and those of all classes add up to 1"
        )
    return tuple(given[name] for name in classes)


def corrected(
    found: Checkpoint, calibrate: str | None, prior: Sequence[float] | None, *, dihedral: bool = False
) -> Any:
    """How logits of a checkpoint become probabilities of images with a share `prior` (K,) of each class.

    Calibration is by bias-corrected temperature scaling on labelled rows (Alexandari et al. 2020), and the shift by the
    shares that the classifier has learned (Saerens et al. 2002, eq. 2.4): those rows', or its training images'.
    """
    from raylens.cluster.predict import Correction

    temperature, shift = 1.0, np.zeros(len(found.facts.classes))
    if calibrate:
        output = measure.outputs(found, calibrate, "val", dihedral=dihedral)
        temperature, shift = priors.calibration(output.logits, output.labels)
        held = np.bincount(output.labels, minlength=len(shift)) / len(output.labels)
        if not held.all():
            absent = found.facts.classes[int(held.argmin())]
            raise DataError(
                f"the split 'val' of {calibrate} has no image of {absent}; set --calibrate to a set with all classes"
            )
    elif found.run.data.balance is not None:
        last, others = found.run.data.balance, len(shift) - 1
        held = np.array([(1 - last) / others] * others + [last])
    else:
        if "source" not in found.facts.manifests:
            raise ConfigError(f"{found.folder} does not know what it was trained on; give --calibrate")
        counts = found.facts.manifests["source"]["splits"]["train"]["labels"]
        held = np.array([counts[name] for name in found.facts.classes], float)
    if prior is not None:
        shift = shift + np.log(prior) - np.log(held / held.sum())
    return Correction(temperature, tuple(shift.tolist()))


if __name__ == "__main__":
    cli.main(predict)
