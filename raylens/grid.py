"""Methods x encoders x seeds: the cells of a benchmark, each a Run made of the settings that it knows.

    methods: [adda, mcc]            # or {name: {setting: value}}, for its cells alone
    encoders: {small: {}, ecnn: {encoder.width: 3, search.trials: 1}, wide: {encoder.name: small, encoder.width: 32}}
    seeds: [0, 1, 2]
    where: [source=graded]          # parts of the target's test split, measured each by itself; all of it without
    fit: {steps: 400}               # settings of all cells

A method's or an encoder's setting goes to the cells that have it; of a setting given twice, an encoder's own wins over
that of all cells, and a method's over both.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import yaml

from raylens import config, find
from raylens.config import Run, Setting
from raylens.errors import ConfigError

SOURCE_ONLY = "supervised"
"""The method that all others are compared with and start from; every benchmark has it, with fit.start_steps."""
OWN = ("methods", "encoders", "seeds", "where")
SOLE = {
    "seed": "give seeds",
    "start": "a benchmark trains a model to start from for each encoder and seed",
    "search.scheduler": "a benchmark stops no trial early",
    "search.oracle": "a benchmark chooses without target labels, and prints what that gives away",
}
NOT_SHARED = {**SOLE, "method.name": "give methods", "encoder.name": "give encoders"}
ALIKE = ("scale.", "storage", "name", "search.retries", "search.concurrent")
"""Settings that cells cannot differ in, or their beginnings."""


class Cell(NamedTuple):
    """A place in the table."""

    method: str
    encoder: str
    seed: int


@dataclass(frozen=True)
class Grid:
    """A benchmark's methods and encoders, each with its own settings by dotted path; seeds; settings of all cells."""

    methods: Mapping[str, Mapping[str, Any]]
    encoders: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    settings: Mapping[str, Any]
    where: Sequence[str] = ()
    """Parts of the target's test split to be measured by themselves, COLUMN=VALUE[,VALUE...]; all of it without."""

    def cells(self) -> dict[Cell, Run]:
        """The run of every cell. Raises ConfigError."""
        places = itertools.product(self.methods, self.encoders, self.seeds)
        return {Cell(*place): self.run(Cell(*place)) for place in places}

    def run(self, cell: Cell) -> Run:
        """The run of one cell: the shared settings that its method and encoder know, and their own."""
        names = {"method.name": cell.method, "encoder.name": cell.encoder}
        given = {**names, **self.settings, **self.encoders[cell.encoder], **self.methods[cell.method]}
        known = config.settings(given["method.name"], given["encoder.name"])
        given = {path: value for path, value in given.items() if path in known}
        if isinstance(spans := given.get("search.space"), Mapping):
            given["search.space"] = {path: span for path, span in spans.items() if path in known}
        steps, every = (given.get(path, known[path].default) for path in ("fit.steps", "fit.report_every"))
        if isinstance(steps, int) and isinstance(every, int) and 0 < steps < every:
            given["fit.report_every"] = steps  # of a method that takes fewer steps than the others
        return config.hold(config.build(given, {"seed": cell.seed}), given)

    @property
    def title(self) -> str:
        """The name that was given, or one made of all that shapes the outcome."""
        if name := self.settings.get("name"):
            return str(name)
        shared = {path: value for path, value in self.settings.items() if path != "storage"}
        written = replace(self, settings=dict(sorted(shared.items()))).dump()
        return f"benchmark-{hashlib.sha256(written.encode()).hexdigest()[:8]}"

    def dump(self) -> str:
        """As YAML, to be read by `build` again."""
        own = {name: getattr(self, name) for name in OWN}
        plain = {
            key: dict(value) if isinstance(value, Mapping) else list(value) for key, value in own.items()
        }
        return yaml.safe_dump({**plain, **self.settings}, sort_keys=False, width=110)


def build(*layers: tuple[Mapping[str, Any], str]) -> Grid:
    """A grid from layers of written settings, each with its origin, later ones winning. Raises ConfigError."""
    own: dict[str, Any] = {"methods": adaptations(), "encoders": ["small"], "seeds": [0, 1, 2], "where": []}
    settings, origins = {"search.trials": 4}, {}
    for written, origin in layers:
        shared = {key: value for key, value in written.items() if key not in OWN}
        own |= {key: written[key] for key in OWN if written.get(key) is not None}
        for path, value in config.flatten(shared, origin).items():
            settings[path], origins[path] = value, origin
    methods, encoders = (_named(key, own[key]) for key in ("methods", "encoders"))
    methods = {SOURCE_ONLY: {}, **methods}
    if len(methods) < 2:
        raise ConfigError(
            f"methods has nothing to compare with {SOURCE_ONLY}; give {', '.join(adaptations())}"
        )
    where = [own["where"]] if isinstance(own["where"], str) else own["where"]
    if not isinstance(where, list | tuple) or not all(isinstance(part, str) for part in where):
        raise ConfigError(f"where is {where!r}; give parts of the test split, COLUMN=VALUE[,VALUE...]")
    grid = Grid(methods, encoders, _seeds(own["seeds"]), settings, tuple(where))
    every: dict[str, Setting] = {}
    for (method, of_method), (encoder, of_encoder) in itertools.product(methods.items(), encoders.items()):
        names = of_method.get("method.name", method), of_encoder.get("encoder.name", encoder)
        every |= config.settings(*map(str, names))
    for path, origin in origins.items():
        if path in NOT_SHARED:
            raise ConfigError(f"{path} in {origin} is no setting of a benchmark: {NOT_SHARED[path]}")
        _check(path, origin, every)
    if isinstance(spans := settings.get("search.space"), Mapping):
        for path in spans:
            _check(path, f"search.space of {origins['search.space']}", every)
    for kind, entries, other in (("methods", methods, "encoder.name"), ("encoders", encoders, "method.name")):
        for name, values in entries.items():
            for path in values:
                _check(path, f"{kind}.{name}", every)
                if path in SOLE or path == other or path.startswith(ALIKE):
                    raise ConfigError(f"{path} in {kind}.{name} is the same for all cells")
    grid.cells()
    return grid


def adaptations() -> list[str]:
    """The methods that start from a model of the source."""
    return [name for name in find.names("methods") if find.method(name).start]


def _named(key: str, written: Any) -> dict[str, dict[str, Any]]:
    """`[a, b]` or `{a: {setting: value}}` as the latter, with dotted paths."""
    if isinstance(written, str):
        written = [written]
    if isinstance(written, Mapping):
        return {str(name): config.flatten(values or {}, f"{key}.{name}") for name, values in written.items()}
    if isinstance(written, list | tuple) and written and all(isinstance(name, str) for name in written):
        return {name: {} for name in written}
    raise ConfigError(f"{key} is {written!r}; give names, or name: {{setting: value}}")


def _seeds(written: Any) -> tuple[int, ...]:
    seeds = written if isinstance(written, list | tuple) else [written]
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds is {written!r}; give different whole numbers from 0 on")
    return tuple(seeds)


def _check(path: str, origin: str, known: Mapping[str, Setting]) -> None:
    if path not in known:
        raise ConfigError(config.unknown(path, origin, known))
