"""Is memory bounded when a set is larger than Ray's object store? `python benchmarks/memory.py [--store MB]`.

Trains `small` by raylens.train on sets streamed from Parquet, of half, two and eight times the size of a Ray's object
store, each set seen whole. Sampled while it runs: what all of Ray's processes and the driver hold, memory that several
share counted once, and what Ray has spilled to disk. Flat is right.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}

import numpy as np
import pandas as pd
import psutil
from ray.cluster_utils import Cluster

from raylens.data.shards import LENS_CLASSES, ShardWriter, made_by

SIZE, BATCH = 64, 128
IMAGE = 4 * SIZE * SIZE
TIMES = (0.5, 2, 8)


def write(out: str, rows: int) -> None:
    """A set of `rows` images of noise to learn from, and a few to validate on."""
    rng = np.random.default_rng(0)
    with ShardWriter(out, classes=LENS_CLASSES, made=made_by("benchmarks", seed=0)) as writer:
        for split, count in (("train", rows), ("val", 200), ("test", 200)):
            for begin in range(0, count, 2000):
                some = min(2000, count - begin)
                pixels = rng.random((some, 1, SIZE, SIZE), np.float32)
                ids = [f"{split}-{begin + row}" for row in range(some)]
                writer.add(split, pixels, np.arange(some) % 2, ids)


def trained(data: str, rows: int, folder: str, cluster: Cluster, spilled: Path) -> dict[str, float]:
    """The largest of what was held while a training saw `rows` images."""
    steps = rows // BATCH
    flags = {"data.source": data, "data.mode": "streaming", "data.batch": BATCH, "encoder.width": 8}
    flags |= {"fit.steps": steps, "fit.report_every": steps, "storage": folder, "name": Path(data).name}
    words = [word for path, value in flags.items() for word in (f"--{path}", str(value))]
    began = time.time()
    driver = subprocess.Popen(
        [sys.executable, "-m", "raylens.train", "supervised", *words],
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        stdout=subprocess.DEVNULL,
    )
    held, most = [], 0
    while driver.poll() is None:
        held.append(together(driver.pid))
        most = max(most, sum(file.stat().st_size for file in spilled.rglob("*") if file.is_file()))
        time.sleep(0.5)
    if driver.returncode:
        raise RuntimeError(f"the training of {data} failed")
    seconds = time.time() - began
    return {
        "images": rows,
        "set_mb": rows * IMAGE / 1e6,
        "peak_mb": max(held) / 1e6,
        "spilled_mb": most / 1e6,
    } | {"seconds": seconds}


def together(driver: int) -> float:
    """Bytes that this process's Ray and the driver hold; pages of several processes are shared out among them."""
    total = 0.0
    for process in (*psutil.Process().children(recursive=True), psutil.Process(driver)):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=int, default=150, help="megabytes of the object store [150]")
    store = parser.parse_args().store
    folder = tempfile.mkdtemp(prefix="memory-")
    spilled = Path(folder, "spilled")
    spilled.mkdir()
    head = {"num_cpus": 2, "object_store_memory": store * 10**6, "include_dashboard": False}
    head |= {"object_spilling_directory": str(spilled)}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        found = []
        for times in TIMES:
            rows = int(times * store * 1e6 / IMAGE)
            write(f"{folder}/set-{times}", rows)
            found.append(
                {"set / store": times} | trained(f"{folder}/set-{times}", rows, folder, cluster, spilled)
            )
            print(pd.DataFrame(found).round(1).to_string(index=False), flush=True)
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
