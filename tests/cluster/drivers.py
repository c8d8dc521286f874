"""A driver that is killed while its trials run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil


def killed(command: list[str], trials: Path, log: Path) -> list[str]:
    """Run `command` until trials in Ray Tune's folder `trials` have finished, then kill it; the names of these."""
    with log.open("w") as out:
        driver = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        while not (names := finished(trials)) and driver.poll() is None:
            time.sleep(0.2)
        children = psutil.Process(driver.pid).children(recursive=True)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    psutil.wait_procs(children, timeout=20)
    for child in children:  # Ray's agents outlive a killed driver by up to a minute
        if child.is_running():
            child.kill()
    assert names, log.read_text()
    return names


def finished(trials: Path) -> list[str]:
    """The trials that the driver has written down as finished."""
    for state in trials.glob("experiment_state-*.json"):
        with suppress(json.JSONDecodeError):  # while it is being written
            held = [json.loads(trial) for trial, _ in json.loads(state.read_text())["trial_data"]]
            return [trial["custom_dirname"] for trial in held if trial["status"] == "TERMINATED"]
    return []
