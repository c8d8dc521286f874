"""Trials that go on find checkpoints that are there, and no errors of before."""

from __future__ import annotations

from typing import Any

import pyarrow.fs
from ray.tune import Callback, Checkpoint

from raylens.cluster.folders import patient


class Recovered(Callback):
    """Gives trials of a resumed search a checkpoint that is left, where Tune's record names deleted ones.

    Tune deletes checkpoints beyond those that are kept as they are reported, but writes its record of the trials only
    now and then: the record of a driver that was killed may be older than what was deleted since. The newest that is
    left may have been cut off while it was written, the oldest of three while it was deleted.
    """

    def __init__(self) -> None:
        self.done = False

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        if not self.done:
            for trial in trials:
                recover(trial)
        self.done = True


def forget_errors(path: str) -> None:
    """Delete what trials in Ray Tune's folder `path` failed of: they are tried again.

    An error that was cut off as it was written, on a full disk, would keep Tune from reading any result.
    """
    fs, folder = patient(path)
    for info in fs.get_file_info(pyarrow.fs.FileSelector(folder)):
        error = f"{info.path}/error.pkl"
        if fs.get_file_info(error).type == pyarrow.fs.FileType.File:
            fs.delete_file(error)


def recover(trial: Any) -> None:
    """See Recovered; a trial that has no checkpoint left begins anew."""
    manager = trial.run_metadata.checkpoint_manager
    latest = manager.latest_checkpoint_result
    if trial.is_finished() or latest is None:
        return
    # Tune would delete these again, and stumble over it.
    manager._checkpoint_results = [one for one in manager._checkpoint_results if _there(one)]
    if not _there(latest):
        _go_back(trial, latest.metrics)
    trial.invalidate_json_state()
    trial.run_metadata.invalidate_cache()


def _go_back(trial: Any, metrics: dict[str, Any]) -> None:
    """Makes one of the checkpoints that are left in a trial's folder its latest, with the number that it has there."""
    from pyarrow.fs import FileSelector
    from ray.train._internal.session import _TrainingResult
    from ray.tune.result import TRAINING_ITERATION

    manager, storage = trial.run_metadata.checkpoint_manager, trial.storage
    fs = storage.storage_filesystem
    entries = fs.get_file_info(FileSelector(storage.trial_fs_path, allow_not_found=True))
    left = sorted(entry.base_name for entry in entries if entry.base_name.startswith("checkpoint_"))
    manager._checkpoint_results, manager._latest_checkpoint_result = [], None
    storage.current_checkpoint_index = -1
    if left:
        name = left[(len(left) - 1) // 2]
        index = int(name.removeprefix("checkpoint_"))
        kept = Checkpoint(path=f"{storage.trial_fs_path}/{name}", filesystem=fs)
        manager.register_checkpoint(_TrainingResult(kept, {**metrics, TRAINING_ITERATION: index + 1}))
        storage.current_checkpoint_index = index


def _there(result: Any) -> bool:
    from pyarrow.fs import FileType

    kept = result.checkpoint
    return kept.filesystem.get_file_info(kept.path).type != FileType.NotFound
