"""Views per second: `python benchmarks/views.py [PIPELINE ...]`, all ways in turn in the same run.

Compares `raylens.augment` in one thread with the same pipeline called image by image, in this process and in
a torch DataLoader with two workers, and with plain indexing of a tensor in memory, which makes no views.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from raylens.augment import DIHEDRAL, PREDECESSORS, STRONG, augment, composed

ROWS, SIZE, BATCH, REPEATS = 4_096, 64, 128, 5


class Rows(Dataset):
    """What a DataLoader is usually given: one image at a time, through Albumentations."""

    def __init__(self, pixels: np.ndarray, pipeline: str) -> None:
        self.pixels, self.pipeline = pixels, pipeline

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> torch.Tensor:
        image = self.pixels[row].transpose(1, 2, 0)
        made = composed(self.pipeline, SIZE, SIZE)(image=image)["image"]
        return torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1)))


def batches() -> Iterator[np.ndarray]:
    order = np.random.default_rng(0).permutation(ROWS)
    return (order[start : start + BATCH] for start in range(0, ROWS, BATCH))


def measure(pipeline: str) -> None:
    pixels = np.random.default_rng(0).random((ROWS, 1, SIZE, SIZE), np.float32)
    tensor, rows = torch.from_numpy(pixels), Rows(pixels, pipeline)
    loader = DataLoader(rows, BATCH, shuffle=True, num_workers=2, persistent_workers=True)

    def indexing() -> None:
        for batch in batches():
            tensor[torch.from_numpy(batch)]

    def one_by_one() -> None:
        for batch in batches():
            torch.stack([rows[row] for row in batch])

    def loading() -> None:
        for _ in loader:
            pass

    def ours() -> None:
        for step, batch in enumerate(batches()):
            torch.from_numpy(augment(pixels[batch], pipeline, (0, step)))

    ways: dict[str, Callable[[], None]] = {
        "DataLoader, 2 workers, image by image": loading,
        "Albumentations image by image": one_by_one,
        "raylens.augment": ours,
        "plain indexing, no views": indexing,
    }
    seconds = {way: [] for way in ways}
    for turn in range(REPEATS + 1):  # the first one warms up
        for way, work in ways.items():
            start = time.perf_counter()
            work()
            if turn:
                seconds[way].append(time.perf_counter() - start)
    speeds = {way: ROWS / statistics.median(times) for way, times in seconds.items()}
    base = next(iter(speeds.values()))
    print(f"{pipeline}: {SIZE} x {SIZE}, batches of {BATCH}, median of {REPEATS}")
    for way, speed in speeds.items():
        print(f"  {way:<40}{speed:>12,.0f} images/s{speed / base:>9.2f} x")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or [DIHEDRAL, PREDECESSORS, STRONG]:
        measure(name)
