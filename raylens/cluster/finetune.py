"""What pretrained encoders are worth: finetuned on few labels and many, beside the same networks from scratch.

It lives in one folder, and the same command goes on with it:

    run.yaml        every setting they share; plan.json: checkpoints, amounts of labels, seeds, what is compared
    trials/         Ray Tune's: a training for each amount of labels, start and seed
    probes/         checkpoints of frozen encoders under linear heads, one for each amount of labels, start and seed
    finetuned.*     the table: .md, .csv, and its picture
    test.json       every metric of each training, and of best/, on the test split
    best/           of those that were finetuned on the most labels, the best on the validation split
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from raylens import checkpoint, config, find, metrics, pictures, tables
from raylens.checkpoint import Facts
from raylens.cluster import choice, content, launch
from raylens.cluster.folders import releases
from raylens.cluster.jobs import Job, train
from raylens.cluster.training import fits, ready
from raylens.cluster.worker import validate
from raylens.config import Run
from raylens.data import sets
from raylens.data.outputs import look
from raylens.data.stream import Split, few
from raylens.errors import ConfigError
from raylens.loop import collect
from raylens.storage import copy, exists, read, write
from raylens.tasks.base import Task

FINETUNED, FROZEN, SCRATCH = "finetuned", "frozen", "from scratch"


@dataclass(frozen=True)
class Start:
    """A pretraining: words for its network and for itself, empty where nothing is to be told apart.

    `encoder` are the encoder's settings by path, `checkpoints` those of its seeds, one or more, by absolute paths.
    """

    network: str
    word: str
    encoder: Mapping[str, Any]
    checkpoints: Sequence[str]


@dataclass(frozen=True)
class Plan:
    """A finetuning: its run, the pretrainings, amounts of labels (None: all), seeds, and what it is compared with."""

    run: Run
    starts: Sequence[Start]
    labels: Sequence[float | None]
    seeds: Sequence[int]
    frozen: bool
    scratch: bool


@dataclass(frozen=True)
class Entry:
    """What has a row for each amount of labels: an encoder, from its checkpoints or from none, of one kind."""

    kind: str
    network: str
    word: str
    encoder: Mapping[str, Any]
    checkpoints: Sequence[str | None]

    @property
    def label(self) -> str:
        """As the table has it: `finetuned`, or `small byol finetuned` beside others."""
        return " ".join(filter(None, (self.word, self.kind)))

    def trainings(self, amount: float | None, seeds: Sequence[int]) -> dict[str, tuple[str | None, int]]:
        """The checkpoint and the seed of each of its trainings on so many labels, by name."""
        several = len(self.checkpoints) > 1
        return {
            self._training(amount, seed, index if several else None): (path, seed)
            for index, path in enumerate(self.checkpoints)
            for seed in seeds
        }

    def _training(self, amount: float | None, seed: int, start: int | None) -> str:
        words = [self.label, _percent(amount).replace("%", "pc"), f"seed{seed}"]
        words += [] if start is None else [f"start{start}"]
        return re.sub(r"[^\w.]+", "-", " ".join(words))


def entries(plan: Plan) -> list[Entry]:
    """All that `plan` compares, in the order of the table; each network from scratch once, after its pretrainings."""
    made: list[Entry] = []
    for network in dict.fromkeys(start.network for start in plan.starts):
        ours = [start for start in plan.starts if start.network == network]
        for start in ours:
            for kind in (FINETUNED, *([FROZEN] if plan.frozen else [])):
                made.append(Entry(kind, network, start.word, start.encoder, start.checkpoints))
        if plan.scratch:
            bare: dict[str, Any] = {"method.encoder_rate": 1.0}  # there is nothing to be kept
            bare |= {"encoder.pretrained": False} if "encoder.pretrained" in ours[0].encoder else {}
            made.append(Entry(SCRATCH, network, network, {**ours[0].encoder, **bare}, (None,)))
    return made


@releases
def finetune(plan: Plan) -> str:
    """Train and measure all that `plan` asks for; prints the table and returns the folder of the best checkpoint."""
    import ray

    method, task = find.method(plan.run.method.name), find.task(plan.run.task.name)
    if plan.frozen and not hasattr(task, "fitted"):
        raise ConfigError(f"--frozen fits a linear head, and {plan.run.task.name} has none; leave it out")
    folder = f"{launch.lasting(plan.run.storage)}/{plan.run.title}"
    _check_same(plan, folder)
    starts = content.of_checkpoints(path for start in plan.starts for path in start.checkpoints)
    content.check(folder, starts)
    lines = entries(plan)
    _check_starts(plan, lines)
    run, facts = ready(plan.run, method, ("source",), search=True, test=True, finetunes=True)
    if sets.share(run, ("source",)) < 1:
        raise ConfigError(
            f"finetuning keeps its images in memory, {sets.gigabytes(run, ('source',)):.1f} GB, and "
            f"data.resident_limit is {run.data.resident_limit:g}; raise it, or give a smaller set"
        )
    held = sets.reside(run, ("source",), ("source",))
    rows = {amount: _rows(held.train["source"], run, amount) for amount in plan.labels}
    data = ray.put(held)
    runs, kinds = {}, {}
    for amount in plan.labels:
        for entry in lines:
            for name, (path, seed) in entry.trainings(amount, plan.seeds).items():
                runs[name], kinds[name] = _settings(run, entry, path, amount, seed), entry.kind
    frozen = {name for name, kind in kinds.items() if kind == FROZEN}
    known = {name: _facts(facts, held.train["source"], one) for name, one in runs.items()}
    jobs = {name: Job(one, known[name], data) for name, one in runs.items() if name not in frozen}
    write(f"{folder}/plan.json", json.dumps(_asked(plan)))
    content.keep(folder, starts)
    print(f"{len(jobs)} trainings of {run.fit.steps} steps", flush=True)
    trials = train(jobs, folder, "trials", label="finetune")
    found = {name: trial for name, trial in trials.items() if choice.ended(trial)}
    for name in trials.keys() - found.keys():
        reason = trials[name].error or trials[name].metrics.get("warnings")
        print(f"warning: {name} failed, and its row has no figures: {reason}", flush=True)
    if not found:
        raise RuntimeError(f"none of {len(trials)} trainings came to an end: {reason}")
    resources = {"num_cpus": run.scale.cpus, "num_gpus": run.scale.gpus, "max_retries": 2}
    fit, measure = ray.remote(**resources)(_probe), ray.remote(**resources)(_measured)
    paths = {name: trial.checkpoint for name, trial in found.items()}
    probes = {
        name: fit.remote(runs[name], known[name], data, f"{folder}/probes/{name}") for name in sorted(frozen)
    }
    paths |= {name: ray.get(reference) for name, reference in probes.items()}
    asked = {name: measure.remote(path, run) for name, path in paths.items()}
    said = {name: ray.get(reference) for name, reference in asked.items()}
    _write(folder, run, compared(plan, rows, task, said))
    trained = [name for name in found if kinds[name] == FINETUNED]
    if not trained:
        raise RuntimeError("no finetuned model came to an end, so there is no best; lower optimizer.lr")
    best = max(trained, key=lambda name: (rows[runs[name].data.labels], found[name].objective))
    copy(found[best].checkpoint, f"{folder}/best")
    reports = {name: one.report for name, one in said.items()} | {"best": said[best].report}
    write(f"{folder}/test.json", json.dumps(reports, indent=1))
    launch.tell(best=f"{found[best].objective:.4f}", checkpoint=f"{folder}/best")
    return f"{folder}/best"


@dataclass(frozen=True)
class Said:
    """What a model says of the test split: scores that metrics compare, labels, and all metrics."""

    scores: np.ndarray
    labels: np.ndarray
    report: dict[str, Any]


def compared(
    plan: Plan, rows: dict[float | None, int], task: type[Task], said: dict[str, Said]
) -> pd.DataFrame:
    """A row for each amount of labels and entry: metrics over trainings, and the first one's minus from scratch.

    A row of which a training is not in `said`, because it failed, has no metrics: what is left would be a choice.
    """
    made, metric = [], task.measured
    scratch = {entry.network: entry for entry in entries(plan) if entry.kind == SCRATCH}
    for amount in plan.labels:
        for entry in entries(plan):
            trained, groups = entry.trainings(amount, plan.seeds), len(entry.checkpoints)
            row = {
                "labels": _percent(amount),
                "images": rows[amount],
                "encoder": entry.label,
                "kind": entry.kind,
                "trainings": len(trained),
                "failed": sum(name not in said for name in trained),
            }
            for one in (metric, *task.beside) if not row["failed"] else ():
                heard = [(said[name].scores, said[name].labels) for name in trained]
                value = metrics.over_runs(heard, one, groups=groups)
                row |= dict(zip((one, f"{one}_low", f"{one}_high"), value, strict=True))
            beside = scratch[entry.network].trainings(amount, plan.seeds) if plan.scratch else {}
            if entry.kind != SCRATCH and beside and said.keys() >= trained.keys() | beside.keys():
                alike = {seed: name for name, (_, seed) in beside.items()}
                pairs = [
                    (said[name].scores, said[alike[seed]].scores, said[name].labels)
                    for name, (_, seed) in trained.items()
                ]
                over = metrics.paired_over_runs(pairs, metric, groups=groups)
                row |= dict(zip(("over", "over_low", "over_high"), over, strict=True))
            made.append(row)
    if metric in metrics.PAINTING:
        row = {
            "labels": "none",
            "images": 0,
            "encoder": "bicubic",
            "kind": "bicubic",
            "trainings": 0,
            "failed": 0,
        }
        first = next(iter(said.values()))
        for one in metrics.PAINTING[:3]:
            value = metrics.over_runs([(first.scores, first.labels)], f"bicubic_{one}")
            row |= dict(zip((one, f"{one}_low", f"{one}_high"), value, strict=True))
        made.insert(0, row)
    return pd.DataFrame(made)


def _asked(plan: Plan) -> dict[str, Any]:
    asked = {name: getattr(plan, name) for name in ("labels", "seeds", "frozen", "scratch")}
    return {"starts": [path for start in plan.starts for path in start.checkpoints], **asked}


def _check_same(plan: Plan, folder: str) -> None:
    """Raises ConfigError when the folder holds a finetuning of other checkpoints, on other labels, or with other seeds.

    A folder of before there were several checkpoints does not name its one, which run.yaml does.
    """
    if not exists(f"{folder}/plan.json"):
        return
    held, here = json.loads(read(f"{folder}/plan.json")), _asked(plan)
    if {"starts": here["starts"][:1], **held} != here:
        raise ConfigError(
            f"{folder} is a finetuning of other checkpoints, or with other --labels, --seeds, --frozen or "
            "--no-scratch; give another --name"
        )


def _check_starts(plan: Plan, lines: Sequence[Entry]) -> None:
    """Raises ConfigError when a checkpoint was pretrained on other images; of the first, `ready` sees to it.

    Raises DataError for more labels than there are.
    """
    run = plan.run.replace(**sets.given(plan.run), storage=launch.lasting(plan.run.storage))
    for amount in plan.labels:
        sets.check_labels(run, amount)
    tuned = [entry for entry in lines if entry.kind == FINETUNED]
    others = [(entry, path) for entry in tuned for path in entry.checkpoints if path != run.start]
    facts = sets.facts(run, ("source",), test=True) if others else None
    for entry, path in others:
        fits(_settings(run, entry, path, None, 0), facts)


def _settings(run: Run, entry: Entry, start: str | None, amount: float | None, seed: int) -> Run:
    shared = {path: value for path, value in config.flat(run).items() if not path.startswith("encoder.")}
    return config.build(shared, {**entry.encoder, "data.labels": amount, "seed": seed, "start": start})


def _probe(run: Run, facts: Facts, data: Any, out: str) -> str:
    """Write the start under a linear head that is fitted, not trained, to the features of the labelled images.

    Logistic or ridge regression of standardised features, as linear probes are.
    """
    device, split = launch.task_device(), data.train["source"]
    model = checkpoint.start_model(run, facts).to(device)
    kept = few(split, run)
    pixels, labels = (
        (split.pixels, split.labels) if kept is None else (split.pixels[kept], split.labels[kept])
    )
    weights, bias = facts.task(run.task).fitted(collect(model, pixels, None, device=device).features, labels)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weights))
        model.head.bias.copy_(torch.from_numpy(bias))
    metrics = {"step": 0, **validate(run, facts, model, data, device)}
    with tempfile.TemporaryDirectory(prefix="raylens-") as made:
        checkpoint.save(made, run, facts, model, metrics)
        copy(made, out)
    return out


def _rows(split: Split, run: Run, amount: float | None) -> int:
    kept = few(split, run.replace(**{"data.labels": amount}))
    return len(split) if kept is None else len(kept)


def _percent(amount: float | None) -> str:
    return "all" if amount is None else f"{100 * amount:g}%" if amount < 1 else f"{amount:g}"


def _facts(facts: Facts, split: Split, run: Run) -> Facts:
    """`facts` with the scale of the numbers that a training is given, and of no others."""
    if run.task.name != "regression" or (kept := few(split, run)) is None:
        return facts
    mean, deviation = float(split.labels[kept].mean()), float(split.labels[kept].std())
    return replace(facts, scale=(mean, deviation or facts.scale[1]))


def _measured(path: str, run: Run) -> Said:
    """What a checkpoint says of the test split."""
    device, found = launch.task_device(), checkpoint.read(path)
    tested, target = run.data.test or run.data.source, sets.target_of(found.run)
    task, transform = found.facts.task(found.run.task), found.run.data.transform
    output = look(
        found.model(device), tested, "test", transform, target=target, judge=task.judge, device=device
    )
    return Said(task.scores(output.logits), output.labels, task.report(output.logits, output.labels))


def _write(folder: str, run: Run, table: pd.DataFrame) -> None:
    task = find.task(run.task.name)
    metric = task.measured
    write(f"{folder}/finetuned.csv", table.to_csv(index=False))
    failed = ["failed"] if table["failed"].any() else []
    shown = table[["labels", "images", "encoder", "trainings", *failed]].copy()
    for one in (metric, *task.beside):
        three = table[[one, f"{one}_low", f"{one}_high"]].itertuples(index=False)
        label = "minus bicubic" if one == "psnr_gain" else f"test {one.upper()}"
        shown[label] = ["" if np.isnan(row[0]) else _interval(*row) for row in three]
    if "over" in table:
        overs = table[["over", "over_low", "over_high"]].itertuples(index=False)
        shown["minus from scratch"] = ["" if np.isnan(row[0]) else _interval(*row, sign="+") for row in overs]
    text = tables.markdown(shown)
    write(f"{folder}/finetuned.md", text)
    write(f"{folder}/finetuned.png", pictures.finetuned(table, metric))
    better = "lower" if metric in metrics.LOWER_IS_BETTER else "higher"
    name = run.task.name.replace("_", "-")
    print(f"\n{name} on the test split of {run.data.test or run.data.source}; {better} is better")
    print(f"{text}", flush=True)


def _interval(value: float, low: float, high: float, sign: str = "") -> str:
    digits = ".4f" if sign or abs(value) >= 1e-3 else ".2e"  # squared errors of images are small
    return f"{value:{sign}{digits}} [{low:{sign}{digits}}, {high:{sign}{digits}}]"
