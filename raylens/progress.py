"""A line with a bar and the time that is left, in a terminal, of work that takes a while; nothing in a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def bar() -> Progress:
    """The line; it goes away when the work is done."""
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*parts, console=console, transient=True, disable=not console.is_terminal)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The `items`, counted while they are worked on; of something without a length `total` says how many."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    with bar() as shown:
        task = shown.add_task(what, total=total)
        for item in items:
            yield item
            shown.advance(task)
