"""What a search or a training says while it runs, with the time that is left: a line now and then, or a table.

The table is a search's in a terminal; where lines go to a file, as those of a job, they stay lines.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any

import ray
from ray.train import UserCallback
from ray.tune import Callback
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylens.cluster import gauges
from raylens.cluster.live import Board, Row
from raylens.cluster.worker import WORST, scored
from raylens.config import Run
from raylens.storage import exists, read, write

EVERY, OFTEN = 5.0, 0.5
"""Seconds between lines, at least, and between changes of a table; ends of trials are always told."""
STATES = {"PENDING": "waiting", "PAUSED": "waiting", "RUNNING": "running", "ERROR": "failed"}
"""Words for Tune's."""


class Clock:
    """Time since it was made, and the time that is left at the pace of the steps since its first reading."""

    def __init__(self) -> None:
        self.began, self.first = time.monotonic(), None

    def read(self, taken: int, left: int) -> tuple[str, str]:
        """`[0:42]`, and `, 1:10 left` once it can be told, for steps `taken` so far and still `left`."""
        now = time.monotonic()
        self.first = self.first or (now, taken)
        since, fresh = now - self.first[0], taken - self.first[1]
        wait = f", {_minutes(since / fresh * left)} left" if fresh > 0 and left else ""
        return f"[{_minutes(now - self.began)}]", wait


def objective(run: Run) -> str:
    """What the objective is called."""
    return "objective (BY TARGET LABELS, cheating)" if run.search.oracle else "objective"


class Progress(Callback):
    """Follows trials of `runs`, of which `of` tells a trial's.

    Each is counted as if it had all its steps still to go, so less time may be left than is said. `done` are steps by
    trial that were taken before a search was resumed, `ended` the trials that had ended.
    """

    def __init__(self, runs: Sequence[Run], of: Callable[[Any], Run]) -> None:
        self.trials, self.of, self.objective = len(runs), of, objective(runs[0])
        self.steps = sum(run.fit.steps for run in runs) / len(runs)
        self.comparable = len({(run.method.name, run.encoder.name) for run in runs}) == 1
        self.of_what = (runs[0].method.name if self.comparable else "several", runs[0].title)
        self.done: dict[str, int] = {}
        self.ended: set[str] = set()
        self.warned: set[tuple[str, str]] = set()
        self.best = float("-inf")
        self.clock, self.told = Clock(), 0.0
        self.board: Board | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Show a table until the end of this, if there is a terminal to show it in, and gauges in any case."""
        try:
            if sys.stdout.isatty():
                with Board() as self.board:
                    yield
                self.board = None
            else:
                yield
        finally:
            gauges.forget_search(*self.of_what)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        # TensorBoard is told these; of a trial that was given its settings, the defaults', Tune keeps none.
        trial.evaluated_params = trial.evaluated_params or dict(trial.config)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self.done[trial.trial_id] = int(result.get("step", 0))
        if (objective := result.get("objective", WORST)) > WORST:  # not of one that diverged
            self.best = max(self.best, objective)
        for warning in filter(None, (result.get("warnings") or "").split("; ")):
            if (trial.trial_id, warning) not in self.warned:
                self.warned.add((trial.trial_id, warning))
                print(f"  {trial} warns at step {result['step']}: {warning}", flush=True)
        if time.monotonic() - self.told > (OFTEN if self.board else EVERY):
            self._tell(trials)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        result = trial.last_result or {}
        early = "" if result.get("step", 0) >= self.of(trial).fit.steps else ", stopped early"
        self.ended.add(trial.trial_id)
        if not self.board:
            print(
                f"  {trial} ended at step {result.get('step', 0)}{early}, "
                f"{self.objective} {scored(result.get('objective'))}",
                flush=True,
            )
        self._tell(trials)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.ended.add(trial.trial_id)
        print(f"  {trial} failed: {_why(trial)}; all of it is in {trial.path}/error.txt", flush=True)
        self._tell(trials)

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        print(f"  {trial} goes on from its last checkpoint after: {_why(trial)}", flush=True)

    def _tell(self, trials: Sequence[Any]) -> None:
        self.told = time.monotonic()
        warned = len({trial for trial, _ in self.warned})
        gauges.tell_search(*self.of_what, self.best, [trial.status for trial in trials], warned)
        taken = sum(self.done.values())
        running = sum(steps for trial, steps in self.done.items() if trial not in self.ended)
        left = round((self.trials - len(self.ended)) * self.steps) - running
        since, wait = self.clock.read(taken, left)
        best = f", best {self.objective} {self.best:.4f}" if self.comparable and isfinite(self.best) else ""
        line = (
            f"{since} {len(self.ended)}/{self.trials} trials ended, {taken} steps taken"
            f"{best}{wait and f'{wait} at most'}"
        )
        if self.board:
            self.board.show(line, [self._row(trial) for trial in trials])
        else:
            print(line, flush=True)

    def _row(self, trial: Any) -> Row:
        result, steps = trial.last_result or {}, self.of(trial).fit.steps
        step = int(result.get("step", 0))
        return Row(
            trial=str(trial),
            state=STATES.get(trial.status, "ended" if step >= steps else "stopped early"),
            step=step,
            steps=steps,
            objective=result.get("objective"),
            settings={path: value for path, value in trial.config.items() if path != "job"},
            warned=any(name == trial.trial_id for name, _ in self.warned),
        )


class Reports(UserCallback):
    """Sends what a training reports from Train's controller to the process that asked for it."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self.queue.put(metrics[0])


@contextmanager
def told(run: Run, folder: str) -> Iterator[Reports]:
    """Prints a line for each report of a training that is given this callback, and keeps all in reports.jsonl there."""
    steps, name = run.fit.steps, objective(run)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})  # other nodes may vanish
    clock, warned, history = Clock(), set(), f"{folder}/reports.jsonl"
    reports = reported(history)

    def tell(metrics: Mapping[str, Any]) -> None:
        step = int(metrics["step"])
        reports[step] = json.dumps(metrics, default=float)
        for later in [one for one in reports if one > step]:  # taken again since it was resumed
            del reports[later]
        with suppress(OSError):  # the next report brings it along
            write(history, "".join(f"{line}\n" for line in reports.values()))
        since, wait = clock.read(step, steps - step)
        print(f"{since} step {step}/{steps}, {name} {scored(metrics.get('objective'))}{wait}", flush=True)
        for warning in set(filter(None, (metrics.get("warnings") or "").split("; "))) - warned:
            warned.add(warning)
            print(f"  warning: {warning}", flush=True)

    def read() -> None:
        for metrics in iter(queue.get, None):
            tell(metrics)

    reader = threading.Thread(target=read, name="raylens-progress", daemon=True)
    reader.start()
    try:
        yield Reports(queue)
    finally:
        queue.put(None)
        reader.join(timeout=5)
        queue.shutdown(force=True)


def reported(path: str) -> dict[int, str]:
    """The lines of a training's reports so far, JSON, by step."""
    if not exists(path):
        return {}
    return {int(json.loads(line)["step"]): line for line in read(path).decode().splitlines()}


def _why(trial: Any) -> str:
    """The last line of a trial's last error."""
    try:
        return Path(trial.error_file).read_text().strip().splitlines()[-1][:300]
    except (OSError, TypeError, IndexError):
        return "an error that was not written down"


def _minutes(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours}:{rest:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
