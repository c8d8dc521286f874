"""Shared by all tests: a Ray of their own, toy domains, tiny runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AUTH_MODE="disabled",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",  # tiny batches are faster without a second thread to wait for
)

import numpy as np
import pytest

from raylens.data.shards import LENS_CLASSES, ShardWriter, made_by

TINY = {"encoder.width": 4, "encoder.features": 16, "data.batch": 8, "fit.steps": 4, "fit.report_every": 2}


def toy_domain(rows: int, prior: float, seed: int, *, shifted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rings (label 1) and blobs (0), 32 x 32; the shifted domain is noisier, blurred and fainter in its rings."""
    rng = np.random.default_rng(seed)
    labels = (rng.permutation(rows) < round(prior * rows)).astype(np.int64)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    centre = rng.uniform(-0.15, 0.15, (2, rows, 1, 1))
    radius = np.hypot(x - centre[0], y - centre[1])
    size = rng.uniform(0.45, 0.7, (rows, 1, 1))
    blob = np.exp(-((radius / 0.25) ** 2))
    ring = np.exp(-(((radius - size) / (0.14 if shifted else 0.08)) ** 2))
    strength = rng.uniform(0.3, 0.6, (rows, 1, 1)) * (0.8 if shifted else 1.0)
    images = blob + strength * ring * labels[:, None, None]
    images += rng.normal(0, 0.15 if shifted else 0.02, images.shape) + (0.3 * x if shifted else 0)
    return images[:, None].astype(np.float32), labels


def write_toy(out: str, *, shifted: bool, rows: int = 600, prior: float = 0.4, seed: int = 0) -> str:
    """A shard set of a toy domain."""
    pixels, labels = toy_domain(rows, prior, seed + 100 * shifted, shifted=shifted)
    edges = [0, int(0.6 * rows), int(0.8 * rows), rows]
    with ShardWriter(
        out,
        name="toy",
        domain="target" if shifted else "source",
        bands=("i",),
        arcsec_per_pixel=0.168,
        classes=LENS_CLASSES,
        made=made_by("tests", seed=seed),
    ) as writer:
        for split, begin, end in zip(("train", "val", "test"), edges, edges[1:], strict=False):
            ids = [f"{int(shifted)}-{seed}-{row}" for row in range(begin, end)]
            halves = np.where(np.arange(begin, end) % 2, "odd", "even")
            writer.add(split, pixels[begin:end], labels[begin:end], ids, {"half": halves})
    return out


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin the pool of tests/warm for tests that start Ray, on Linux and unless `RAYLENS_TEST_POOL` is empty."""
    starts_ray = any(
        "ray_cluster" in test.fixturenames or test.get_closest_marker("slow") for test in session.items
    )
    refused = "RAYLENS_TEST_POOL" in os.environ or not hasattr(os, "pidfd_open")
    if refused or not starts_ray or session.config.option.collectonly:
        return
    warm, folder = Path(__file__).parent / "warm", tempfile.mkdtemp(prefix="rl", dir="/tmp")
    command = [sys.executable, f"{warm}/pool.py", f"{folder}/pool"]
    pool = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    os.environ.update(PYTHONPATH=str(warm), RAYLENS_TEST_POOL=f"{folder}/pool")

    def end() -> None:
        pool.communicate()
        shutil.rmtree(folder, ignore_errors=True)

    session.config.add_cleanup(end)


@pytest.fixture(scope="session")
def toy_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Shard sets of the two toy domains: settings data.source and data.target."""
    folder = tmp_path_factory.mktemp("toy")
    return {
        "data.source": write_toy(f"{folder}/source", shifted=False),
        "data.target": write_toy(f"{folder}/target", shifted=True),
    }


@pytest.fixture
def image_folder(tmp_path):
    """Writes so many .npy files of noise, 32 x 32, of which one is torn; returns their folder."""

    def write(count: int, torn: int) -> str:
        folder, rng = tmp_path / "images", np.random.default_rng(0)
        folder.mkdir()
        for row in range(count):
            np.save(folder / f"{row:02d}.npy", rng.random((32, 32), np.float32))
        (folder / f"{torn:02d}.npy").write_bytes(b"no image")
        return str(folder)

    return write


@pytest.fixture(scope="session")
def ray_cluster():
    """One Ray for the whole session: 2 logical CPUs, a logical GPU, a dashboard on a port of its own."""
    import ray

    from raylens.cluster import launch

    port, folder = launch._free_port(), tempfile.mkdtemp(prefix="rl", dir="/tmp")  # sockets need a short path
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=1,
        include_dashboard=True,
        dashboard_port=port,
        object_store_memory=500_000_000,
        logging_level="WARNING",
        _temp_dir=folder,
    )
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


class Tiny:
    """Runs, methods and data as small as they come, without Ray."""

    domain = staticmethod(toy_domain)

    def run(self, method="supervised", /, **sections):
        """A Run: `tiny.run("adda", fit={"steps": 2})`, and settings outside sections by name."""
        from raylens import config

        encoder = sections.get("encoder", {}).get("name") or config.default_encoder(method)
        known = config.settings(method, encoder)
        tiny = {path: value for path, value in TINY.items() if path in known}
        return config.build(tiny, {"method.name": method}, sections)

    def facts(self, classes=LENS_CLASSES):
        from raylens.checkpoint import Facts

        return Facts(tuple(classes), 1, 32, {})

    def method(self, name="supervised", /, **sections):
        from raylens.cluster import worker

        run = name if not isinstance(name, str) else self.run(name, **sections)
        return worker.build(run, self.facts())

    def batch(self, method, size=8, seed=0):
        """A batch for a method: what its streams and views are declared to be; no labels of the target."""
        import torch

        from raylens.records import Images

        made = {}
        for index, name in enumerate(method.streams):
            rng = torch.Generator().manual_seed(10 * seed + index)
            views = {view: torch.rand(size, 1, 32, 32, generator=rng) for view in method.views}
            labels = torch.arange(size) % 2 if name == "source" else None
            made[name] = Images(views, labels, torch.arange(size))
        return made

    def resident(self, rows=40, prior=0.4, seed=0):
        """Both toy domains in memory, source with labels and target without."""
        from raylens.data.stream import Resident, Split

        found = {"train": {}, "validation": {}}
        for index, part in enumerate(found):
            for name in ("source", "target"):
                shifted = name == "target"
                pixels, labels = toy_domain(rows, prior, seed + 10 * index + 100 * shifted, shifted=shifted)
                found[part][name] = Split(pixels, None if shifted else labels)
        return Resident(**found)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="session")
def searched(tiny, toy_sets, tmp_path_factory) -> str:
    """The folder of a search of ADDA as if it had run: nine trials, one of them stopped early and one failed."""
    import json

    import pandas as pd

    from raylens import checkpoint, config
    from raylens.cluster import worker

    folder = tmp_path_factory.mktemp("runs") / "found"
    run = _run(tiny, toy_sets, folder)
    folder.mkdir()
    (folder / "run.yaml").write_text(config.dump(run))
    facts = tiny.facts()
    made = worker.build(run, facts)
    for name in ("start", "best"):
        checkpoint.save(folder / name, run, facts, made.result, {"objective": 0.8, "warnings": ""}, step=4)
    rng, rows = np.random.default_rng(0), []
    for number in range(9):
        trial = folder / "trials" / f"adda-{number:05d}"
        trial.mkdir(parents=True)
        lr = 10 ** rng.uniform(-5, -2)
        (trial / "params.json").write_text(json.dumps({"optimizer.lr": lr}))
        steps = [2] if number in (7, 8) else [2, 4]
        reports = [
            {
                "step": step,
                "objective": -abs(np.log10(lr) + 3) + step / 10,
                "source/auroc": 0.9,
                "warnings": "",
            }
            for step in steps
        ]
        (trial / "result.json").write_text(
            "".join(json.dumps(one) + "\n" for one in reports) + '{"step": 6, "obj'
        )
        if number == 8:
            (trial / "error.txt").write_text("Traceback\nRuntimeError: out of memory\n")
        rows.append(
            {
                "rank": number + 1,
                "trial": trial.name,
                "objective": reports[-1]["objective"],
                "steps": steps[-1],
            }
        )
    table = pd.DataFrame(rows)
    for name, value in {"target/auroc": 0.8, "difference": -0.02}.items():
        for end, less in (("", 0), ("_low", -0.05), ("_high", 0.05)):
            table.loc[0, f"{name}{end}"] = value + less
    table.to_csv(folder / "leaderboard.csv", index=False)
    return str(folder)


def _run(tiny, toy_sets, folder):
    from raylens import config

    data = {name.removeprefix("data."): path for name, path in toy_sets.items()}
    space = {"optimizer.lr": {"log_uniform": [1e-5, 1e-2]}}
    run = tiny.run("adda", data=data, search={"space": space})
    fixed = {path: None for path in config.space(run) if path != "optimizer.lr"}
    return run.replace(**{"search.space": {**fixed, **space}, "name": "found", "storage": str(folder.parent)})
