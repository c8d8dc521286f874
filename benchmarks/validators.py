"""How much target AUROC each way of choosing gives away: `python benchmarks/validators.py runs --seeds 5 6 7`.

For each seed, share of lenses in the target and method it does what a search does without Ray and without stopping
anything: the defaults and draws from the method's ranges, all trained to the end from one source model. Every validator
then chooses one by its validation outputs, without target labels; its regret is the best target test AUROC of these
settings minus that of its choice. `agreement` is with the ensemble of all (raylens/ensemble.py).

`runs` is where the main job keeps the sets that it simulates; those that are missing are made. What was trained is kept
under `runs/validators/`, with the validators' scores, and not trained again: empty it when something has changed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raylens import checkpoint, config, find, metrics
from raylens.checkpoint import Facts
from raylens.cluster.search import sampler
from raylens.cluster.worker import work
from raylens.config import Run, Search
from raylens.data import sets
from raylens.data.preprocess import preprocess
from raylens.data.shards import LENS_CLASSES, read_manifest, read_split
from raylens.data.stream import Resident, Split
from raylens.ensemble import agreement
from raylens.errors import DataError
from raylens.loop import collect
from raylens.models import adapt_batch_norm
from raylens.seeds import seed as seeded

METHODS = ("adda", "self_ensembling", "adamatch", "cdan", "mcc", "wdgrl")
RUINED = {
    "adda": ({"optimizer.lr": 1e-4}, {"optimizer.lr": 3e-4}, {"optimizer.lr": 1e-4, "method.gate": 0.0}),
    "self_ensembling": ({"optimizer.lr": 3e-3},),
    "adamatch": ({"optimizer.lr": 1e-3, "method.batch_norm": "joint"}, {"optimizer.lr": 3e-3}),
    "cdan": ({"optimizer.lr": 1e-3},),
    "mcc": ({"optimizer.lr": 3e-3, "method.weight": 30.0},),
    "wdgrl": ({"optimizer.lr": 1e-3},),
}
"""Settings that do harm, or may."""
BASELINES = ("source only", "batch norm only")
VALIDATORS = [name for name in find.names("validators") if name != "oracle"]
AGREEMENT = "agreement"


@dataclass(frozen=True)
class Cell:
    """What shares its sets: a seed and a share of lenses in the target."""

    storage: str
    seed: int
    lenses: float
    steps: int

    @property
    def folder(self) -> Path:
        return Path(self.storage) / "validators" / f"seed{self.seed}-lenses{self.lenses:g}-steps{self.steps}"

    @property
    def start(self) -> Path:
        """The source's model knows nothing of the target: one for all shares of lenses."""
        return Path(self.storage) / "validators" / f"seed{self.seed}-start"

    def run(self, method: str, **settings: Any) -> Run:
        known = config.settings(method, "small")
        prior = {"method.target_prior": self.lenses} if "method.target_prior" in known else {}
        shared = {"method.name": method, "seed": self.seed, "storage": self.storage}
        shared |= {"data.target_lenses": self.lenses, "fit.steps": self.steps, "fit.report_every": self.steps}
        return config.build(shared, prior, settings)

    def paths(self) -> dict[str, str]:
        return {stream: sets.simulated(self.run("adda"), stream) for stream in ("source", "target")}

    def draws(self, method: str, count: int) -> list[dict[str, Any]]:
        """The defaults, and seeded draws from the method's ranges."""
        random = np.random.RandomState(seeded("draws", self.seed, method) % 2**32)
        spans = config.space(self.run(method))
        return [
            {},
            *(
                {path: sampler(span).sample(random_state=random) for path, span in spans.items()}
                for _ in range(count - 1)
            ),
        ]


@lru_cache(maxsize=1)
def loaded(cell: Cell) -> tuple[Resident, Split]:
    """Both domains, and the target's test split with its labels, for the end."""

    def split(stream: str, part: str, labels: bool) -> Split:
        held = read_split(cell.paths()[stream], part)
        return Split(preprocess(held["pixels"], "minmax"), held["label"] if labels else None)

    streams = ("source", "target")
    data = Resident(
        {stream: split(stream, "train", stream == "source") for stream in streams},
        {stream: split(stream, "val", stream == "source") for stream in streams},
    )
    return data, split("target", "test", True)


def facts(data: Resident) -> Facts:
    return Facts(LENS_CLASSES, 1, data.train["source"].pixels.shape[-1], {})


def prepare(cell: Cell) -> None:
    """Sets that are not there are simulated."""
    import ray

    missing = []
    for path in cell.paths().values():
        try:
            read_manifest(path)
        except DataError:
            missing.append(path)
    if missing:
        ray.init(ignore_reinit_error=True, include_dashboard=False, logging_level="WARNING")
        sets.prepare(cell.run("adda"), ("source", "target"))
        ray.shutdown()


def start(cell: Cell) -> None:
    """The model that all methods start from."""
    if not (cell.start / "model.safetensors").exists():
        data, _ = loaded(cell)
        steps = {"fit.steps": 1000, "fit.report_every": 1000}
        (report,) = work(cell.run("supervised", **steps), facts(data), data)
        report.save(cell.start)


def candidate(cell: Cell, name: str, method: str | None, settings: dict[str, Any]) -> None:
    """Train one and keep what it says of all splits; method None is the start."""
    path = cell.folder / f"{name}.npz"
    if path.exists():
        return
    data, test = loaded(cell)
    warnings = ""
    if method is None:
        model = checkpoint.read(cell.start).model()
        if name == "batch norm only":
            adapt_batch_norm(model, data.train["target"].pixels)
    else:
        run = cell.run(method, start=str(cell.start), **settings)
        for report in work(run, facts(data), data):
            warnings = str(report.metrics["warnings"])
        model = report.method.result
    held = {
        "source": collect(model, data.validation["source"].pixels, data.validation["source"].labels),
        "target": collect(model, data.validation["target"].pixels, None),
        "test": collect(model, test.pixels, test.labels),
    }
    judged = [find.validator(name)(held["source"], held["target"]) for name in VALIDATORS]
    arrays = {f"{part}_logits": said.logits for part, said in held.items()}
    arrays |= {"source_labels": held["source"].labels, "test_labels": test.labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays, scores=judged, settings=str(settings), warnings=warnings)
    os.replace(partial, path)


def jobs(cells: list[Cell], methods: list[str], count: int, ruined: bool) -> Iterator[tuple]:
    for cell in cells:
        for name in BASELINES:
            yield cell, name, None, {}
        for method in methods:
            for index, settings in enumerate(cell.draws(method, count)):
                yield cell, f"{method}-{index}", method, settings
            for index, settings in enumerate(RUINED[method] if ruined else ()):
                yield cell, f"{method}-ruined{index}", method, settings


def table(cells: list[Cell], methods: list[str], count: int) -> pd.DataFrame:
    """A row for each candidate: its test AUROC, source-only's, and every validator's score."""
    rows = []
    for cell in cells:
        base = {name: read(cell, name) for name in BASELINES}
        for method in methods:
            found = [read(cell, f"{method}-{index}") for index in range(count)]
            together = agreement([one["target_logits"] for one in found])
            for index, (one, agrees) in enumerate(zip(found, together, strict=True)):
                rows.append(
                    {
                        "seed": cell.seed,
                        "lenses": cell.lenses,
                        "method": method,
                        "draw": index,
                        "auroc": auroc(one),
                        **{name: auroc(held) for name, held in base.items()},
                        **dict(zip(VALIDATORS, one["scores"], strict=True)),
                        AGREEMENT: agrees,
                    }
                )
    return pd.DataFrame(rows)


def read(cell: Cell, name: str) -> Any:
    return np.load(cell.folder / f"{name}.npz")


def scores(held: Any) -> np.ndarray:
    """Probability of a lens of the target's test images."""
    return metrics.softmax64(held["test_logits"])[:, 1]


def auroc(held: Any) -> float:
    return metrics.binary(scores(held), held["test_labels"])["auroc"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("storage")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--lenses", type=float, nargs="+", default=[0.01], help="shares in the target")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument(
        "--draws", type=int, default=5, help="settings of each method, the defaults one of them"
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument(
        "--ruined", action="store_true", help="settings that do harm, too, and what the gate refuses"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    storage = os.path.abspath(asked.storage)
    cells = [Cell(storage, seed, lenses, asked.steps) for lenses in asked.lenses for seed in asked.seeds]
    for cell in cells:
        prepare(cell)
    with ProcessPoolExecutor(asked.processes, get_context("spawn"), one_thread) as pool:
        list(pool.map(start, {cell.seed: cell for cell in cells}.values()))
        waiting = [
            pool.submit(candidate, *job) for job in jobs(cells, asked.methods, asked.draws, asked.ruined)
        ]
        for done, one in enumerate(as_completed(waiting), 1):
            one.result()
            print(f"\r{done}/{len(waiting)}", end="", flush=True)
    print()
    show(table(cells, asked.methods, asked.draws))
    defaults(cells, asked.methods)
    if asked.ruined:
        gate(cells, asked.methods, asked.draws)


def defaults(cells: list[Cell], methods: list[str]) -> None:
    """Every method with its defaults: mean test AUROC over seeds, and less the baselines', with 95 % intervals."""
    rows = {}
    for lenses in dict.fromkeys(cell.lenses for cell in cells):
        for method in methods:
            runs = [cell for cell in cells if cell.lenses == lenses]
            mine = [read(cell, f"{method}-0") for cell in runs]
            row = {"AUROC": f"{np.mean([auroc(one) for one in mine]):.3f}"}
            for name in BASELINES:
                pairs = [
                    (scores(one), scores(read(cell, name)), one["test_labels"])
                    for one, cell in zip(mine, runs, strict=True)
                ]
                row[f"minus {name}"] = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*metrics.paired_over_runs(pairs))
            rows[lenses, method] = row
    print(pd.DataFrame(rows).T.to_string())


def gate(cells: list[Cell], methods: list[str], count: int) -> None:
    """Of all that was trained: what is below source only on the target, and what lost search.may_lose of the source."""
    limit, found = Search().may_lose, []
    for cell, name, method, _ in jobs(cells, methods, count, ruined=True):
        if method:
            start, held = read(cell, BASELINES[0]), read(cell, name)
            below = auroc(start) - auroc(held)
            found.append((below > 0, source_auroc(start) - source_auroc(held) > limit, below))
    bad, refused, below = (np.array(column) for column in zip(*found, strict=True))
    worst = below[~refused].max(initial=0)
    print(
        f"{bad.sum()} of {len(bad)} models are below source only; not released {(bad & refused).sum()} of them and "
        f"{(~bad & refused).sum()} of the others; the worst that is released is {worst:.3f} below"
    )


def source_auroc(held: Any) -> float:
    return metrics.binary(metrics.softmax64(held["source_logits"])[:, 1], held["source_labels"])["auroc"]


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def show(found: pd.DataFrame) -> None:
    """Test AUROC of the defaults, of the best and of each choice's; regret over all searches."""
    searches = found.groupby(["lenses", "method", "seed"])
    best = searches["auroc"].max()
    chosen = {
        name: searches.apply(lambda group, name=name: group.loc[group[name].idxmax(), "auroc"])
        for name in (*VALIDATORS, AGREEMENT)
    }
    chosen["the defaults"] = searches.apply(lambda group: group.loc[group["draw"].idxmin(), "auroc"])
    base = searches[list(BASELINES)].first()
    print(pd.concat([base, best.rename("best"), pd.DataFrame(chosen)], axis=1).round(3).to_string())
    rows = {
        name: {
            "mean regret": (best - choice).mean(),
            "worst": (best - choice).max(),
            "below source only": (choice < base["source only"]).mean(),
            "gain over source only": (choice - base["source only"]).mean(),
        }
        for name, choice in chosen.items()
    }
    print(pd.DataFrame(rows).T.sort_values("mean regret").round(3).to_string())


if __name__ == "__main__":
    main()
