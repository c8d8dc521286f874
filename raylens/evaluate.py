"""Measure a checkpoint on a split: `python -m raylens.evaluate CHECKPOINT --data DIR --split test`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raylens import checkpoint, cli, measure, metrics
from raylens.data import bands
from raylens.data.shards import read_manifest
from raylens.errors import ConfigError


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
        asked.data, measure.fits(found, asked.data).bands, asked.checkpoint, found.facts.bands
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
        about |= measure.warning(one)
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
        if asked.where or asked.batch_norm_from or asked.dihedral:
            raise ConfigError(
                f"{asked.checkpoint} is a masked autoencoder, whose painting is measured on all rows as it is; leave "
                "--where, --batch-norm-from and --dihedral out"
            )
        bootstrap = {"resamples": asked.resamples, "seed": asked.seed}
        report = about | measure.painted(
            found, asked.data, asked.split, out, device=asked.device, **bootstrap
        )
        measure.save(out, report)
        show(report)
        return str(out)
    output = measure.averaged(
        [
            measure.outputs(
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
    measure.write(out, report, output, found, asked.threshold, asked.device)
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
