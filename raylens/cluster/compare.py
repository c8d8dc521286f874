"""A benchmark, whole: every method with every encoder and seed as one search on Ray, and its tables.

A benchmark lives in one folder, and the same command goes on with it:

    grid.yaml      methods, encoders, seeds and settings
    starts/        Ray Tune's: a model of the source for each encoder and seed, which all methods start from
    trials/        Ray Tune's: for each cell the method's defaults, and draws from its ranges
    averages/      the average of a cell's trials, where there are several, to be released in their place
    outputs/       what each model says of validation and test images, a NumPy archive each
    workers/       Ray Train's, of trials of several workers
    trials.csv     every trial: what was searched, validators' scores, warnings, test AUROC
    table.*        methods and encoders, over seeds: .md, .csv, .png
    regret.*       what each way of choosing among a cell's trials gives away: .md, .csv

Tables are made for each part of the test split that is asked for, `table-PART.md`. Nothing is stopped early, so that it
can be told what a choice gives away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import yaml

from raylens import checkpoint, config, find, health, pictures, priors, tables
from raylens.checkpoint import Facts
from raylens.cluster import choice, content, launch, prior
from raylens.cluster.folders import hold, releases
from raylens.cluster.found import Found
from raylens.cluster.jobs import Job, train
from raylens.cluster.progress import Clock
from raylens.cluster.training import MAY_DIFFER, check, fits, placed, start_run
from raylens.cluster.tuning import first_sample, sampler
from raylens.config import Run
from raylens.data import sets
from raylens.data.outputs import look, members
from raylens.errors import ConfigError
from raylens.grid import SOURCE_ONLY, Cell, Grid
from raylens.loop import collect, mixtures
from raylens.seeds import seed
from raylens.storage import exists, read, write
from raylens.tables import Entry, Said
from raylens.validators import FOR_PRETRAINING

STREAMS = ("source", "target")


@releases
def compare(grid: Grid) -> str:
    """Train, choose and measure every cell of `grid`; prints the tables and returns the folder that they lie in."""
    grid = _located(grid)
    cells = ready(grid)
    run = next(iter(cells.values()))
    folder = f"{run.storage}/{run.title}"
    data = _resident(cells.values())
    write(f"{folder}/grid.yaml", grid.dump())
    starts = _starts(grid, cells, data, folder)
    cells = {cell: run for cell, run in cells.items() if cell.method != SOURCE_ONLY}
    jobs, drawn, shares = {}, {cell: [] for cell in cells}, {}
    for cell, run in cells.items():
        facts, held = data[_sets(run)]
        start = starts[cell.encoder, cell.seed]
        if find.method(run.method.name).start:
            run = run.replace(start=start.checkpoint)
        if prior.asks(run):
            if (start.trial, _sets(run)) not in shares:
                print(f"{start.trial}: ", end="")
                shares[start.trial, _sets(run)] = prior.estimated(run, held)
            run = run.replace(**{prior.SETTING: shares[start.trial, _sets(run)]})
        for draw, sample in enumerate(draws(run)):
            drawn[cell].append(name := _name(*cell, draw))
            jobs[name] = Job(run.replace(**sample), facts, held)
    print(f"{len(jobs)} trials of {len(cells)} cells", flush=True)
    found = train(jobs, folder, "trials", label="benchmark")
    said = _said([*starts.values(), *found.values()], data, folder)
    orders, gates, averages = {}, {}, {}
    for cell, run in cells.items():
        start = starts[cell.encoder, cell.seed]
        key = start.trial, run.search.may_lose, find.method(run.method.name).streams
        if key not in gates:
            gates[key] = choice.gate(run.replace(start=start.checkpoint), data[_sets(run)][1])
        trials = [found[name] for name in drawn[cell]]
        orders[cell] = choice.ordered(
            run, trials, gates[key], lambda asked: [said[one.trial].target for one in asked]
        )
        stem = f"{folder}/averages/{_name(*cell)}-"
        averages[cell] = choice.averaging(trials[0].run, orders[cell], *data[_sets(run)], stem), gates[key]
    orders = {cell: choice.with_average(order, *averages[cell]) for cell, order in orders.items()}
    said |= _said([order[0] for order in orders.values() if order[0].averaged], data, folder)
    _write_trials(folder, grid, orders, drawn, said)
    for where in grid.where or [None]:
        entries = []
        for cell, (first, *_) in orders.items():
            rows = _rows(_tested(first.run), where)
            parts = {name: said[name].only(rows) for name in drawn[cell] if name in said}
            released = said[first.trial].only(rows) if _released(first) else None
            start = said[starts[cell.encoder, cell.seed].trial].only(rows)
            trials = {draw: parts[name] for draw, name in enumerate(drawn[cell]) if name in parts}
            entries.append(Entry(cell, trials, released, start, len(drawn[cell]) - len(trials)))
        _write(folder, where, entries)
    return folder


def _located(grid: Grid) -> Grid:
    """`grid` with its name and absolute paths, so that it is the same wherever it is resumed."""

    def located(values: Mapping[str, Any]) -> dict[str, Any]:
        held = {
            path for path in ("data.source", "data.target", "data.test") if isinstance(values.get(path), str)
        }
        return {path: sets.absolute(value) if path in held else value for path, value in values.items()}

    encoders = {name: located(values) for name, values in grid.encoders.items()}
    return replace(grid, settings={**located(grid.settings), "name": grid.title}, encoders=encoders)


def ready(grid: Grid) -> dict[Cell, Run]:
    """Every cell's run. All that can be refused is refused here; then Ray is reached, and the sets are there."""
    cells = {
        cell: run.replace(**sets.given(run), name=grid.title, storage=launch.lasting(run.storage))
        for cell, run in grid.cells().items()
    }
    for cell, run in cells.items():
        if (first := find.method(run.method.name).start) not in (None, SOURCE_ONLY):
            raise ConfigError(
                f"{cell.method} starts from {first}, and a benchmark trains {SOURCE_ONLY} alone for it"
            )
    first = next(iter(cells.values()))
    if len({_name(*cell) for cell in cells}) < len(cells):
        raise ConfigError("two names of methods or encoders make the same folder; give others")
    for cell, run in cells.items():
        check(run, search=True)
        if cell.seed == grid.seeds[0]:
            fits(run, sets.facts(run, STREAMS, test=True))
    if not sets.labelled(held := sets.tested(first), "test"):
        raise ConfigError(
            f"a benchmark measures on the target's test split, and {held.name} has no labels there; give data.test"
        )
    told = [remark for run in cells.values() for remark in prior.remarks(run)]
    for remark in dict.fromkeys([*sets.remarks(first, STREAMS, test=True), *told]):
        print(remark, flush=True)
    if given := first.data.test or first.data.target:
        _check_parts(grid, sets.absolute(given))
    launch.check_writable(first.storage)
    folder, named = f"{first.storage}/{grid.title}", content.of_runs(cells.values())
    _check_same(grid, folder)
    content.check(folder, named)
    launch.connect(benchmark=grid.title)
    cells = {cell: placed(run) for cell, run in cells.items()}
    hold(folder)
    content.keep(folder, named)
    cells = {cell: sets.prepare(run, STREAMS) for cell, run in cells.items()}
    for path in dict.fromkeys(_tested(run) for run in cells.values()):
        _check_parts(grid, path)
    return cells


def _check_parts(grid: Grid, path: str) -> None:
    """Raises ConfigError for a part of the test split that has no such column, or not all classes."""
    for where in grid.where:
        rows, labels = members(path, "test", where)
        if set(np.unique(labels[rows])) != set(np.unique(labels)):
            raise ConfigError(f"--where {where!r}: the test split of {path} has not all classes there")


def draws(run: Run) -> list[dict[str, Any]]:
    """The settings of a cell's search.trials trials: the defaults, then draws that follow from seed and method."""
    random = np.random.RandomState(seed("draws", run.seed, run.method.name) % 2**32)
    spans = config.space(run)
    more = range(1, run.search.trials if spans else 1)
    drawn = [{path: sampler(span).sample(random_state=random) for path, span in spans.items()} for _ in more]
    return [first_sample(run, random), *drawn]


def _check_same(grid: Grid, folder: str) -> None:
    """Raises ConfigError when the folder holds another benchmark, or a search or a training."""
    if exists(f"{folder}/run.yaml"):
        raise ConfigError(f"{folder} is no benchmark; give another --name")
    if not exists(f"{folder}/grid.yaml"):
        return
    held = yaml.safe_load(read(f"{folder}/grid.yaml"))
    here = yaml.safe_load(grid.dump())
    for key in sorted((held.keys() | here.keys()) - MAY_DIFFER - {"name", "where", "data.resident_limit"}):
        if held.get(key) != here.get(key):
            raise ConfigError(
                f"{folder} is a benchmark with {key} {held.get(key)!r}, and {here.get(key)!r} was given; give another "
                f"--name, or go on with it by --resume {folder}"
            )


def _name(method: str, encoder: str, number: int, draw: int | None = None) -> str:
    """A trial's name, and its folder's: `adda-small-seed0-3`."""
    name = f"{method}-{encoder}-seed{number}" + ("" if draw is None else f"-{draw}")
    return re.sub(r"[^\w.-]", ".", name)


def _sets(run: Run) -> tuple:
    """What tells resident sets apart."""
    return run.data.source, run.data.target, run.data.transform, run.data.validation_rows


def _resident(runs: Iterable[Run]) -> dict[tuple, tuple[Facts, Any]]:
    """The facts of the cells' sets and references to them, each read once."""
    import ray

    distinct = {_sets(run): run for run in runs}
    size = sum(sets.gigabytes(run, STREAMS) for run in distinct.values())
    limit = max(run.data.resident_limit for run in distinct.values())
    if size > limit:
        raise ConfigError(
            f"a benchmark keeps the sets of all its seeds in memory, {size:.1f} GB, and data.resident_limit is "
            f"{limit:g}; raise it, or give smaller sets or fewer seeds"
        )
    data = {
        key: (sets.facts(run, STREAMS, test=True), ray.put(sets.reside(run, STREAMS, STREAMS)))
        for key, run in distinct.items()
    }
    print(f"data: {len(data)} pair(s) of sets resident, in memory shared by all trials", flush=True)
    return data


def _starts(
    grid: Grid, cells: Mapping[Cell, Run], data: Mapping[tuple, tuple[Facts, Any]], folder: str
) -> dict[tuple[str, int], Found]:
    """The model of the source for each encoder and seed. Raises RuntimeError when one was not trained."""
    runs = {
        (cell.encoder, cell.seed): start_run(run, SOURCE_ONLY).replace(**grid.methods[SOURCE_ONLY])
        for cell, run in cells.items()
        if cell.method == SOURCE_ONLY
    }
    print(f"{len(runs)} model(s) of the source, which methods start from", flush=True)
    names = {place: _name(SOURCE_ONLY, *place) for place in runs}
    found = train(
        {names[place]: Job(run, *data[_sets(run)]) for place, run in runs.items()},
        folder,
        "starts",
        label="benchmark",
    )
    for name, start in found.items():
        if not choice.ended(start):  # a part of its steps would not do for a model that all are compared with
            reason = start.error or start.metrics.get("warnings")
            raise RuntimeError(f"the source's model {name} was not trained: {reason}")
    return {place: found[name] for place, name in names.items()}


def _said(trials: Iterable[Found], data: Mapping[tuple, tuple[Facts, Any]], folder: str) -> dict[str, Said]:
    """What trials that ended say, by their names; those that were asked before are read, but for averages."""
    import ray

    trials = {trial.trial: trial for trial in trials if choice.ended(trial)}
    paths = {name: f"{folder}/outputs/{name}.npz" for name in trials}
    waiting = {}
    for name, trial in trials.items():
        if trial.averaged or not exists(paths[name]):  # of what it is the average its name does not say
            scale = trial.run.scale
            task = ray.remote(num_cpus=scale.cpus, num_gpus=scale.gpus, max_retries=2)(_ask)
            waiting[task.remote(trial.checkpoint, trial.run, data[_sets(trial.run)][1], paths[name])] = name
    clock, left = Clock(), list(waiting)
    while left:
        done, left = ray.wait(left, timeout=20)
        ray.get(done)
        since, wait = clock.read(len(waiting) - len(left), len(left))
        if len(left) % 10 == 0:
            print(f"{since} {len(waiting) - len(left)}/{len(waiting)} models measured{wait}", flush=True)
    return {name: Said.read(read(path)) for name, path in paths.items()}


def _released(first: Found) -> bool:
    return choice.ended(first) and first.refused is None


def _tested(run: Run) -> str:
    return run.data.test or run.data.target


@cache
def _rows(path: str, where: str | None) -> Any:
    """Which of the labelled test rows of a set are `where` it says; all of them without."""
    return slice(None) if where is None else members(path, "test", where)[0]


def _ask(path: str, run: Run, data: Any, out: str) -> None:
    """Write what a checkpoint says of its data; target labels, of the test split alone, go into the archive."""
    device = launch.task_device()
    model = checkpoint.read(path).model(device)
    source, target = (data.validation[stream] for stream in STREAMS)
    mixed = partial(mixtures, model, target.pixels, device)
    source = collect(model, source.pixels, source.labels, device=device)
    target = replace(collect(model, target.pixels, None, device=device), mixed=mixed, prior=priors.told(run))
    scores = {
        name: float(find.validator(name)(source, target))
        for name in find.names("validators")
        if name not in ("oracle", *FOR_PRETRAINING)
    }
    test = look(model, _tested(run), "test", run.data.transform, device=device)
    write(out, Said(target.logits, test.logits, test.labels, scores).write())


def _write_trials(
    folder: str,
    grid: Grid,
    orders: Mapping[Cell, list[Found]],
    drawn: Mapping[Cell, list[str]],
    said: Mapping[str, Said],
) -> None:
    """trials.csv; and say how many collapsed or warned of something."""
    rows = []
    for cell, order in orders.items():
        for trial in order:
            settings, held = config.flat(trial.run), said.get(trial.trial)
            place = {
                "draw": None if trial.averaged else drawn[cell].index(trial.trial),
                "released": trial is order[0] and _released(trial),
            }
            measured = {
                f"target/auroc {where}" if where else "target/auroc": held
                and held.only(_rows(_tested(trial.run), where)).auroc
                for where in grid.where or [None]
            }
            warnings = filter(None, [trial.refused, trial.error or trial.metrics.get("warnings")])
            rows.append(
                {
                    **cell._asdict(),
                    **place,
                    **({prior.SETTING: settings[prior.SETTING]} if prior.SETTING in settings else {}),
                    **{path: None if trial.averaged else settings[path] for path in config.space(trial.run)},
                    "steps": trial.steps,
                    "source/auroc": trial.metrics.get("source/auroc"),
                    "agreement": trial.agreement,
                    **(held.scores if held else {}),
                    **measured,
                    "warnings": "; ".join(warnings),
                    "checkpoint": trial.checkpoint,
                }
            )
    table = pd.DataFrame(rows).astype({"draw": "Int64"})
    write(f"{folder}/trials.csv", table.to_csv(index=False))
    table = table[table["draw"].notna()]
    if collapsed := health.counted(table["warnings"]):
        print(collapsed)
    if warned := int(table["warnings"].astype(bool).sum()):
        print(f"{warned} of {len(table)} trials warn; trials.csv says of what")


def _write(folder: str, where: str | None, entries: list[Entry]) -> None:
    """Write the tables and the picture of all the test images or of a part of them, and print the tables."""
    end = "" if where is None else "-" + re.sub(r"[^\w.-]", ".", where)
    made = {"table": tables.compared(entries), "regret": tables.regret(entries)}
    if where:
        print(f"\n{where}")
    for name, table in made.items():
        if len(table):
            text = tables.markdown(tables.readable(table))
            write(f"{folder}/{name}{end}.csv", table.to_csv(index=False))
            write(f"{folder}/{name}{end}.md", text)
            print(f"\n{text}", flush=True)
    write(f"{folder}/table{end}.png", pictures.compared(made["table"], entries))
