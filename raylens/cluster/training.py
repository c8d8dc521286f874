"""One training, whole: data, the model to start from, a TorchTrainer, its last checkpoint.

A training lives in `<storage>/<name>/`, and the same command goes on from its last checkpoint:

    run.yaml    every setting
    content.json  digests of the sets and the checkpoint that these name
    start/      checkpoint that it starts from, where the method needs one; start-workers/ is how it was trained
    workers/    Ray Train's own, and every report by step in reports.jsonl
    last/       the last checkpoint
    tensorboard/  curves of the reports, images and features of last/, for TensorBoard
"""

from __future__ import annotations

from typing import Any

from raylens import augment, checkpoint, config, find
from raylens.checkpoint import Facts
from raylens.cluster import content, launch, nodes, prior, tensorboard
from raylens.cluster.folders import hold, releases
from raylens.cluster.launch import TrainingDiverged
from raylens.cluster.worker import build
from raylens.config import Run
from raylens.data import bands, sets
from raylens.data.streaming import Streaming
from raylens.errors import ConfigError
from raylens.methods.base import Method
from raylens.space import Choice
from raylens.storage import copy, exists, write
from raylens.validators import FOR_PRETRAINING

SHARED = (
    "source",
    "target",
    "test",
    "transform",
    "batch",
    "balance",
    "labels",
    "validation_rows",
    "mode",
    "resident_limit",
    "cpus",
)
"""Data settings that a method shares with the one it starts from."""
MAY_DIFFER = {
    "storage",
    "scale.min_workers",
    "scale.cpus",
    "scale.gpus",
    "search.retries",
}
MAY_DIFFER |= {"search.choice", "search.may_lose"}
"""Settings that a run may go on with when they have changed: where it runs, and who of its trials is released."""


@releases
def training(run: Run) -> str:
    """Train as `run` says; returns the folder of its last checkpoint."""
    method = find.method(run.method.name)
    run, facts = ready(run, method, sets.streams(run, method))
    folder = f"{run.storage}/{run.title}"
    data = loaded(run, method)
    resident = not isinstance(data, Streaming)
    if method.start and not run.start:
        run = run.replace(start=trained_start(run, facts, method.start, folder, data if resident else None))
    run = prior.informed(run, data)
    print(f"training {run.method.name}, {run.fit.steps} steps, {run.scale.workers} worker(s)", flush=True)
    copy(launch.train(run, facts, data, f"{folder}/workers"), f"{folder}/last")
    reports = f"{folder}/workers/reports.jsonl"
    tensorboard.write(run, f"{folder}/last", data, f"{folder}/tensorboard", reports)
    return f"{folder}/last"


def ready(
    run: Run,
    method: type[Method],
    streams: tuple[str, ...],
    *,
    search: bool = False,
    test: bool = False,
    finetunes: bool = False,
) -> tuple[Run, Facts]:
    """Everything that can be refused is refused here; then Ray is reached, and the sets are there.

    Returns the run with its name, GPUs and paths resolved, and the facts of its data.
    """
    run = started(run.replace(**sets.given(run), name=run.title, storage=launch.lasting(run.storage)))
    check(run, search=search)
    launch.check_writable(run.storage)
    check_same(run, search=search, finetunes=finetunes)
    fits(run, sets.facts(run, streams, test=test))
    folder, named = f"{run.storage}/{run.title}", content.of_runs([run])
    content.check(folder, named)
    launch.connect(method=run.method.name, run=run.title)
    given, run = run, placed(run)
    launch.coordinate()
    for remark in [*sets.remarks(run, streams, test=test), *prior.remarks(run)]:
        print(remark, flush=True)
    hold(folder)
    write(f"{folder}/run.yaml", config.dump(given))  # another cluster may have other GPUs
    content.keep(folder, named)
    run = sets.prepare(run, streams)
    return run, sets.facts(run, streams, test=test)


def check(run: Run, *, search: bool = False) -> None:
    """Raises ConfigError for settings that no training, or no search, can have."""
    find.validator(run.search.validator)
    if run.search.validator == "oracle":
        raise ConfigError(
            "search.validator oracle reads target labels; --oracle chooses by them, and says so"
        )
    pretrains = run.task.name == "pretraining"
    if pretrains and run.search.validator not in FOR_PRETRAINING:
        raise ConfigError(
            f"search.validator {run.search.validator} compares domains, and {run.method.name} has one; set it to "
            f"{' or '.join(FOR_PRETRAINING)}"
        )
    flat = config.flat(run)
    for path in ("data.balance", "data.labels", "data.target", "data.test", "data.prior"):
        if pretrains and flat[path] not in (None, "given"):
            raise ConfigError(
                f"{path} is {flat[path]!r}, and pretraining learns from data.source alone, without labels; "
                "leave it out"
            )
    if pretrains and run.data.batch < 2:
        raise ConfigError(
            f"data.batch is {run.data.batch}, and pretraining tells images from each other; set it to 2 at least"
        )
    if pretrains and run.search.oracle:
        raise ConfigError("--oracle reads labels of a target, and pretraining has none; leave it out")
    learned = run.task.name.replace("_", "-")
    if (predicted := sets.target_of(run)) and run.data.balance is not None:
        raise ConfigError(f"data.balance is of classes, and {learned} learns none; set it to null")
    if predicted and run.data.target is not None:
        raise ConfigError(
            f"data.target is {run.data.target!r}, and {learned} adapts to none; give data.test to measure on it"
        )
    if predicted and run.data.mode == "streaming":
        raise ConfigError(
            f"data.mode is streaming, and {learned} keeps its images in memory; set it to resident"
        )
    if run.task.name == "super_resolution" and run.data.views is not None:
        raise ConfigError(
            f"data.views {run.data.views!r} is of one image, and super-resolution has pairs, which are turned and "
            "mirrored together; leave it out"
        )
    if search and run.scale.min_workers is not None:
        raise ConfigError(
            f"scale.min_workers is {run.scale.min_workers}, and trials of a search wait for all of their workers; "
            "leave it out"
        )
    if run.scale.workers > 1 and 0 < (run.scale.gpus or 0) < 1:
        raise ConfigError(
            f"scale.gpus is {run.scale.gpus:g}, a share of a GPU, which NCCL lets no two workers of a training have; "
            "set it to 1, or scale.workers to 1"
        )
    if (run.scale.min_workers or 1) > run.scale.workers:
        raise ConfigError(
            f"scale.min_workers is {run.scale.min_workers}, more than scale.workers, {run.scale.workers}; "
            "set it to less"
        )
    if run.search.scheduler == "pbt" and run.scale.workers > 1:
        raise ConfigError(
            f"search.scheduler pbt cannot copy trials of {run.scale.workers} workers; set scale.workers to 1"
        )
    known, span = augment.names(), config.space(run).get("data.views")
    for views in (run.data.views, *(span.values if isinstance(span, Choice) else ())):
        if views is not None and views not in known:
            hint = find.guess(views, known)
            raise ConfigError(f"unknown data.views {views!r}{hint}; known here: {', '.join(known)}")


def placed(run: Run) -> Run:
    """`run` with its GPUs. Raises ConfigError for what this cluster has no room for. Needs Ray."""
    nodes.check_storage(run)
    run = run.replace(**{"scale.gpus": nodes.gpus(run)})
    nodes.concurrent(run)
    if run.fit.precision == "16" and not run.scale.gpus:
        raise ConfigError(
            "fit.precision 16 needs a GPU, its gradients vanish without one; set it to bf16 or 32"
        )
    return run


def check_same(run: Run, *, search: bool, finetunes: bool = False) -> None:
    """Raises ConfigError when the run's folder holds a run with other settings, or of the other verb."""
    folder = f"{run.storage}/{run.title}"
    if exists(f"{folder}/grid.yaml"):
        raise ConfigError(
            f"{folder} is a benchmark: go on with it by raylens.benchmark, or give another --name"
        )
    if exists(f"{folder}/plan.json") and not finetunes:
        raise ConfigError(
            f"{folder} is a finetuning: go on with it by raylens.finetune, or give another --name"
        )
    searched = exists(f"{folder}/trials")
    if search is not searched and (searched or exists(f"{folder}/workers")):
        verbs = ("a search", "raylens.tune") if searched else ("a training", "raylens.train")
        raise ConfigError(f"{folder} is {verbs[0]}: go on with it by {verbs[1]}, or give another --name")
    if not exists(f"{folder}/run.yaml"):
        return
    held, here = config.read(f"{folder}/run.yaml"), config.flat(run)
    for path in held.keys() & here.keys() - MAY_DIFFER:
        if held[path] != here[path]:
            on = "" if finetunes else f", or go on with its own settings by --resume {folder}"
            raise ConfigError(
                f"{folder} is a run with {path} {held[path]!r}, and {here[path]!r} was given; give another --name{on}"
            )


def started(run: Run) -> Run:
    """`run` with the encoder and the preprocessing of the checkpoint that it starts from, if it names one."""
    if not run.start:
        return run
    first = checkpoint.read(run.start).run
    taken = {path: value for path, value in config.flat(first).items() if path.startswith("encoder.")}
    taken |= {"data.transform": first.data.transform}
    here = config.flat(run)
    for path, value in taken.items():
        if here.get(path) != value:
            print(f"{path} is {value!r}, as in {run.start}", flush=True)
    return config.build(
        {path: value for path, value in here.items() if not path.startswith("encoder.")}, taken
    )


def fits(run: Run, facts: Facts) -> None:
    """Raises ConfigError when the method cannot be built, or the start was trained on other images or classes.

    Raises DataError when the bands of the start's images stood in another order.
    """
    if run.start:
        _fits_start(run, facts)
    build(run, facts)
    if run.search.scheduler == "pbt":
        _fits_population(run, facts)
    if run.data.prior == "estimate" and len(facts.classes) != 2:
        raise ConfigError(
            f"data.prior estimate is of a share of lenses, and the data has the classes {', '.join(facts.classes)}; "
            "set it to given"
        )
    if run.search.validator == "probe" and "source" in facts.manifests:
        labels = dict(facts.manifests["source"]["splits"]["val"]["labels"])
        if labels.pop("unlabelled", 0) or sum(count > 1 for count in labels.values()) < 2:
            raise ConfigError(
                "search.validator probe needs labels of all rows of the source's validation split, two of two classes "
                "at least; set it to rankme"
            )


def _fits_population(run: Run, facts: Facts) -> None:
    """Raises ConfigError for a range whose trials cannot go on from each other's weights, as those of pbt do."""

    def shapes(one: Run) -> dict[str, Any]:
        return {name: value.shape for name, value in build(one, facts).state_dict().items()}

    for path, span in config.space(run).items():
        values = span.values if isinstance(span, Choice) else (span.low, span.high)
        weights = path.startswith(("encoder.", "method.", "task."))
        if path == "optimizer.name" or (
            weights and any(shapes(run.replace(**{path: value})) != shapes(run) for value in values)
        ):
            raise ConfigError(
                f"search.scheduler pbt copies weights and optimizer of one trial to another, and {path} makes others; "
                "give it a value, or set search.scheduler to asha"
            )


def _fits_start(run: Run, facts: Facts) -> None:
    """Raises ConfigError when the start was trained on other images or classes, DataError on another order of bands."""
    first, adapts = checkpoint.read(run.start), find.method(run.method.name).start is not None
    if adapts and first.run.task.name != run.task.name:
        raise ConfigError(
            f"the start {run.start} is of {first.run.task.name}, and {run.method.name} adapts a model of "
            f"{run.task.name}; finetune it first: python -m raylens.finetune {run.start} {run.task.name}"
        )
    held = first.facts
    if (held.channels, held.size) != (facts.channels, facts.size) or (
        adapts and held.classes != facts.classes
    ):
        raise ConfigError(
            f"the start {run.start} knows {held.channels} channel(s) of {held.size} x {held.size} and the classes "
            f"{', '.join(held.classes)}, the data has {facts.channels} of {facts.size} x {facts.size} and "
            f"{', '.join(facts.classes)}; convert it with --size, --bands or --classes, or start from another"
        )
    bands.compare("the data", facts.bands, f"the start {run.start}", held.bands)


def trained_start(run: Run, facts: Facts, name: str, folder: str, data: Any = None) -> str:
    """The checkpoint of the method `name` that a run starts from, trained once; without `data`, it is loaded."""
    path = f"{folder}/start"
    if not exists(f"{path}/model.safetensors"):
        first = start_run(run, name)
        print(f"training the {name} model to start from, {first.fit.steps} steps", flush=True)
        held = loaded(first, find.method(name)) if data is None else data
        try:
            copy(launch.train(first, facts, held, f"{folder}/start-workers"), path)
        except TrainingDiverged as error:
            raise TrainingDiverged(
                f"of the model to start from {error}: python -m raylens.train {name} takes one, and --start what it "
                "leaves"
            ) from error
    return path


def start_run(run: Run, name: str) -> Run:
    """The run of the model that `run` starts from: method `name` with the same data, encoder and seed."""
    shared = {
        path: value
        for path, value in config.flat(run).items()
        if path.split(".")[0] in ("encoder", "task", "scale")
    }
    shared |= {f"data.{key}": getattr(run.data, key) for key in SHARED}
    return config.build(
        shared,
        {
            "method.name": name,
            "seed": run.seed,
            "storage": run.storage,
            "name": f"{run.title}/start-run",
            "fit.steps": run.fit.start_steps,
            "fit.report_every": max(1, run.fit.start_steps // 5),
            "fit.precision": run.fit.precision,
            "search.trials": 1,
            "search.scheduler": "none",
            "search.validator": "source_auroc",
            "search.retries": run.search.retries,
            "search.concurrent": run.search.concurrent,
            "search.space": dict.fromkeys(config.space(config.build({"method.name": name}))),
        },
    )


def check_amount(run: Run, fits: bool) -> None:
    """Raises ConfigError for a part of the labels of a set that will not be in memory."""
    if (
        run.data.labels is not None
        and run.data.mode != "resident"
        and (run.data.mode == "streaming" or not fits)
    ):
        raise ConfigError(
            f"data.labels {run.data.labels:g} is a part of a set in memory, and this one streams; raise "
            "data.resident_limit, or set data.mode to resident"
        )


def loaded(run: Run, method: type[Method]) -> Any:
    """The data of a training: resident if it fits, else streaming; says which."""
    import ray

    fits = sets.share(run, sets.trained(run, method)) >= 1
    check_amount(run, fits)
    if run.data.mode == "resident" or (run.data.mode == "auto" and fits):
        print("data: resident, in memory shared by all workers", flush=True)
        return ray.put(sets.reside(run, sets.streams(run, method), sets.trained(run, method)))
    if run.scale.min_workers is not None:
        raise ConfigError(
            "scale.min_workers needs images in memory, of which any number of workers can take their share, and these "
            "do not fit or data.mode is streaming; raise data.resident_limit, or leave scale.min_workers out"
        )
    if sets.target_of(run):
        raise ConfigError(
            f"{run.task.name} keeps its images in memory, and these do not fit or data.mode is streaming; raise "
            "data.resident_limit"
        )
    print(f"data: streaming from Parquet, {run.data.cpus:g} CPUs a task", flush=True)
    nodes.check_room(run, method)
    return Streaming(sets.reside(run, sets.streams(run, method)).validation)
