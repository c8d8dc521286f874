"""Seconds until a set is in memory: `python benchmarks/resident.py [--rows 2000 40000]`.

Compares how raylens reads a set that fits in memory with Ray Data's tasks, which read it before, and with a torch
DataLoader of two workers over a file for each image, as predecessors keep theirs, without labels. Each turn is a
process of its own, which has imported what it takes and, for Ray Data, has started Ray; the ways take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

import numpy as np
from torch.utils.data import DataLoader, Dataset

from raylens.data import sets
from raylens.data.preprocess import preprocess
from raylens.data.rows import prepared
from raylens.data.shards import LENS_CLASSES, ShardWriter, made_by, split_files
from raylens.data.tasks import ray_data

SIZE, TURNS = 64, 3


def write(folder: str, rows: int) -> None:
    """A set of noise, as shards and as a file for each image."""
    rng, files = np.random.default_rng(0), Path(folder, "files")
    files.mkdir(parents=True)
    with ShardWriter(f"{folder}/shards", classes=LENS_CLASSES, made=made_by("benchmarks", seed=0)) as writer:
        for begin in range(0, rows, 2000):
            pixels = rng.random((min(2000, rows - begin), 1, SIZE, SIZE), np.float32)
            writer.add(
                "train", pixels, np.arange(len(pixels)) % 2, [f"{begin + row}" for row in range(len(pixels))]
            )
            for row, image in enumerate(pixels):
                np.save(files / f"{begin + row:07d}.npy", image)


class Files(Dataset):
    """An image a file."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> np.ndarray:
        return preprocess(np.load(self.files[row])[None], "minmax")[0]


def one_by_one(folder: str) -> int:
    loader = DataLoader(Files(Path(folder, "files")), 256, num_workers=2)
    return len(np.concatenate([batch.numpy() for batch in loader]))


def by_tasks(folder: str) -> int:
    """As raylens read until 2026-11-30."""
    files = split_files(f"{folder}/shards", "train")
    rows = ray_data().read_parquet(files, override_num_blocks=max(len(files), 8))
    rows = rows.select_columns(["pixels", "label"])
    rows = rows.map_batches(
        partial(prepared, transform="minmax", target=None), batch_format="pyarrow", batch_size=None
    )
    parts = [*rows.iter_batches(batch_size=None, batch_format="numpy")]
    return len(np.concatenate([part["pixels"] for part in parts]))


def ours(folder: str) -> int:
    return len(sets.read(f"{folder}/shards", "train", "minmax", labels=True).pixels)


WAYS = {"DataLoader, a file an image": one_by_one, "Ray Data's tasks": by_tasks, "raylens": ours}


def timed(way: str, folder: str) -> None:
    """Print the seconds of one reading."""
    if way == "Ray Data's tasks":
        import ray

        ray.init(address="local", log_to_driver=False, logging_level="ERROR")
        ray_data()
    began = time.perf_counter()
    WAYS[way](folder)
    print(time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 40000])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        timed(*asked.one)
        return
    for rows in asked.rows:
        with tempfile.TemporaryDirectory() as folder:
            write(folder, rows)
            told: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(TURNS):
                for way, held in told.items():
                    command = [sys.executable, __file__, "--one", way, folder]
                    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                    held.append(float(said.split()[-1]))
        print(f"{rows:,} images, {SIZE} x {SIZE}, {rows * 4 * SIZE**2 / 1e9:.2f} GB")
        for way, held in told.items():
            print(f"  {way:28} {statistics.median(held):6.2f} s ({min(held):.2f} to {max(held):.2f})")


if __name__ == "__main__":
    main()
