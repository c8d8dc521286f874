"""A trial that learns nothing, in a module that workers import in no time."""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import safetensors.numpy


def counts(sample, folder):
    """Counts to 6, a checkpoint a step, and fails at 4 as long as the file `folder`/fail is there.

    What is in the file is shortened by a character each time; with the last one it is gone.
    """
    from ray import tune

    latest, step = tune.get_checkpoint(), 0
    if latest:
        with latest.as_directory() as held:
            step = json.loads(Path(held, "state.json").read_text())
    with Path(folder, "begun").open("a") as begun:
        begun.write(f"{step}\n")
    while step < 6:
        fail = Path(folder, "fail")
        if step == 4 and fail.exists():
            if times := fail.read_text():
                fail.write_text(times[1:]) if times[1:] else fail.unlink()
            raise OSError("as if the driver had been killed here")
        step += 1
        with tempfile.TemporaryDirectory() as out:
            for name in ("metrics.json", "data.json", "run.yaml"):
                Path(out, name).write_text("{}")
            for name in ("model", "state"):
                safetensors.numpy.save_file({}, Path(out, f"{name}.safetensors"))
            Path(out, "state.json").write_text(json.dumps(step))
            tune.report({"step": step, "objective": 0.5}, checkpoint=tune.Checkpoint.from_directory(out))


def lives(sample, folder, seconds):
    """Lives for so many `seconds`, and leaves in `folder` from when to when; the first to find `folder`/fail fails."""
    from ray import tune

    with suppress(FileNotFoundError):
        Path(folder, "fail").unlink()
        raise OSError("as if its node had gone")
    begun = time.time()
    time.sleep(seconds)
    Path(folder, f"life-{os.getpid()}-{begun}").write_text(json.dumps([begun, time.time()]))
    tune.report({"step": 6, "objective": sample["a"]})
