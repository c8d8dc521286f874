"""What a trial costs before its first step: `python benchmarks/trials.py [--trials N]`.

Searches ADDA over toy sets as `raylens.tune` does, one trial at a time, in the Tune function with reused actors. For
the first trial: seconds from the start of the search to the trial's first step. For each one after it: from the last
step of the trial before, so that its validation, checkpoint and report count too. Memory is what the trial's process
holds at that moment and shares with no other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import ray
import torch

from raylens import checkpoint, config
from raylens.checkpoint import Facts
from raylens.cluster import launch
from raylens.cluster.search import tune
from raylens.cluster.worker import build
from raylens.config import Run
from raylens.data import sets
from raylens.data.shards import LENS_CLASSES, ShardWriter, made_by
from raylens.methods.adda import ADDA
from raylens.records import Losses

SIZE, STEPS = 64, 4


class Timed(ADDA):
    """ADDA that writes down when it steps, and what its process holds."""

    suggests = {**ADDA.suggests, "fit.steps": STEPS, "fit.report_every": STEPS}

    def losses(self, progress: float, **streams: object) -> Losses:
        if progress == 0:
            self._note("first", memory=psutil.Process().memory_full_info().uss)
        return super().losses(**streams, progress=progress)

    def after_step(self, progress: float) -> None:
        if progress == 1 - 1 / STEPS:
            self._note("last")

    def _note(self, step: str, **more: float) -> None:
        with Path(os.environ["RAYLENS_TRIALS_NOTES"]).open("a") as notes:
            print(json.dumps({"step": step, "time": time.time(), "process": os.getpid(), **more}), file=notes)


def write(out: str, seed: int, rows: int = 600) -> str:
    pixels = torch.rand(rows, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)).numpy()
    with ShardWriter(out, classes=LENS_CLASSES, made=made_by("benchmarks", seed=seed)) as writer:
        for split, some in (("train", slice(0, 400)), ("val", slice(400, 500)), ("test", slice(500, rows))):
            part = pixels[some]
            labels = torch.arange(len(part)).remainder(2).numpy()
            writer.add(split, part, labels, [f"{seed}-{split}-{row}" for row in range(len(part))])
    return out


def searched(trials: int, folder: str) -> tuple[float, list[dict]]:
    """When the search began, and what its trials wrote down."""
    run = config.build(
        {
            "method.name": "trials:Timed",
            "data.source": write(f"{folder}/source", 0),
            "data.target": write(f"{folder}/target", 1),
            "search.trials": trials,
            "search.concurrent": 1,
            "search.scheduler": "none",
            "storage": f"{folder}/runs",
            "start": f"{folder}/start",
            "name": "trials",
        }
    )
    facts = Facts(LENS_CLASSES, 1, SIZE, {})
    started(run, facts)
    os.environ["RAYLENS_TRIALS_NOTES"] = notes = f"{folder}/notes"
    launch.connect()
    run = run.replace(**{"scale.gpus": 0})
    data = ray.put(sets.reside(run, sets.streams(run, Timed), sets.trained(run, Timed)))
    began = time.time()
    tune(run, facts, data, f"{folder}/runs", "trials")
    return began, [json.loads(line) for line in Path(notes).read_text().splitlines()]


def started(run: Run, facts: Facts) -> None:
    """A checkpoint for the trials to start from."""
    model = build(config.build({"method.name": "supervised"}), facts).result
    checkpoint.save(run.start, config.build({"method.name": "supervised"}), facts, model, {})


def main(trials: int) -> None:
    with tempfile.TemporaryDirectory(prefix="raylens-") as folder:
        began, notes = searched(trials, folder)
    first = [note for note in notes if note["step"] == "first"]
    last = [note for note in notes if note["step"] == "last"]
    after = [later["time"] - before["time"] for before, later in zip(last, first[1:], strict=False)]
    memory = [note["memory"] / 1e6 for note in first]
    processes = len({note["process"] for note in first})
    print(f"\n{len(first)} trials of {STEPS} steps in {processes} process(es)")
    print(f"  first trial       {first[0]['time'] - began:6.2f} s to its first step, {memory[0]:4.0f} MB")
    middle = statistics.median(after)
    print(f"  each after it     {middle:6.2f} s ({min(after):.2f} to {max(after):.2f}), {memory[-1]:4.0f} MB")
    print(f"  ratio             {(first[0]['time'] - began) / middle:6.1f} x", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=6)
    torch.set_num_threads(1)
    main(parser.parse_args().trials)
