"""A person who presses Ctrl+C ends a run at once and can go on with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raylens import checkpoint
from raylens.errors import ConfigError
from tests.cluster.drivers import warm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TINY = {"encoder.width": 8, "data.batch": 16, "fit.steps": 600, "fit.report_every": 50, "scale.gpus": 0}


def steps(folder: Path) -> int:
    """Of the last checkpoint in a run's folder."""
    found = [0]
    for path in folder.rglob("checkpoint_*/state.json"):
        with suppress(ConfigError):  # one that is being copied
            found.append(int(checkpoint.read(path.parent).metrics["step"]))
    return max(found)


@pytest.mark.parametrize("verb", ["train", "tune"])
def test_a_stopped_run_says_so_leaves_no_process_and_goes_on(toy_sets, tmp_path, verb):
    folder = tmp_path / "stopped"
    settings = {**toy_sets, **TINY, "storage": str(tmp_path), "name": "stopped"}
    settings |= {"search.trials": 1} if verb == "tune" else {}
    flags = [word for path, value in settings.items() for word in (f"--{path}", str(value))]
    # Background processes of a shell ignore SIGINT; this one is to hear it.
    run = subprocess.Popen(
        [sys.executable, "-m", f"raylens.{verb}", "supervised", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while steps(folder) < 100 and run.poll() is None:
        time.sleep(0.1)
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=120)
    assert run.returncode not in (0, None), out + err
    assert err.strip().splitlines()[-1] == "stopped; the same command goes on from the last checkpoints"
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive

    if verb == "train":
        held = steps(folder)
        assert held < 600, "it was stopped before its end"
        again = [sys.executable, "-m", "raylens.train", "--resume", str(folder)]
        done = subprocess.run(again, env=warm(), capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        last = done.stdout.strip().splitlines()[-1]
        assert checkpoint.read(last).metrics["step"] == 600
        first = next(line for line in done.stdout.splitlines() if " step " in line)
        assert int(first.split(" step ")[1].split("/")[0]) > 50, (
            "it went on, though reports of the last moment may be lost"
        )
        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        assert {"loss/supervised", "source/auroc", "objective", "time/step"} <= {*events.Tags()["scalars"]}
        reported = (folder / "workers" / "reports.jsonl").read_text().splitlines()
        drawn = [point.step for point in events.Scalars("loss/supervised")]
        assert drawn == [json.loads(line)["step"] for line in reported]
