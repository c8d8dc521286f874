"""Finetune an encoder, on few labels and many: `python -m raylens.finetune CHECKPOINT TASK`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raylens import checkpoint, cli, config, find
from raylens.checkpoint import Checkpoint
from raylens.errors import ConfigError

if TYPE_CHECKING:
    from raylens.cluster.finetune import Start

METHOD = "supervised"
ASIDE = ("name", "seed", "storage", "search", "fit.report_every", "scale.cpus", "scale.gpus")
ASIDE += ("scale.min_workers", "data.mode", "data.resident_limit", "data.cpus", "data.validation_rows")
"""Settings, or sections of them, that change nothing of what a pretraining learns but by chance."""


def finetune(argv: Sequence[str]) -> str | None:
    """Run the finetuning that `argv` asks for; returns the folder of the best checkpoint."""
    tasks = [task.replace("_", "-") for task in find.method(METHOD).tasks]
    parser = cli.Parser(
        prog="python -m raylens.finetune",
        description=(
            "Finetune a checkpoint's encoder under a new head, or a model of the task with its own, on each amount of "
            "labels, beside the same network from scratch with the same budget, and measure all on the test split: "
            "finetuned.md, finetuned.csv, finetuned.png, test.json, best/. Several checkpoints are compared in one "
            "table; those that differ in their seed alone share a row."
        ),
        epilog="Other settings are those of `raylens.train supervised`: --fit.steps 400, --optimizer.lr 3e-4.",
        example="python -m raylens.finetune runs/NAME/best classification --labels 1% 10% 100% --frozen",
        usage="python -m raylens.finetune CHECKPOINT [CHECKPOINT ...] TASK [--FLAG VALUE ...] [--SETTING VALUE ...]",
    )
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="checkpoint",
        help="folder of a checkpoint, such as runs/<name>/best",
    )
    parser.add_argument("task", help=", ".join(tasks))
    trained = parser.add_argument_group("what is trained")
    trained.add_argument(
        "--labels",
        nargs="+",
        default=["100%"],
        metavar="N",
        help="shares such as 1%% 10%%, or numbers of images [100%%]",
    )
    trained.add_argument(
        "--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="of trainings and labels [0]"
    )
    trained.add_argument(
        "--frozen", action="store_true", help="fit a linear head too, on features as they are"
    )
    trained.add_argument("--no-scratch", action="store_true", help="leave the network from scratch out")
    files = parser.add_argument_group("where the settings come from")
    files.add_argument("--from", dest="file", metavar="FILE", help="run file, YAML; flags win")
    asked, rest = parser.parse_known_args(argv)
    if asked.task.replace("_", "-") not in tasks:
        hint = find.guess(asked.task, tasks)
        raise ConfigError(
            f"unknown task {asked.task!r} to finetune for{hint}; known here: {', '.join(tasks)}"
        )
    found = [checkpoint.read(path) for path in asked.checkpoints]
    first, pretrained = found[0], starts(found)
    known = config.settings(METHOD, first.run.encoder.name)
    fixed = {"method.name": METHOD, "task.name": asked.task, "start": first.address, **encoder(first)}
    fixed |= {"data.transform": first.run.data.transform}
    layers = [
        {**fixed, "data.source": first.run.data.source},
        *([(config.read(asked.file), asked.file)] if asked.file else []),
        (cli.flags(rest, known, parser.flags), "the command line"),
    ]
    given = {path: value for layer, _ in layers[1:] for path, value in layer.items()}
    for path in sorted(fixed.keys() & given.keys()):
        if str(given[path]).replace("-", "_") != str(fixed[path]).replace("-", "_"):
            raise ConfigError(
                f"{path} {given[path]} was given, and {asked.task} by {first.address} has {fixed[path]}; leave it out"
            )
    run = config.build(*layers)
    if "seed" in given or run.data.labels is not None:
        raise ConfigError("seed and data.labels are set for each training; use --seeds and --labels")
    if run.data.target is not None or run.data.mode == "streaming":
        raise ConfigError(
            "finetuning has no target and keeps its images in memory; leave data.target and data.mode out, and give "
            "data.test to measure on other images"
        )
    sources = {one.run.data.source: one.address for one in found}
    if len(sources) > 1 and "data.source" not in given:
        (one, of_one), (other, of_other), *_ = sources.items()
        raise ConfigError(
            f"{of_one} was pretrained on {one}, {of_other} on {other}; set data.source to what they are finetuned on"
        )
    if run.data.source is None:
        raise ConfigError(f"{first.address} does not say on what it was trained; set data.source")
    if run.data.test is None:
        run = run.replace(**{"data.test": run.data.source})
    from raylens.cluster.finetune import Plan
    from raylens.cluster.finetune import finetune as work

    amounts = [amount(text) for text in asked.labels]
    if min(asked.seeds) < 0:
        raise ConfigError(f"--seeds {min(asked.seeds)} is no seed; give numbers from 0 on")
    if len(set(amounts)) < len(amounts) or len(set(asked.seeds)) < len(asked.seeds):
        raise ConfigError("--labels and --seeds must differ from each other")
    others = [path for start in pretrained for path in start.checkpoints][1:]
    words = [*others, *asked.labels, *map(str, asked.seeds)]
    shaping = "-".join([*words, str(asked.frozen), str(asked.no_scratch)])
    run = run.replace(name=run.name or f"{asked.task}-{config.digest(run, shaping)}")
    return work(Plan(run, pretrained, amounts, asked.seeds, asked.frozen, not asked.no_scratch))


def starts(found: Sequence[Checkpoint]) -> list[Start]:
    """The pretrainings that `found` are of, each with the checkpoints of its seeds, in words that tell them apart.

    Raises ConfigError when they saw their images differently, or two of them are one.
    """
    from raylens.cluster.finetune import Start
    from raylens.data.sets import absolute

    first, alike, seen = found[0], {}, {}
    for one in found:
        if one.run.data.transform != first.run.data.transform:
            raise ConfigError(
                f"{one.address} was pretrained on images by {one.run.data.transform}, {first.address} by "
                f"{first.run.data.transform}; finetune them one by one"
            )
        if (other := seen.setdefault(one.weights, one)) is not one:
            raise ConfigError(f"{other.address} and {one.address} are the same encoder; give it once")
        ours = alike.setdefault(repr((encoder(one), _learned(one))), {})
        if (other := ours.setdefault(one.run.seed, one)) is not one:
            raise ConfigError(
                f"{other.address} and {one.address} were pretrained alike, both with the seed {one.run.seed}; give one "
                "of them"
            )
    groups = [[*ours.values()] for ours in alike.values()]
    networks = _words([encoder(ones[0]) for ones in groups], "encoder.name", [""] * len(groups))
    methods = _words([_learned(ones[0]) for ones in groups], "method.name", networks)
    return [
        Start(
            network,
            " ".join(filter(None, (network, method))),
            encoder(ones[0]),
            [absolute(one.address) for one in ones],
        )
        for network, method, ones in zip(networks, methods, groups, strict=True)
    ]


def encoder(found: Checkpoint) -> dict[str, Any]:
    """The settings of a checkpoint's encoder, by path."""
    return {path: value for path, value in config.flat(found.run).items() if path.startswith("encoder.")}


def _learned(found: Checkpoint) -> dict[str, Any]:
    """The settings by which it was pretrained, by path; where it starts from is its own, if its method makes it."""
    aside = (*ASIDE, "encoder", *(["start"] if find.method(found.run.method.name).start else []))
    return {
        path: value
        for path, value in config.flat(found.run).items()
        if path not in aside and path.split(".")[0] not in aside
    }


def _words(held: Sequence[Mapping[str, Any]], name: str, beside: Sequence[str]) -> list[str]:
    """A word for each of some settings: nothing if all are the same, else its name, and what it differs in.

    The latter from its homonyms, of those that have the same word in `beside`.
    """
    if all(one == held[0] for one in held):
        return ["" for _ in held]
    made = []
    for one, place in zip(held, beside, strict=True):
        alike = [
            other for other, its in zip(held, beside, strict=True) if (its, other[name]) == (place, one[name])
        ]
        differ = [path for path in one if any(other.get(path) != one[path] for other in alike)]
        told = ", ".join(f"{path.rpartition('.')[2]} {_short(one[path])}" for path in differ)
        made.append(f"{one[name]} ({told})" if told else str(one[name]))
    return made


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def amount(text: str) -> float | None:
    """`10%` as 0.1, `100%` as None for all, `300` as 300.0. Raises ConfigError."""
    share = text.endswith("%")
    try:
        number = float(text.removesuffix("%")) / (100 if share else 1)
    except ValueError:
        number = 0.0
    if not (0 < number <= 1 if share else 2 <= number < math.inf and number == int(number)):
        raise ConfigError(
            f"--labels {text} is no amount; give shares such as 1% 10% 100%, or numbers such as 300"
        )
    return None if share and number == 1 else number


if __name__ == "__main__":
    cli.main(finetune)
