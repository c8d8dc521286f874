"""Trials that go on after their driver was killed find a checkpoint that is there."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback, Checkpoint


class Recovered(Callback):
    """Gives trials of a resumed search the oldest checkpoint that is left, where Tune's record names a deleted one.

    Tune deletes checkpoints beyond those that are kept as they are reported, but writes its record of the trials only
    now and then: the record of a driver that was killed may be older than what was deleted since. The oldest that is
    left is whole; the newest may have been cut off while it was written.
    """

    def __init__(self) -> None:
        self.done = False

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        if not self.done:
            for trial in trials:
                recover(trial)
        self.done = True


def recover(trial: Any) -> None:
    """See Recovered; a trial that has no checkpoint left begins anew."""
    from pyarrow.fs import FileSelector
    from ray.train._internal.session import _TrainingResult
    from ray.tune.result import TRAINING_ITERATION

    manager, storage = trial.run_metadata.checkpoint_manager, trial.storage
    latest = manager.latest_checkpoint_result
    if trial.is_finished() or latest is None or _there(latest):
        return
    fs = storage.storage_filesystem
    entries = fs.get_file_info(FileSelector(storage.trial_fs_path, allow_not_found=True))
    left = sorted(entry.base_name for entry in entries if entry.base_name.startswith("checkpoint_"))
    manager._checkpoint_results.clear()
    manager._latest_checkpoint_result, storage.current_checkpoint_index = None, -1
    if left:
        index = int(left[0].removeprefix("checkpoint_"))
        metrics = {**latest.metrics, TRAINING_ITERATION: index + 1}
        kept = Checkpoint(path=f"{storage.trial_fs_path}/{left[0]}", filesystem=fs)
        manager.register_checkpoint(_TrainingResult(kept, metrics))
        storage.current_checkpoint_index = index
    trial.invalidate_json_state()
    trial.run_metadata.invalidate_cache()


def _there(result: Any) -> bool:
    from pyarrow.fs import FileType

    kept = result.checkpoint
    return kept.filesystem.get_file_info(kept.path).type != FileType.NotFound
