"""What a search may vary: a range stands beside a field's default, `lr: Annotated[float, LogUniform(1e-5, 1e-2)]`.

In run files a range is written `optimizer.lr: {log_uniform: [1.0e-5, 1.0e-2]}`; `null` takes one out of the search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from raylens.errors import ConfigError


@dataclass(frozen=True)
class Uniform:
    """Any number between `low` and `high`, each as likely; whole numbers only if the setting is one."""

    low: float
    high: float
    whole: bool = False


@dataclass(frozen=True)
class LogUniform:
    """Any positive number between `low` and `high`, each order of magnitude as likely."""

    low: float
    high: float
    whole: bool = False


@dataclass(frozen=True, init=False)
class Choice:
    """One of `values`, each as likely."""

    values: tuple

    def __init__(self, *values: object) -> None:
        object.__setattr__(self, "values", values)


Range = Uniform | LogUniform | Choice
_KINDS = {"uniform": Uniform, "log_uniform": LogUniform, "choice": Choice}


def parse(path: str, written: object) -> Range | None:
    """The range that `{kind: [...]}` stands for; None for `null`. Raises ConfigError."""
    if written is None or isinstance(written, Uniform | LogUniform | Choice):
        return written
    wanted = f"search.space.{path}: {written!r} is no range; write {{log_uniform: [1.0e-5, 1.0e-2]}}, "
    wanted += "{uniform: [0, 1]}, {choice: [a, b]} or null"
    if not isinstance(written, Mapping) or len(written) != 1:
        raise ConfigError(wanted)
    ((kind, values),) = written.items()
    if kind not in _KINDS or not isinstance(values, list) or not values:
        raise ConfigError(wanted)
    if kind == "choice":
        return Choice(*values)
    try:
        low, high = (float(value) for value in values)
    except (TypeError, ValueError):
        raise ConfigError(wanted) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (
        kind == "log_uniform" and low <= 0
    ):
        raise ConfigError(f"search.space.{path}: {kind} needs finite low < high, log_uniform positive ones")
    return _KINDS[kind](low, high)


def holds(span: Range, value: object) -> bool:
    """Whether a setting's value lies in a range."""
    if isinstance(span, Choice):
        return value in span.values
    return isinstance(value, int | float) and span.low <= value <= span.high
