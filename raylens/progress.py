"""How far work is that takes a while, and the time that is left: a bar in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
FIRST, EVERY = 2.0, 15.0
"""Seconds before the first line, and between lines."""
WINDOW = 300.0
"""Seconds of work that the time left is estimated from; parts may take a minute each."""


class Lines(Progress):
    """Tasks told by lines of standard error, for files; what is done before the first would be told is not."""

    def __init__(self) -> None:
        super().__init__(disable=True, speed_estimate_period=WINDOW)
        self.due = time.monotonic() + FIRST

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As Progress does."""
        super().update(task_id, **changes)
        self._tell()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As Progress does."""
        super().advance(task_id, advance)
        self._tell()

    def _tell(self) -> None:
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + EVERY
        print("; ".join(map(_said, self.tasks)), file=sys.stderr, flush=True)


def _said(task: Task) -> str:
    whole = "" if task.total is None else f"/{task.total:.0f}"
    left = "" if task.time_remaining is None else f", {timedelta(seconds=round(task.time_remaining))} left"
    return f"{task.description} {task.completed:.0f}{whole}{left}"


def hush() -> None:
    """Tell nothing in this process from now on: what a worker says would stand between its driver's lines."""
    global _hushed
    _hushed = True


_hushed = False


def bar() -> Progress:
    """A bar, which goes away when the work is done; lines where there is no terminal."""
    if _hushed:
        return Progress(disable=True)
    console = Console(stderr=True)
    if not console.is_terminal:
        return Lines()
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # What is printed meanwhile goes above the bar; where standard output is a file, it goes there.
    return Progress(
        *parts,
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        speed_estimate_period=WINDOW,
    )


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The `items`, counted while they are worked on; of something without a length `total` says how many."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    with counting(what, total) as count:
        for item in items:
            yield item
            count(1)


@contextmanager
def counting(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """For work in parts of unequal size: call what it gives with what each part comes to of `total`."""
    with _task(what, total) as (shown, task):
        yield partial(shown.advance, task)


@contextmanager
def stages(total: int) -> Iterator[Callable[[str, int], object]]:
    """For work in stages with names: as each begins, call what it gives with its name and with how many are over."""
    with _task("", total) as (shown, task):
        yield lambda name, over: shown.update(task, description=name, completed=over)


_shown: list[Progress] = []


@contextmanager
def _task(what: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
    """Work within other work has its bar below that one's."""
    if not _shown:
        with bar() as first:
            _shown.append(first)
            try:
                yield first, first.add_task(what, total=total)
            finally:
                _shown.pop()
        return
    task = _shown[-1].add_task(what, total=total)
    try:
        yield _shown[-1], task
    finally:
        _shown[-1].remove_task(task)
