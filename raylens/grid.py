"""Methods x encoders x seeds: the cells of a benchmark, each a Run made of the settings that it knows.

    methods: [adda, mcc]            # or {name: {setting: value}}, for its cells alone
    encoders: {small: {}, ecnn: {encoder.width: 3, search.trials: 1}, wide: {encoder.name: small, encoder.width: 32}}
    seeds: [0, 1, 2]
    where: [source=graded]          # parts of the target's test split, measured each by itself; all of it without
    fit: {steps: 400}               # settings of all cells

A method's or an encoder's setting goes to the cells that have it; of a setting given twice, an encoder's own wins over
that of all cells, and a method's over both. The models of the source, which methods start from, have the encoder's and
the data's settings, fit.start_steps, and what `methods` says of supervised.
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
    "data.mode": "a benchmark keeps its sets in memory",
    "search.oracle": "a benchmark chooses without target labels, and prints what that gives away",
    "search.scheduler": "a benchmark stops no trial early",
    "search.grace": "a benchmark stops no trial early",
    "search.reduction": "a benchmark stops no trial early",
    "search.searcher": "a benchmark draws at random",
    "search.keep": "a benchmark keeps all trials",
}
NOT_SHARED = {**SOLE, "method.name": "give methods", "encoder.name": "give encoders"}
ALIKE = ("scale.", "storage", "name", "search.retries", "search.concurrent")
"""Settings that cells cannot differ in, or their beginnings."""
OF_START = {
    f"data.{name}" for name in ("source", "target", "test", "source_rows", "target_rows", "target_lenses")
}
OF_START |= {
    "data.bands",
    "data.transform",
    "data.labels",
    "data.validation_rows",
    "data.resident_limit",
    "fit.start_steps",
}
"""Settings that a method shares with the model that it starts from, beside those of encoder and task."""


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
        layers = [names, self.settings, self.encoders[cell.encoder], self.methods[cell.method]]
        given = {path: value for layer in layers for path, value in layer.items()}
        known = config.settings(given["method.name"], given["encoder.name"])
        given = {path: value for path, value in given.items() if path in known}
        spans = [layer["search.space"] for layer in layers if "search.space" in layer]
        if all(isinstance(span, Mapping) for span in spans):  # ranges add up, path by path
            joined = {path: span for held in spans for path, span in held.items()}
            given["search.space"] = {path: span for path, span in joined.items() if path in known}
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
        own = {name: getattr(self, name) for name in OWN if getattr(self, name)}
        plain = {
            key: dict(value) if isinstance(value, Mapping) else list(value) for key, value in own.items()
        }
        return yaml.safe_dump({**plain, **self.settings}, sort_keys=False, width=110)


def build(*layers: tuple[Mapping[str, Any], str]) -> Grid:
    """A grid from layers of written settings, each with its origin, later ones winning. Raises ConfigError."""
    own: dict[str, Any] = {"methods": adaptations(), "encoders": ["small"], "seeds": [0, 1, 2], "where": []}
    settings, origins = {"search.trials": 4}, {}
    for written, origin in layers:
        if not isinstance(written, Mapping):
            raise ConfigError(
                f"{origin} should hold methods, encoders, seeds and settings, not {str(written)[:60]!r}"
            )
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
    _check(grid, origins)
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


def _check(grid: Grid, origins: Mapping[str, str]) -> None:
    """Raises ConfigError for a setting that no cell knows, or that is given where it cannot be."""
    known: dict[str, dict[str, Setting]] = {}  # by method and by encoder
    every: dict[str, Setting] = {}
    for (method, of_method), (encoder, of_encoder) in itertools.product(
        grid.methods.items(), grid.encoders.items()
    ):
        names = of_method.get("method.name", method), of_encoder.get("encoder.name", encoder)
        here = config.settings(*map(str, names))
        every |= here
        for place in (f"methods.{method}", f"encoders.{encoder}"):
            known.setdefault(place, {}).update(here)
    for path, origin in origins.items():
        if path in NOT_SHARED:
            raise ConfigError(f"{path} in {origin} is no setting of a benchmark: {NOT_SHARED[path]}")
    _check_known({path: grid.settings[path] for path in origins}, origins, every)
    for kind, entries in (("methods", grid.methods), ("encoders", grid.encoders)):
        for name, values in entries.items():
            place = f"{kind}.{name}"
            _check_known(values, dict.fromkeys(values, place), known[place])
            for path in values:
                if path in SOLE:
                    raise ConfigError(f"{path} in {place} is no setting of a benchmark: {SOLE[path]}")
                if path.startswith(ALIKE) or (kind == "encoders" and path == "method.name"):
                    raise ConfigError(f"{path} in {place} is the same for all cells")
                if kind == "methods" and (path in OF_START or path.startswith(("encoder.", "task."))):
                    raise ConfigError(f"{path} in {place} is shared with the model that methods start from")


def _check_known(values: Mapping[str, Any], origins: Mapping[str, str], known: Mapping[str, Setting]) -> None:
    for path, value in values.items():
        if path not in known:
            raise ConfigError(config.unknown(path, origins[path], known))
        if path == "search.space" and isinstance(value, Mapping):
            spans = dict.fromkeys(value, f"search.space of {origins[path]}")
            _check_known(dict.fromkeys(value), spans, known)
