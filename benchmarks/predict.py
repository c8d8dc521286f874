"""How fast is raylens.predict, and does its memory grow? `python benchmarks/predict.py [ENCODER] [--rows N ...]`.

Predicts sets of N 64 x 64 images by the command that users type, on all CPUs. Two things are measured of each: wall
seconds, whose slope over the sizes is what an image costs when the start is paid for; and the largest memory of all
processes together, pages that several share counted once. Beside it, in turns within the same run: the bare forward
pass over tensors in memory, with a thread for each CPU and the same batch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}

import numpy as np
import pandas as pd
import psutil
import torch

from raylens import checkpoint, config
from raylens.checkpoint import Facts
from raylens.data.shards import LENS_CLASSES, ShardWriter, made_by

SIZE, BATCH = 64, 256


def write(out: str, rows: int) -> None:
    """A set of `rows` images of noise."""
    rng = np.random.default_rng(0)
    with ShardWriter(out, classes=LENS_CLASSES, made=made_by("benchmarks", seed=0)) as writer:
        for begin in range(0, rows, 2000):
            some = min(2000, rows - begin)
            pixels = rng.random((some, 1, SIZE, SIZE), np.float32)
            writer.add("test", pixels, np.arange(some) % 2, [f"{begin + row}" for row in range(some)])


def model(folder: str, encoder: str) -> str:
    """A checkpoint of a model that has learned nothing."""
    run = config.build({"method.name": "supervised", "encoder.name": encoder})
    facts = Facts(LENS_CLASSES, 1, SIZE, {})
    checkpoint.save(f"{folder}/model", run, facts, checkpoint.build_model(run, facts, weights=False), {})
    return f"{folder}/model"


def bare(path: str, images: int = 4096) -> float:
    """Images per second of the forward pass alone."""
    torch.set_num_threads(os.cpu_count())
    network, pixels = checkpoint.read(path).model(), torch.rand(images, 1, SIZE, SIZE)
    with torch.inference_mode():
        network(pixels[:BATCH])
        began = time.perf_counter()
        for some in pixels.split(BATCH):
            network(some)
    return images / (time.perf_counter() - began)


def predicted(path: str, data: str, out: str, cpus: str) -> tuple[float, float]:
    """Wall seconds and the largest memory, in bytes, of one command."""
    command = [
        sys.executable,
        "-m",
        "raylens.predict",
        path,
        data,
        "--out",
        out,
        "--top",
        "10",
        "--cpus",
        cpus,
    ]
    began, most = time.perf_counter(), 0.0
    driver = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while driver.poll() is None:
        most = max(most, together(driver))
        time.sleep(0.5)
    if driver.wait():
        raise RuntimeError(f"{' '.join(command)} failed")
    return time.perf_counter() - began, most


def together(driver: psutil.Process) -> float:
    """Bytes that a process and its children hold."""
    total = 0.0
    try:
        for process in (driver, *driver.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
    except psutil.NoSuchProcess:
        pass
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoder", nargs="?", default="small", help="encoder [small]")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[10_000, 50_000, 200_000], help="images of each set"
    )
    parser.add_argument("--cpus", default="1", help="CPUs of each process that holds the model [1]")
    asked = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="predict-") as folder:
        path = model(folder, asked.encoder)
        for rows in asked.rows:
            write(f"{folder}/set-{rows}", rows)
            before = bare(path)
            seconds, memory = predicted(path, f"{folder}/set-{rows}", f"{folder}/out-{rows}", asked.cpus)
            rate = (before + bare(path)) / 2
            found.append({"images": rows, "seconds": seconds, "peak_mb": memory / 1e6, "bare_images_s": rate})
            print(pd.DataFrame(found).round(1).to_string(index=False), flush=True)
    table = pd.DataFrame(found)
    slope, start = np.polyfit(table["images"], table["seconds"], 1)
    bare_rate = table["bare_images_s"].median()
    print(
        f"{asked.encoder}: {1 / slope:,.0f} images/s after a start of {start:.0f} s, {1 / slope / bare_rate:.2f} of "
        f"the bare {bare_rate:,.0f}; 1 million images would take {(start + 1e6 * slope) / 60:.0f} minutes"
    )


if __name__ == "__main__":
    main()
