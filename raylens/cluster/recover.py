"""Trials that go on find checkpoints that are there, no errors of before, and Tune's own record whole."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.tune import Callback, Checkpoint

from raylens.checkpoint import whole
from raylens.cluster.folders import addressed
from raylens.storage import delete, exists, listed, read, write

SECONDS = 5.0
"""Between copies of Tune's record, at least."""


class Recovered(Callback):
    """Gives trials of the resumed search in `path` a checkpoint that is left, where Tune's record names deleted ones.

    Tune deletes checkpoints beyond those that are kept as they are reported, but writes its record of the trials only
    now and then: the record of a driver that was killed may be older than what was deleted since. The newest may have
    been cut off while it was written, the oldest while it was deleted.

    That record also has how often trials are tried again, how often they were, and the `searcher` beside how many
    others it begins a new one: `retries` and `concurrent` are those of now, and failures of before are forgotten.
    """

    def __init__(self, path: str, searcher: Any, *, concurrent: int, retries: int) -> None:
        self.path, self.searcher, self.concurrent, self.retries = path, searcher, concurrent, retries
        self.done = False

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        if self.done:
            return
        self.searcher.max_concurrent = self.concurrent
        for trial in trials:
            trial.run_metadata.num_failures = 0
            recover(trial, self.path)
        self.done = True

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        trial.max_failures = self.retries  # of those that are begun only now too


class Recorded(Callback):
    """Keeps a copy of Tune's record of the search in `path`, in `path`/record.

    Tune writes it over itself: on a disk that is full at that moment nothing whole would be left.
    """

    def __init__(self, path: str) -> None:
        self.path, self.last = path, 0.0

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        if time.monotonic() - self.last > SECONDS:
            self.last = time.monotonic()
            files = _record(self.path)
            if files and all(map(_whole, files, files.values())):
                with suppress(OSError):  # the copy of before stays whole
                    for name, content in files.items():
                        write(f"{self.path}/record/{name}", content)


def mend_record(path: str) -> None:
    """Put the copies of `Recorded` in the place of Tune's record in `path`, where that was cut off.

    Each driver writes files of its own, and Tune reads the newest. Trials and searcher of one moment belong together:
    a trial that the searcher alone knows is waited for without end. What was cut off before there was a copy is
    deleted, so that Tune reads what the driver before wrote.
    """
    held, copies = _by_driver(_record(path)), _by_driver(_record(f"{path}/record"))
    for driver, files in held.items():
        named = any(name.startswith("experiment_state-") for name in files)
        if named and all(map(_whole, files, files.values())):
            continue
        for name, content in copies.get(driver, {}).items():
            write(f"{path}/{name}", content)
        if driver not in copies:
            for name in files:
                delete(f"{path}/{name}")


def _by_driver(files: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Files of Tune's record by the time, in their names, at which their driver began."""
    found: dict[str, dict[str, bytes]] = {}
    for name, content in files.items():
        found.setdefault(Path(name.rpartition("state-")[2]).stem, {})[name] = content
    return found


def recorded(path: str) -> bool:
    """Whether Tune has written, and to its end, which trials there are in `path`: before that none has trained."""
    return any(
        name.startswith("experiment_state-") and _whole(name, held) for name, held in _record(path).items()
    )


def _record(folder: str) -> dict[str, bytes]:
    """The files, by name, in which Tune keeps the state of trials and searcher, if there are any."""
    names = (name for name in listed(folder) if "state-" in name and name.endswith((".json", ".pkl")))
    return {name: read(f"{folder}/{name}") for name in names}


def _whole(name: str, content: bytes) -> bool:
    """Whether a file of Tune's record was written to its end: the trials' is JSON, the searcher's a pickle."""
    if name.startswith("experiment_state-"):
        return _parses(content)
    return content.endswith(b".")  # every pickle's last byte; nothing is unpickled


def _parses(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def mend_checkpoints(folder: str) -> None:
    """Make Train's record of the checkpoints in `folder` anew from these, where it was cut off as it was written."""
    from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
        _CheckpointManagerState,
        _TrainingResultState,
    )

    record = f"{folder}/{CHECKPOINT_MANAGER_SNAPSHOT_FILENAME}"
    if not exists(record) or _parses(read(record)):
        return
    found = []
    for name in listed(folder):
        if name.startswith("checkpoint_") and whole(f"{folder}/{name}"):
            metrics = json.loads(read(f"{folder}/{name}/metrics.json"))
            found.append(_TrainingResultState(checkpoint_dir_name=name, metrics=metrics))
    mended = _CheckpointManagerState(
        checkpoint_results=found,
        checkpoint_report_indices=[*range(len(found))],
        latest_checkpoint_result=found[-1] if found else None,
        pending_training_results=[],
        pending_validation_specs=[],
        current_report_index=len(found),
        validated_checkpoint_dir_names=[],
        timed_out_validation_checkpoint_dir_names=[],
        failed_validation_checkpoint_dir_names=[],
    )
    write(record, mended.model_dump_json())


def forget_errors(path: str) -> None:
    """Delete what trials in Ray Tune's folder `path` failed of: they are tried again.

    An error that was cut off as it was written, on a full disk, would keep Tune from reading any result.
    """
    for name in listed(path):
        if exists(error := f"{path}/{name}/error.pkl"):
            delete(error)


def recover(trial: Any, path: str) -> None:
    """See Recovered; a trial that has no checkpoint left begins anew."""
    manager = trial.run_metadata.checkpoint_manager
    latest = manager.latest_checkpoint_result
    if trial.is_finished() or latest is None:
        return

    def left(result: Any) -> bool:
        return whole(addressed(result.checkpoint.path, path))

    # Tune would delete these again, and stumble over it.
    manager._checkpoint_results = [one for one in manager._checkpoint_results if left(one)]
    if not left(latest):
        _go_back(trial, latest.metrics, path)
    trial.invalidate_json_state()
    trial.run_metadata.invalidate_cache()


def _go_back(trial: Any, metrics: dict[str, Any], path: str) -> None:
    """Makes the newest whole checkpoint in a trial's folder its latest, with the number that it has there."""
    from ray.train._internal.session import _TrainingResult
    from ray.tune.result import TRAINING_ITERATION

    manager, storage = trial.run_metadata.checkpoint_manager, trial.storage
    here = addressed(storage.trial_fs_path, path)
    left = [name for name in listed(here) if name.startswith("checkpoint_") and whole(f"{here}/{name}")]
    manager._checkpoint_results, manager._latest_checkpoint_result = [], None
    storage.current_checkpoint_index = -1
    if left:
        index = int(left[-1].removeprefix("checkpoint_"))
        kept = Checkpoint(path=f"{storage.trial_fs_path}/{left[-1]}", filesystem=storage.storage_filesystem)
        manager.register_checkpoint(_TrainingResult(kept, {**metrics, TRAINING_ITERATION: index + 1}))
        storage.current_checkpoint_index = index
