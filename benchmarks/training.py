"""Images per second of training: `python benchmarks/training.py [VIEWS ...] [--ray]`.

Compares `supervised` through raylens with a bare torch loop over tensors in memory: same model, optimizer and batch;
no clipping, schedule, reports or views. The bare loop lives in a process of its own and takes turns with ours, batch
sets of steps at a time: without views, when both train on the same pixels, and with views, which the bare loop is
given ready-made. One thread each. `--ray` does the same in the worker of a TorchTrainer, in steady state; validations
and checkpoints fall between the turns, and are told by themselves.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F

from raylens import config
from raylens.augment import DIHEDRAL, NONE
from raylens.checkpoint import Facts
from raylens.cluster.worker import build, work
from raylens.config import Run
from raylens.data.shards import LENS_CLASSES
from raylens.data.stream import AHEAD, Resident, Split
from raylens.methods.base import Method
from raylens.records import Images

ROWS, SIZE, TURNS = 4_096, 64, 9
FACTS = Facts(LENS_CLASSES, 1, SIZE, {})


def settings(batch: int, steps: int, views: str, **more: object) -> Run:
    """A report, with its validation and checkpoint, in every turn but none within what is timed."""
    turn = AHEAD + 1 + steps + 1
    layer = {"method.name": "supervised", "data.batch": batch, "data.views": views, "fit.report_every": turn}
    return config.build(layer, {"fit.steps": turn * (TURNS + 1), **more})


def splits() -> dict[str, Split]:
    rng = np.random.default_rng(0)
    return {
        name: Split(rng.random((rows, 1, SIZE, SIZE), np.float32), np.arange(rows) % 2)
        for name, rows in (("train", ROWS), ("validation", ROWS // 4))
    }


def bare(batch: int, steps: int) -> None:
    """The bare loop: takes a turn for every line it reads, and answers with its seconds."""
    torch.set_num_threads(1)
    run = settings(batch, steps, NONE)
    model = build(run, FACTS).model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), run.optimizer.lr, weight_decay=run.optimizer.weight_decay
    )
    split = splits()["train"]
    pixels, labels = torch.from_numpy(split.pixels), torch.from_numpy(split.labels)

    def turn() -> np.ndarray:
        start = clocks()
        for rows in torch.randint(ROWS, (steps, batch)):
            loss = F.cross_entropy(model(pixels[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return clocks() - start

    for _ in sys.stdin:
        print(*turn(), flush=True)


def clocks() -> np.ndarray:
    """Seconds: on the wall, of the processor for this process, of the processor for this thread."""
    return np.array([time.perf_counter(), time.process_time(), time.thread_time()])


@dataclass(frozen=True)
class Taking(Resident):
    """Resident sets that let the bare loop have its turn between those of the training, and time both."""

    script: str
    out: str
    steps: int

    def batches(self, run: Run, method: type[Method], **place: int) -> Iterator[dict[str, Images]]:
        command = [sys.executable, self.script, "--bare", f"--rows={run.data.batch}", f"--steps={self.steps}"]
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        made = super().batches(run, method, **place)
        try:
            for turn in range(TURNS + 1):
                print("go", file=other.stdin, flush=True)
                theirs = other.stdout.readline().split()
                for _ in range(AHEAD + 1):  # their views were made during the bare loop's turn
                    yield next(made)
                start = clocks()
                for _ in range(self.steps):
                    yield next(made)
                ours = clocks() - start
                yield next(made)  # after this step comes the report
                report = clocks() - start - ours * (1 + 1 / self.steps)
                if turn:  # the first one warms up
                    with Path(self.out).open("a") as written:
                        print(*theirs, *ours, report[0], file=written)
        finally:
            made.close()
            other.kill()
            other.wait()


def measure(batch: int, steps: int, views: str, ray: bool, folder: str) -> None:
    out = f"{folder}/{views}-{ray}"
    sets = ({"source": split} for split in splits().values())
    data = Taking(*sets, script=os.path.abspath(__file__), out=out, steps=steps)
    run = settings(batch, steps, views, storage=folder)
    (in_train if ray else alone)(run, data, out)
    table = np.loadtxt(out)
    bare_, ours, report = table[:, :3], table[:, 3:6], np.median(table[:, 6])
    ratios = np.sort(bare_ / ours, axis=0)
    middle = np.median(ratios, axis=0)
    speeds = steps * batch / np.median(table[:, [0, 3]], axis=0)
    where = "in a Train worker" if ray else "without Ray"
    print(
        f"views {views}, {where}: {batch} images of {SIZE} x {SIZE}, median of {TURNS} turns of {steps} steps"
    )
    print(f"  bare loop{speeds[0]:>12,.0f} images/s")
    print(f"  raylens  {speeds[1]:>12,.0f} images/s   a report {report:.2f} s")
    clock = ("wall", "processor, all threads", "processor, training thread")
    for name, ratio, low, high in zip(clock, middle, ratios[0], ratios[-1], strict=True):
        print(f"  ratio    {ratio:>12.2f} x  {name} ({low:.2f} to {high:.2f})", flush=True)


def alone(run: Run, data: Taking, out: str) -> None:
    for report in work(run, FACTS, data):
        report.save(f"{out}-checkpoint")


def in_train(run: Run, data: Taking, out: str) -> None:
    import ray

    from raylens.cluster import launch

    launch.connect()
    launch.train(run.replace(**{"scale.gpus": 0}), FACTS, ray.put(data), f"{out}-train")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("views", nargs="*", default=[NONE, DIHEDRAL], help="of raylens/pipelines.py")
    parser.add_argument("--rows", type=int, default=64, help="images in a batch")
    parser.add_argument("--steps", type=int, default=20, help="steps in a turn")
    parser.add_argument("--ray", action="store_true", help="in the worker of a TorchTrainer")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.bare:
        bare(given.rows, given.steps)
    else:
        with tempfile.TemporaryDirectory(prefix="raylens-") as made:
            for pipeline in given.views:
                measure(given.rows, given.steps, pipeline, given.ray, made)
