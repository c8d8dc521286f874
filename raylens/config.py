"""Run and its sections: frozen, checked against their types, read from and written to YAML.

Later wins: a section's default, what the method suggests, the run file, the flag, the sample of a trial. Settings are
addressed by dotted paths, `optimizer.lr`; every path has one Setting, which knows its type, default, range and meaning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import pydantic
import yaml
from pydantic import AfterValidator, BeforeValidator, Field

from raylens import find, storage
from raylens.errors import ConfigError
from raylens.space import Choice, LogUniform, Range, Uniform, parse


@dataclass_transform(kw_only_default=True, frozen_default=True)
def section(cls: type) -> type:
    """A class of settings: frozen, by keyword, unknown names refused, each field explained by the string below it."""
    settings = pydantic.ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        coerce_numbers_to_str=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )
    return pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=settings)


def _folder(name: str | None) -> str | None:
    if name and {".", ".."} & {*name.split("/")}:
        raise ValueError("it names no folder of its own; leave . and .. out")
    return name


Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


@section
class TaskConfig:
    """What is learned."""

    name: Annotated[str, BeforeValidator(lambda name: str(name).replace("-", "_"))] = "classification"
    """What is learned: classification, regression or super-resolution; see raylens/tasks/."""
    target: str = "log10_mass"
    """Column of the data set with the number that a regression predicts; rows without one are left out."""
    width: Count = 32
    """Channels of the network that paints, of super-resolution."""
    blocks: Count = 4
    """Its residual blocks."""


@section
class Data:
    """Sets, and how they are read."""

    source: str | None = None
    """Shard set with labels; without one the preset `sim` is simulated."""
    target: str | None = None
    """Shard set to adapt to; without one the preset `survey` is simulated."""
    test: str | None = None
    """Labelled shard set whose test split is measured; the target's own without it."""
    source_rows: Count = 6000
    """Images to simulate when no source is given."""
    target_rows: Count = 15000
    """Images to simulate when no target is given."""
    target_lenses: Share | None = None
    """Share of lenses in a simulated target; the preset's own, about 1 in 100, without it."""
    bands: str = "i"
    """Bands to simulate: any of `g`, `r` and `i` in any order, such as `gri`."""
    transform: Literal["minmax", "asinh", "log", "none"] = "minmax"
    """What is done to each image of both domains before anything sees it; travels in the checkpoint."""
    batch: Count = 64
    """Source images per worker and step."""
    target_batch: Count | None = None
    """Target images per worker and step; without it as many as source images, of adamatch three times as many."""
    labels: Annotated[float, Field(gt=0)] | None = None
    """Source images to learn from: a share up to 1, class by class, or a number above 1; all without it."""
    balance: Share | None = None
    """Share of the last class in every source batch; as it comes without it."""
    views: str | None = None
    """Pipeline in place of the one that the method names for its views; see raylens/pipelines.py."""
    prior: Literal["given", "estimate"] = "given"
    """Share of lenses in the target that the method is told: method.target_prior, or an estimate without labels."""
    mode: Literal["auto", "resident", "streaming"] = "auto"
    """Keep the sets in shared memory or stream them from Parquet; by size without a word. Searches keep them."""
    resident_limit: Annotated[float, Field(gt=0)] = 4.0
    """Gigabytes of pixels up to which sets are kept in shared memory."""
    cpus: Annotated[float, Field(gt=0)] = 0.5
    """CPUs of each data task while streaming."""
    validation_rows: Count = 20000
    """Rows of each validation split to look at, at most."""


@section
class Optimizer:
    """How weights are changed."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """Which optimizer; `sgd` has momentum betas[0]."""
    lr: Annotated[float, Field(ge=0)] = 1e-3
    """Learning rate at its peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Decay of the weights, decoupled in adamw."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the running mean of gradients and of their squares."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rate rises from 0 to its peak."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after that."""


@section
class Fit:
    """How long, and how exactly."""

    steps: Count = 600
    """Optimizer steps; an epoch has no meaning here."""
    start_steps: Count = 1000
    """Steps of the model to start from, where the method needs one that is trained first."""
    report_every: Count = 100
    """Steps between reports, each with a validation and a checkpoint; those of a run that takes fewer, if not given."""
    clip: Annotated[float, Field(gt=0)] = 5.0
    """Largest norm of the gradients of each parameter group."""
    precision: Annotated[Literal["32", "bf16", "16"], BeforeValidator(str)] = "32"
    """Bits of the forward pass: 32, or automatic mixed precision."""


@section
class Scale:
    """Workers, and what each has of the machines."""

    workers: Count = 1
    """Data-parallel workers of a training or of each trial."""
    min_workers: Count | None = None
    """Workers with which a training goes on when others are lost, each with a larger batch, and waits for these; it
    waits with none of them without it."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs of each worker."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs of each worker, fractions allowed; 1 where the cluster has any, else 0."""


@section
class Search:
    """Trials, and what is released of them."""

    trials: Count = 8
    """Configurations to try."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """Who stops trials: asha halves, pbt copies the better ones, none lets all finish."""
    searcher: Literal["random", "tpe"] = "random"
    """Who proposes them: seeded random draws or Optuna's TPE."""
    grace: Count | None = None
    """Steps before asha may stop a trial; a quarter of fit.steps without it."""
    reduction: Annotated[int, Field(ge=2)] = 2
    """One trial in so many goes on at each of asha's rungs."""
    validator: str = "source_and_entropy"
    """What ranks trials on the way, without target labels; see raylens/validators/."""
    choice: Literal["average", "agreement", "objective"] = "average"
    """What is released: a model with the average weights of all trials that took the most steps, if all of the data
    was searched on; of these the one that agrees most with all of them on the target, if they are three at least; or
    the one with the best objective, whatever its steps."""
    may_lose: Annotated[float, Field(ge=0)] | None = 0.05
    """AUROC on the source's validation split that an adapted model may lose against the one it started from, with the
    target's batch norm; one that lost more is not released. null releases all."""
    oracle: bool = False
    """Choose by target validation labels. That is cheating, and every output says so."""
    keep: Count = 3
    """Best trials whose checkpoints are evaluated on the target's test split and kept."""
    concurrent: Count | None = None
    """Trials at a time, at most; what the cluster's resources allow without it."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a trial that lost its process starts again from its last checkpoint."""
    space: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Ranges that differ from the method's own: path -> {log_uniform: [low, high]}, or null."""


SECTIONS = {
    "task": TaskConfig,
    "data": Data,
    "optimizer": Optimizer,
    "fit": Fit,
    "scale": Scale,
    "search": Search,
}


@section
class Run:
    """One training or one search, with nothing left open."""

    method: Any
    encoder: Any
    task: TaskConfig = TaskConfig()
    data: Data = Data()
    optimizer: Optimizer = Optimizer()
    fit: Fit = Fit()
    scale: Scale = Scale()
    search: Search = Search()
    seed: Annotated[int, Field(ge=0)] = 0
    """Feeds shuffles, initial weights, views and the search."""
    storage: str = "runs"
    """Folder or s3://, gs:// address under which runs are kept."""
    name: Annotated[str | None, AfterValidator(_folder)] = None
    """Name of the run's folder; made from the settings without it, so that the same command finds it again."""
    start: str | None = None
    """Checkpoint to start from, for methods that adapt a trained model."""

    @property
    def title(self) -> str:
        """The run's name: given, or the method and a hash of all that shapes the outcome."""
        if self.name:
            return self.name
        return f"{self.method.name.replace(':', '.')}-{digest(self)}"

    def replace(self, **values: Any) -> Run:
        """This run with the settings at dotted paths replaced: `{"optimizer.lr": 0.1}`. Raises ConfigError."""
        return build({**flat(self), **values})


def digest(run: Run, more: str = "") -> str:
    """Eight letters that change with all that shapes the outcome of a run, and with `more`."""
    shaping = {path: value for path, value in flat(run).items() if path not in ("storage", "name")}
    written = json.dumps(shaping, sort_keys=True, default=str) + more
    return hashlib.sha256(written.encode()).hexdigest()[:8]


VARIED = ("data.batch", "data.target_batch", "data.balance", "data.views", "fit.clip")
"""Settings beside those of method, encoder and optimizer in which trials of a search may differ."""
TOP = ("seed", "storage", "name", "start")


@dataclass(frozen=True)
class Setting:
    """One setting of a run: its dotted path, type, default, range (None: not searched) and meaning."""

    path: str
    type: Any
    default: Any
    range: Range | None
    meaning: str


def classes(method: str, encoder: str) -> dict[str, type]:
    """The class of each section for a method and an encoder. Raises ConfigError for unknown names."""
    return {"method": find.method(method).Config, "encoder": find.encoder(encoder).Config, **SECTIONS}


def default_encoder(method: str) -> str:
    """The encoder that a method trains if none is given."""
    return (find.method(method).encoders or ("small",))[0]


def settings(method: str, encoder: str) -> dict[str, Setting]:
    """Every setting of a run, by dotted path. Raises ConfigError for a method or an encoder that there is not."""
    found = {}
    for name, cls in classes(method, encoder).items():
        for setting in _fields(cls):
            found[f"{name}.{setting.path}"] = dataclasses.replace(setting, path=f"{name}.{setting.path}")
    for setting in _fields(Run):
        if setting.path in TOP:
            found[setting.path] = setting
    suggested = find.method(method).suggests
    for path, value in suggested.items():
        if path.startswith("encoder.") and path not in found:
            continue  # of other encoders
        found[path] = dataclasses.replace(found[path], default=value)
    for path, span in find.method(method).space.items():
        found[path] = dataclasses.replace(found[path], range=span)
    found["method.name"] = dataclasses.replace(found["method.name"], default=method)
    found["encoder.name"] = dataclasses.replace(found["encoder.name"], default=encoder)
    return found


def _fields(cls: Any) -> list[Setting]:
    hints = get_type_hints(cls, include_extras=True)
    listed = []
    for field in dataclasses.fields(cls):
        metadata = get_args(hints[field.name])[1:] if get_origin(hints[field.name]) is Annotated else ()
        span = next((item for item in metadata if isinstance(item, Uniform | LogUniform | Choice)), None)
        about = cls.__pydantic_fields__[field.name]
        default = None if about.is_required() else about.get_default(call_default_factory=True)
        listed.append(Setting(field.name, hints[field.name], default, span, about.description or ""))
    return listed


def flatten(written: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """A nested or dotted mapping as dotted paths; `method: adda` is short for `method: {name: adda}`."""
    if not isinstance(written, Mapping):
        raise ConfigError(
            f"{origin} should hold settings such as `data: {{batch: 64}}`, not {str(written)[:60]!r}"
        )
    paths = {}
    for key, value in written.items():
        key = str(key)
        if key in ("method", "encoder", "task") and isinstance(value, str):
            paths[f"{key}.name"] = value
        elif key in ("method", "encoder", *SECTIONS):
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{key} in {origin} is a section; write {key}: {{setting: value}}, not {value!r}"
                )
            paths.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            paths[key] = value
    return paths


def build(*layers: Mapping[str, Any] | tuple[Mapping[str, Any], str]) -> Run:
    """A Run from layers of settings, later ones winning; each may come with its origin, for messages.

    Raises ConfigError, which names the setting, what was given, where, and what would do.
    """
    given: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        values, origin = layer if isinstance(layer, tuple) else (layer, "the settings")
        for path, value in flatten(values, origin).items():
            if path == "search.space" and isinstance(value, Mapping):
                value = {**given.get(path, {}), **value}  # ranges add up, path by path
            given[path], origins[path] = value, origin
    if given.get("method.name") is None:
        raise ConfigError(f"no method was given; known here: {', '.join(find.names('methods'))}")
    method = str(given["method.name"])
    encoder = str(given.get("encoder.name", default_encoder(method)))
    known = settings(method, encoder)
    for path in given:
        if path not in known:
            raise ConfigError(unknown(path, origins[path], known))
    merged = {path: given.get(path, setting.default) for path, setting in known.items()}
    steps, every = merged["fit.steps"], "fit.report_every"
    if every not in given and str(steps).isdecimal() and 0 < int(steps) < merged[every]:
        merged[every] = int(steps)  # a short run reports once
    parts: dict[str, dict[str, Any]] = {name: {} for name in ("method", "encoder", *SECTIONS)}
    top: dict[str, Any] = {}
    for path, value in merged.items():
        head, dot, rest = path.partition(".")
        (parts[head] if dot else top)[rest or head] = value
    made = {
        name: _validate(cls, parts[name], name, origins) for name, cls in classes(method, encoder).items()
    }
    run = _validate(Run, {**made, **top}, "", origins)
    find.task(run.task.name)
    if run.task.name not in (tasks := find.method(method).tasks):
        raise ConfigError(f"{method} cannot learn the task {run.task.name!r}; it can: {', '.join(tasks)}")
    if (fit_for := find.method(method).encoders) and run.encoder.name not in fit_for:
        raise ConfigError(
            f"{method} cannot train the encoder {run.encoder.name!r}; it can: {', '.join(fit_for)}"
        )
    for path, span in run.search.space.items():
        if path not in known:
            raise ConfigError(unknown(path, f"search.space of {origins.get('search.space')}", known))
        _searchable(run, path, parse(path, span))
    if run.fit.report_every > run.fit.steps:
        raise ConfigError(
            f"fit.report_every is {run.fit.report_every}, more than fit.steps, {run.fit.steps}; "
            f"nothing would be reported; set fit.report_every to {run.fit.steps} or less"
        )
    return run


def grace(run: Run) -> int:
    """Steps before ASHA may stop a trial."""
    return min(run.search.grace or max(run.fit.report_every, run.fit.steps // 4), run.fit.steps)


def rungs(run: Run) -> tuple[int, ...]:
    """Steps at which ASHA stops trials, short of the last; none where it does not."""
    found, step = [], grace(run)
    while run.search.scheduler == "asha" and step < run.fit.steps:
        found.append(step)
        step *= run.search.reduction
    return tuple(found)


def space(run: Run) -> dict[str, Range]:
    """What a search over `run` varies: the ranges beside the defaults, overlaid by search.space.

    Raises ConfigError for what is no range.
    """
    known = settings(run.method.name, run.encoder.name)
    unused = find.task(run.task.name).unused
    own = {path: setting.range for path, setting in known.items() if path not in unused}
    own.update({path: parse(path, span) for path, span in run.search.space.items()})
    types = {path: setting.type for path, setting in known.items()}
    return {path: _whole(span, types[path]) for path, span in own.items() if span is not None}


def hold(run: Run, given: Iterable[str]) -> Run:
    """`run` with a search that leaves the settings that were `given` alone: a value that was given is meant."""
    known = settings(run.method.name, run.encoder.name)
    fixed = [path for path in given if path in known and known[path].range and path not in run.search.space]
    return (
        run.replace(**{"search.space": {**run.search.space, **dict.fromkeys(sorted(fixed))}})
        if fixed
        else run
    )


def kinds(hint: Any) -> set[Any]:
    """The types that a setting's type stands for, and the values of a Literal."""
    if get_origin(hint) is Annotated:
        return kinds(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return set().union(*map(kinds, get_args(hint)))
    return {*get_args(hint)} if get_origin(hint) is Literal else {get_origin(hint) or hint}


def _whole(span: Range, hint: Any) -> Range:
    if isinstance(span, Choice) or int not in kinds(hint):
        return span
    return dataclasses.replace(span, low=round(span.low), high=round(span.high), whole=True)


def _searchable(run: Run, path: str, span: Range | None) -> None:
    """Raises ConfigError unless trials of one search may differ in the setting, and its range holds what it can be."""
    if span is None:
        return
    varied = path in VARIED or path.partition(".")[0] in ("method", "encoder", "optimizer")
    if not varied or path in ("method.name", "encoder.name"):
        raise ConfigError(
            f"search.space.{path}: trials share their data, encoder and steps; what can be searched are settings of "
            f"method, encoder and optimizer, and {', '.join(VARIED)}"
        )
    if path.startswith("encoder.") and find.method(run.method.name).start:
        raise ConfigError(
            f"search.space.{path}: trials of {run.method.name} start from one model; give {path} a value instead"
        )
    for value in span.values if isinstance(span, Choice) else (span.low, span.high):
        try:
            build({**flat(run), path: value, "search.space": {}})
        except ConfigError as error:
            raise ConfigError(f"search.space.{path}: {error}") from None


def flat(run: Run) -> dict[str, Any]:
    """Every setting of `run` by dotted path, in plain Python values."""
    paths = {}
    for field in dataclasses.fields(run):
        value = getattr(run, field.name)
        if dataclasses.is_dataclass(value):
            paths.update(
                {f"{field.name}.{key}": plain(inner) for key, inner in vars(value).items() if key[0] != "_"}
            )
        else:
            paths[field.name] = plain(value)
    return paths


def dump(run: Run) -> str:
    """`run` as YAML, which `read` takes back."""
    nested: dict[str, Any] = {}
    for path, value in flat(run).items():
        head, dot, rest = path.partition(".")
        if dot:
            nested.setdefault(head, {})[rest] = value
        else:
            nested[head] = value
    return yaml.safe_dump(nested, sort_keys=False, width=110)


def read(path: str | Path) -> dict[str, Any]:
    """The settings in a run file. Raises ConfigError when it is missing or no YAML, DataError for no address."""
    return flatten(written(path), str(path))


def written(path: str | Path) -> Any:
    """What a run file holds. Raises ConfigError when it is missing or no YAML, DataError for no address."""
    try:
        return yaml.safe_load(_text(str(path))) or {}
    except FileNotFoundError:
        raise ConfigError(f"there is no run file {path}; jobs/ has some to start from") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the run file {path}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from None


def _text(path: str) -> str:
    if "://" not in path:
        return Path(path).read_text()
    return storage.read(path).decode()


def plain(value: Any) -> Any:
    """A setting's value as YAML knows it."""
    return list(value) if isinstance(value, tuple) else value


def _validate(cls: type, values: dict[str, Any], name: str, origins: Mapping[str, str]) -> Any:
    try:
        return pydantic.TypeAdapter(cls).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        path = ".".join(part for part in (name, str(first["loc"][0])) if part)
        reason = first["msg"].removeprefix("Value error, ")
        origin = f" in {origins[path]}" if path in origins else ""
        raise ConfigError(f"{path}{origin} is {first['input']!r}: {reason[0].lower()}{reason[1:]}") from None


def unknown(path: str, origin: str, known: Mapping[str, Setting], flags: Iterable[str] = ()) -> str:
    """What to say of a setting that there is not, and is no misspelled one of a verb's own `flags` either."""
    head, dot, _ = path.partition(".")
    near = [name for name in known if dot and name.startswith(f"{head}.")] or list(known)
    listed = sorted(name.removeprefix(f"{head}.") if dot else name for name in near)
    if len(near) == len(known):
        listed = [*TOP, *(f"{name}.*" for name in ("method", "encoder", *SECTIONS))]
    close = nearest(path, known, flags)
    guess = f" (did you mean {close}?)" if close else ""
    return f"unknown key {path!r} in {origin}{guess}; known here: {', '.join(listed)}"


ELSEWHERE = {
    "learning_rate": "optimizer.lr",
    "epochs": "fit.steps",
    "iterations": "fit.steps",
    "batch_size": "data.batch",
    "num_workers": "scale.workers",
    "cpus": "scale.cpus",
    "num_samples": "search.trials",
    "amp": "fit.precision",
    "output": "storage",
    "out": "storage",
}
"""What others call settings, without their section."""


def nearest(path: str, known: Mapping[str, Setting], flags: Iterable[str] = ()) -> str | None:
    """The setting, or the one of a verb's own `flags` such as `--labels`, that is meant by `path`; None if none is."""
    section, _, leaf = path.replace("-", "_").rpartition(".")
    others = {name: setting for name, setting in ELSEWHERE.items() if setting in known}
    if leaf in others:
        return others[leaf]
    own = {setting.rpartition(".")[2]: setting for setting in known if setting.startswith(f"{section}.")}
    if section and (close := find.nearest(leaf, own)):
        return own[close]
    leaves: dict[str, list[str]] = {}
    for setting in sorted(
        known, key=lambda setting: "." in setting
    ):  # a setting without a section comes first
        leaves.setdefault(setting.rpartition(".")[2], []).append(setting)
    if len(leaves.get(leaf, ())) == 1:
        return leaves[leaf][0]
    if section and (close := find.nearest(path, known)):
        return close
    # Of names that are as near, the verb's own are meant, then settings by the name that they have here.
    places = {flag.lstrip("-").replace("-", "_"): flag for flag in ([] if section else flags)}
    for name, setting in [*((name, held[0]) for name, held in leaves.items()), *others.items()]:
        places.setdefault(name, setting)
    close = find.nearest(leaf, places)
    return places[close] if close else None
