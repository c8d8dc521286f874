"""Images per second of the streams: `python benchmarks/stream.py [PIPELINE] [--streaming]`.

Compares the resident streams, source with labels and target without, with a torch DataLoader of two workers that call
the same Albumentations pipeline image by image, and with plain indexing of tensors in memory, which makes no views.
Nothing else is done with the batches; all ways take turns in the same run. `--streaming` adds a row for the same sets
streamed from Parquet through Ray Data on two CPUs: by itself and without a pause, after its first pools of rows, since
Ray Data works ahead while others have their turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from raylens import config
from raylens.augment import DIHEDRAL, composed
from raylens.config import Run
from raylens.data.shards import LENS_CLASSES, ShardWriter, made_by
from raylens.data.stream import AHEAD, Resident, Split
from raylens.methods.adda import ADDA

ROWS, SIZE, BATCH, STEPS, TURNS = 6_000, 64, 100, 40, 5


class Pairs(Dataset):
    """What a DataLoader is usually given: one image of each domain at a time, through Albumentations."""

    def __init__(self, sets: dict[str, Split], pipeline: str) -> None:
        self.sets, self.pipeline = sets, pipeline

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int, torch.Tensor]:
        return self.view("source", row), int(self.sets["source"].labels[row]), self.view("target", row)

    def view(self, stream: str, row: int) -> torch.Tensor:
        image = self.sets[stream].pixels[row].transpose(1, 2, 0)
        made = composed(self.pipeline, SIZE, SIZE)(image=image)["image"]
        return torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1)))


def indexed(sets: dict[str, Split]) -> Iterator[tuple[torch.Tensor, ...]]:
    tensors = {name: torch.from_numpy(split.pixels) for name, split in sets.items()}
    labels = torch.from_numpy(sets["source"].labels)
    while True:
        orders = [torch.randperm(ROWS).split(BATCH) for _ in tensors]
        for source, target in zip(*orders, strict=True):
            yield tensors["source"][source], labels[source], tensors["target"][target]


def endless(loader: DataLoader) -> Iterator:
    while True:
        yield from loader


def streamed(run: Run, sets: dict[str, Split], folder: str) -> Iterator:
    """The same rows from Parquet; the sets are written, and Ray started, before the first batch."""
    import ray

    from raylens.data import streaming

    for name, split in sets.items():
        with ShardWriter(f"{folder}/{name}", classes=LENS_CLASSES, made=made_by("benchmarks")) as writer:
            writer.add("train", split.pixels, split.labels, [str(row) for row in range(ROWS)])
    run = run.replace(**{f"data.{name}": f"{folder}/{name}" for name in sets})
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().print_on_execution_start = False
    streams = [streaming._images(streaming.dataset(run, name, 0), BATCH, 0) for name in sets]
    return zip(*streams, strict=True)


def measure(pipeline: str, streaming: bool, folder: str) -> None:
    rng = np.random.default_rng(0)
    sets = {
        name: Split(rng.random((ROWS, 1, SIZE, SIZE), np.float32), labels)
        for name, labels in (("source", np.arange(ROWS) % 2), ("target", None))
    }
    pools = ROWS // BATCH  # steps that Ray Data's first two tasks make
    run = config.build(
        {
            "method.name": "adda",
            "data.batch": BATCH,
            "data.views": pipeline,
            "fit.steps": (TURNS + 2) * (pools + STEPS + AHEAD + 1),
        }
    )
    workers = DataLoader(Pairs(sets, pipeline), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    resident = Resident(sets, {}).batches(run, ADDA)
    ways = {"DataLoader, 2 workers": endless(workers), "raylens, resident": resident}
    ways["plain indexing, no views"] = indexed(sets)
    with closing(resident):
        seconds = turns(ways)
    if streaming:
        batches = islice(streamed(run, sets, folder), pools, None)
        seconds["raylens, streaming"] = [elapsed(batches, pools) * STEPS / pools for _ in range(TURNS + 1)][
            1:
        ]
    base = next(iter(seconds.values()))
    print(
        f"{pipeline}: {BATCH} + {BATCH} images of {SIZE} x {SIZE}, median of {TURNS} turns of {STEPS} steps"
    )
    for way, times in seconds.items():
        ratios = sorted(a / b for a, b in zip(base, times, strict=True))
        speed = 2 * BATCH * STEPS / statistics.median(times)
        spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"  {way:<28}{speed:>11,.0f} images/s{statistics.median(ratios):>9.2f} x  {spread}", flush=True)


def turns(ways: dict[str, Iterator]) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(TURNS + 1):  # the first one warms up
        for way, batches in ways.items():
            for _ in islice(batches, AHEAD + 1):  # made while the others had their turn
                pass
            took = elapsed(batches, STEPS)
            if turn:
                seconds[way].append(took)
    return seconds


def elapsed(batches: Iterator, steps: int) -> float:
    """Seconds of so many steps."""
    start = time.perf_counter()
    for _ in islice(batches, steps):
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", nargs="?", default=DIHEDRAL)
    parser.add_argument("--streaming", action="store_true", help="also through Ray Data")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="raylens-") as made:
        measure(given.pipeline, given.streaming, made)
