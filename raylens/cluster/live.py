"""A search in a terminal: a table of its trials, kept up to date in place, of as many rows as there is room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raylens.cluster.worker import scored

ORDER = {"running": 0, "failed": 1, "ended": 2, "stopped early": 3, "waiting": 4}
"""States of a trial, those first that are shown first."""
STYLES = {"running": "bold", "failed": "red", "stopped early": "dim", "waiting": "dim"}
FIXED, EACH, AROUND = 58, 11, 7
"""Columns that the table takes without settings, and for each setting; lines that are no rows."""


@dataclass(frozen=True)
class Row:
    """What is known of a trial."""

    trial: str
    state: str
    step: int = 0
    steps: int = 0
    objective: float | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    warned: bool = False


class Board:
    """The table, from `with` to its end, when it is taken away again. What is printed meanwhile stands above it."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.live = Live(console=self.console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Board:
        self.live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.__exit__(*error)

    def show(self, headline: str, rows: Sequence[Row]) -> None:
        """Put `headline` and the trials in the place of what was shown."""
        self.live.update(drawn(headline, rows, self.console.width, self.console.height))


def drawn(headline: str, rows: Sequence[Row], width: int, height: int) -> Group:
    """The table in so many columns and lines: trials at work first, then the best of the others."""
    rows = sorted(rows, key=lambda row: (ORDER[row.state], -(row.objective or 0.0), row.trial))
    room = max(1, height - AROUND)
    shown, rest = rows[:room], Counter(row.state for row in rows[room:])
    names = list(dict.fromkeys(name for row in shown for name in row.settings))
    names = names[: max(0, (width - FIXED) // EACH)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (("trial", "left"), ("", "left"), ("step", "right"), ("objective", "right")):
        table.add_column(name, justify=justify, no_wrap=True)
    for name in names:
        table.add_column(name.rpartition(".")[2], justify="right", no_wrap=True, max_width=EACH)
    for row in shown:
        table.add_row(
            row.trial,
            row.state + (", warns" if row.warned else ""),
            f"{row.step}/{row.steps}" if row.step else "",
            scored(row.objective),
            *(_brief(row.settings.get(name)) for name in names),
            style="yellow" if row.warned else STYLES.get(row.state),
        )
    more = ", ".join(f"{count} {state}" for state, count in rest.items())
    last = f"and {sum(rest.values())} more: {more}" if more else ""
    return Group(_line(headline), table, _line(last))


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _brief(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)
