"""What a search prints while it runs: a line now and then, with the time that is left."""

from __future__ import annotations

import time
from typing import Any

from ray.tune import Callback

EVERY = 5.0
"""Seconds between lines, at least; ends of trials are always told."""


class Progress(Callback):
    """Follows trials; each is counted as if it had all its steps still to go, so the time left can only fall."""

    def __init__(self, trials: int, steps: int) -> None:
        self.trials, self.steps = trials, steps
        self.at: dict[str, int] = {}
        self.ended: set[str] = set()
        self.best = float("-inf")
        self.began, self.told = time.monotonic(), 0.0
        self.first: tuple[float, int] | None = None  # when the first report came, and the steps behind it

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self.at[trial.trial_id] = int(result.get("step", 0))
        self.best = max(self.best, result.get("objective", self.best))
        if time.monotonic() - self.told > EVERY:
            self._tell()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        result = trial.last_result or {}
        early = "" if result.get("step", 0) >= self.steps else ", stopped early"
        self.ended.add(trial.trial_id)
        line = f"  {trial} ended at step {result.get('step', 0)}{early}, objective {result.get('objective', 0):.4f}"
        print(line + (f", warning: {result['warnings']}" if result.get("warnings") else ""), flush=True)
        self._tell()

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.ended.add(trial.trial_id)
        print(f"  {trial} failed; its error is in {trial.path}/error.txt", flush=True)

    def _tell(self) -> None:
        self.told = time.monotonic()
        taken = sum(self.at.values())
        ended = sum(self.at.get(trial, 0) for trial in self.ended)
        left = (self.trials - len(self.ended)) * self.steps - (taken - ended)
        if self.first is None:
            self.first = (self.told, taken)
        since, fresh = self.told - self.first[0], taken - self.first[1]
        wait = f", {_clock(since / fresh * left)} left at most" if fresh > 0 and left else ""
        print(
            f"[{_clock(self.told - self.began)}] {len(self.ended)}/{self.trials} trials ended, {taken} steps taken, "
            f"best objective {self.best:.4f}{wait}",
            flush=True,
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
    )
