"""What do trials, rows and reports cost, and does it stay linear? `python benchmarks/scale.py [trials|rows|reports]`.

Whole commands on this machine with next to nothing to train, so that what is left is what raylens and Ray do: searches
of 2 to 32 trials, searches on sets of 1, 4 and 16 times as many rows, searches whose trials report 1 to 64 times.
For each: wall seconds, the driver's processor seconds and its memory; and the slope, by least squares.
docs/scale.md says what follows from it for a large cluster.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}

import numpy as np
import pandas as pd
import psutil

from raylens.data.shards import LENS_CLASSES, ShardWriter, made_by

SIZE = 64
SWEEPS = {
    "trials": [2, 4, 8, 16, 32],
    "rows": [4_000, 16_000, 64_000],
    "reports": [1, 4, 16, 64],
}
STEPS = 64


def write(out: str, rows: int) -> str:
    """A set of noise with `rows` images to learn from."""
    rng = np.random.default_rng(0)
    with ShardWriter(out, classes=LENS_CLASSES, made=made_by("benchmarks", seed=0)) as writer:
        for split, count in (("train", rows), ("val", 200), ("test", 200)):
            for begin in range(0, count, 2000):
                some = min(2000, count - begin)
                pixels = rng.random((some, 1, SIZE, SIZE), np.float32)
                ids = [f"{split}-{begin + row}" for row in range(some)]
                writer.add(split, pixels, np.arange(some) % 2, ids)
    return out


def searched(folder: str, name: str, **more: object) -> dict[str, float]:
    """Wall seconds, the driver's processor seconds and its largest memory in MB, of a search."""
    flags = {"data.batch": 4, "encoder.width": 4, "search.scheduler": "none", "search.keep": 1}
    flags |= {
        "fit.steps": STEPS,
        "fit.report_every": STEPS,
        "storage": f"{folder}/runs",
        "name": name,
        **more,
    }
    words = [word for path, value in flags.items() for word in (f"--{path}", str(value))]
    began = time.perf_counter()
    command = [sys.executable, "-m", "raylens.tune", "supervised", *words]
    driver = psutil.Popen(command, stdout=subprocess.DEVNULL)
    cpu = memory = 0.0
    while driver.poll() is None:
        try:
            used = driver.cpu_times()
            cpu, memory = used.user + used.system, max(memory, driver.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.1)
    if driver.wait():
        raise RuntimeError(f"the search {name} failed")
    return {"wall_s": time.perf_counter() - began, "driver_cpu_s": cpu, "driver_mb": memory / 1e6}


def sweep(kind: str, folder: str) -> pd.DataFrame:
    """One row for each size of what `kind` names."""
    found = []
    data = None if kind == "rows" else write(f"{folder}/set", 2_000)
    for size in SWEEPS[kind]:
        given = {"search.trials": size if kind == "trials" else 2}
        if kind == "reports":
            given["fit.report_every"] = STEPS // size
        source = data or write(f"{folder}/set-{size}", size)
        found.append({kind: size} | searched(folder, f"{kind}-{size}", **{"data.source": source}, **given))
        print(f"  {kind} {size}: {found[-1]['wall_s']:.1f} s", flush=True)
    return pd.DataFrame(found)


def slopes(table: pd.DataFrame) -> pd.Series:
    """What one more of the first column costs in each of the others."""
    first, *others = table.columns
    return pd.Series({name: np.polyfit(table[first], table[name], 1)[0] for name in others})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", default=[*SWEEPS], help="trials, rows, reports [all]")
    for kind in parser.parse_args().kinds:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            table = sweep(kind, folder)
        print(table.round(2).to_string(index=False))
        each = ", ".join(f"{name} {value:.3g}" for name, value in slopes(table).items())
        print(f"one more of {kind} costs: {each}\n", flush=True)


if __name__ == "__main__":
    main()
