"""Commands that drive Ray in a process of their own: that end by themselves, or are killed at work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")


def warm(**more: str) -> dict[str, str]:
    """The environment, and `more`, of commands that nobody sends a signal; see tests/warm."""
    return {**os.environ, "RAYLENS_TEST_WARM": "1", **more}


def cold() -> dict[str, str]:
    """The environment of what sees other files than the tests do: the pool would fork workers that do not."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def killed(command: list[str], trials: Path, log: Path) -> list[str]:
    """Run `command` until trials in Ray Tune's folder `trials` have finished, then kill it; the names of these."""
    return killed_once(command, lambda: finished(trials), log)


def killed_once(command: list[str], there: Callable[[], T], log: Path) -> T:
    """Run `command` until something is `there`, then kill it; what that was."""
    with log.open("w") as out:
        driver = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        while not (found := there()) and driver.poll() is None:
            time.sleep(0.2)
        assert driver.poll() is None, f"it ended before it was killed: {log.read_text()}"
        children = psutil.Process(driver.pid).children(recursive=True)
        agents = {child for child in children if child.name().endswith("Agent")}
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    psutil.wait_procs(set(children) - agents, timeout=20)
    for child in children:  # Ray's agents outlive a killed driver by up to a minute
        if child.is_running():
            child.kill()
    assert found, log.read_text()
    return found


def finished(trials: Path) -> list[str]:
    """The trials that the driver has written down as finished."""
    for state in trials.glob("experiment_state-*.json"):
        with suppress(json.JSONDecodeError):  # while it is being written
            held = [json.loads(trial) for trial, _ in json.loads(state.read_text())["trial_data"]]
            return [trial["custom_dirname"] for trial in held if trial["status"] == "TERMINATED"]
    return []
