"""From the data section of a run to sets that fit together: simulated if none were given, checked, read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa

from raylens import find
from raylens.checkpoint import Facts
from raylens.config import Run
from raylens.data import bands
from raylens.data.rows import prepared
from raylens.data.shards import HIGH, Manifest, read_manifest, read_split, reading, split_files
from raylens.data.simulate import BANDS, digest, foreseen, simulate
from raylens.data.stream import Resident, Split, few, sizes
from raylens.data.tasks import ray_data
from raylens.errors import DataError
from raylens.methods.base import Method
from raylens.storage import filesystem, parquet

PRESETS = {"source": "sim", "target": "survey"}
SIMULATED = "the simulated"
"""How what is told of a set begins that raylens makes itself."""


def absolute(path: str) -> str:
    """Workers run in folders of their own, so local paths are made absolute; addresses stay as they are."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def given(run: Run) -> dict[str, str]:
    """The paths that a run was given, absolute, by setting."""
    paths = {"data.source": run.data.source, "data.target": run.data.target, "data.test": run.data.test}
    paths["start"] = run.start
    return {setting: absolute(path) for setting, path in paths.items() if path is not None}


def streams(run: Run, method: type[Method]) -> tuple[str, ...]:
    """Streams whose sets a training looks at: those it learns from; for validation the source, and a target given."""
    if "pretraining" in method.tasks:
        return method.streams
    return tuple(dict.fromkeys(("source", *method.streams, *(("target",) if run.data.target else ()))))


def trained(run: Run, method: type[Method]) -> tuple[str, ...]:
    """Streams whose training splits are read: the method's, and those of the model that is trained first for it."""
    first = find.method(method.start).streams if method.start and not run.start else ()
    return tuple(dict.fromkeys((*first, *method.streams)))


def simulated(run: Run, stream: str) -> str:
    """Where the stream's simulated set lies: its name says all that shapes it, the recipe by its digest."""
    data = run.data
    rows, name = getattr(data, f"{stream}_rows"), PRESETS[stream]
    prior = f"-{data.target_lenses:g}" if stream == "target" and data.target_lenses else ""
    return absolute(f"{run.storage}/data/{name}-{data.bands}-{rows}{prior}-seed{run.seed}-{digest(name)}")


def manifest(run: Run, stream: str) -> Manifest:
    """The manifest of a stream's set; of one that is still to be simulated, what it will say of its images.

    Raises DataError for a given set that is not there.
    """
    path = getattr(run.data, stream)
    if path is not None:
        return read_manifest(absolute(path))
    try:
        return read_manifest(simulated(run, stream))
    except DataError:
        rows = getattr(run.data, f"{stream}_rows")
        return foreseen(
            PRESETS[stream], rows=rows, seed=run.seed, prior=_prior(run, stream), bands=run.data.bands
        )


def tested(run: Run) -> Manifest:
    """The manifest of the set whose test split is measured. Raises DataError when it is not there."""
    return manifest(run, "target") if run.data.test is None else read_manifest(absolute(run.data.test))


def prepare(run: Run, streams: tuple[str, ...]) -> Run:
    """`run` with an absolute path for each stream's set; sets that were not given are simulated. Needs Ray."""
    paths = {}
    for stream in streams:
        path = getattr(run.data, stream)
        paths[f"data.{stream}"] = absolute(path) if path else simulated(run, stream)
        if path is None and not manifest(run, stream).splits["train"].files:
            rows, preset = getattr(run.data, f"{stream}_rows"), PRESETS[stream]
            print(f"simulating {stream}: {rows} images of preset {preset}, seed {run.seed}", flush=True)
            out, prior = paths[f"data.{stream}"], _prior(run, stream)
            simulate(preset, rows=rows, seed=run.seed, out=out, prior=prior, bands=run.data.bands)
    return run.replace(**paths)


def _prior(run: Run, stream: str) -> float | None:
    return run.data.target_lenses if stream == "target" else None


def facts(run: Run, streams: tuple[str, ...], *, test: bool = False) -> Facts:
    """What the sets are, once they are known to fit together and to hold what a run needs.

    Raises DataError: no such set, different sizes, channels, orders of bands or classes, an empty split, a source
    without one of its classes, or with `test` a target whose test split has labels but cannot be evaluated.
    """
    manifests = {stream: manifest(run, stream) for stream in streams}
    source = manifests[streams[0]]
    for stream, held in manifests.items():
        where = _place(run, stream)
        _fits(where, held, _place(run, streams[0]), source)
        for split in ("train", "val"):
            _holds_rows(where, held, split)
            if stream == "source" and find.method(run.method.name).labelled and not target_of(run):
                _holds_classes(where, held, split)
        if stream == "target" and run.search.oracle:
            _holds_classes(where, held, "val")
    check_labels(run, run.data.labels)
    scale = _scale(run)
    if test:
        held, where = tested(run), run.data.test or _place(run, "target")
        _fits(where, held, _place(run, streams[0]), source)
        _holds_rows(where, held, "test")
        _can_be_measured(run, where, held)
    return Facts(
        classes=source.classes,
        channels=source.channels,
        size=source.size,
        manifests={
            stream: {**vars(held), "splits": {name: vars(split) for name, split in held.splits.items()}}
            for stream, held in manifests.items()
        },
        scale=scale,
        factor=_factor(run, manifests, test=test),
    )


def _can_be_measured(run: Run, where: str, held: Manifest) -> None:
    """Raises DataError for a test split without a class, or without the numbers, that models are measured by.

    A target may have no labels; a set that is given to be measured on must.
    """
    column = target_of(run)
    if column not in (None, HIGH) and column not in held.columns:
        raise DataError(
            f"{where} has no column {column!r} to measure on (it has {', '.join(held.columns) or 'none'}); set "
            "task.target, or data.test to a set that has it"
        )
    if column not in (None, HIGH) and run.data.test:
        _holds_numbers(run.data.test, "test", column)
    if column is None and labelled(held, "test"):
        _holds_classes(where, held, "test")
    elif column is None and run.data.test:
        raise DataError(
            f"no image of the test split of {where} has a label to measure by; set data.test to a set with labels"
        )


def check_labels(run: Run, amount: float | None) -> None:
    """Raises DataError when `amount` of labels, a number above 1, is more than the source's train split has."""
    if amount is None or amount <= 1:
        return
    held, column = manifest(run, "source").splits["train"], target_of(run)
    if column in (None, HIGH):
        rows = held.rows - (0 if column else held.labels.get("unlabelled", 0))
    else:
        rows = len(_numbers(run.data.source, "train", column))
    if amount > rows:
        raise DataError(
            f"{_place(run, 'source')} has {rows} images with labels to learn from, and {amount:g} were asked for; "
            "give fewer, or leave the number out for all of them"
        )


def _factor(run: Run, manifests: Mapping[str, Manifest], *, test: bool) -> int:
    """How many times finer the twins are, of super-resolution. Raises DataError for a set without any."""
    if target_of(run) != HIGH:
        return 1
    held = {_place(run, stream): one for stream, one in manifests.items()}
    held |= {run.data.test: tested(run)} if test and run.data.test else {}
    for where, one in held.items():
        if one.high is None:
            raise DataError(
                f"{where} has no twins of a higher resolution (column {HIGH!r}); make a set with "
                "`python -m raylens.data simulate sr-pairs`, or convert a folder of LR/ and HR/"
            )
    factors = {where: one.high // one.size for where, one in held.items()}
    if len(set(factors.values())) > 1:
        told = ", ".join(f"{where} {factor}" for where, factor in factors.items())
        raise DataError(f"twins are finer by different factors: {told}; give sets of the same")
    return next(iter(factors.values()))


def _scale(run: Run) -> tuple[float, float]:
    """Mean and deviation of the number that is predicted, over what data.labels leaves of the train split.

    Raises DataError when it has none.
    """
    column, path = target_of(run), run.data.source
    if column is None or column == HIGH:
        return 0.0, 1.0
    values = _numbers(path, "train", column)
    _holds_numbers(path, "val", column)
    if (kept := few(Split(values, values), run)) is not None:
        values = values[kept]
    if len(values) < 2 or values.std() == 0:
        left = "" if run.data.labels is None else f" left by data.labels {run.data.labels:g}"
        wanted = "another" if run.data.labels is None else "more"
        raise DataError(
            f"the column {column!r} of {path} has {len(values)} numbers{left} that differ nowhere; set {wanted}"
        )
    return float(values.mean()), float(values.std())


def _numbers(path: str | None, split: str, column: str) -> np.ndarray:
    """The finite numbers of a split's column. Raises DataError where there is no such column of numbers."""
    held = () if path is None else read_manifest(absolute(path)).columns
    if column in held:
        values = read_split(absolute(path), split, (column,))[column]
        if values.dtype.kind in "fiu":
            return values[np.isfinite(values)].astype(np.float64)
    raise DataError(
        f"{path or 'the simulated source'} has no column {column!r} of numbers (it has {', '.join(held) or 'none'}); "
        "set task.target, or data.source to a set that has it"
    )


def _holds_numbers(path: str, split: str, column: str) -> None:
    """Raises DataError for a split with less than the two numbers that an error is told of."""
    if (found := len(_numbers(path, split, column))) < 2:
        raise DataError(
            f"the split '{split}' of {path} has {found} numbers in the column {column!r}, and two are needed; set "
            "task.target, or another set"
        )


def labelled(manifest: Manifest, split: str) -> bool:
    """Whether any row of a split has a label."""
    return any(manifest.splits[split].labels.get(name, 0) for name in manifest.classes)


def labelled_whole(manifest: Manifest, split: str) -> bool:
    """Whether every row of a split has a label."""
    return labelled(manifest, split) and not manifest.splits[split].labels.get("unlabelled", 0)


def reside(run: Run, streams: Sequence[str], trained: Sequence[str] = (), *, share: float = 1.0) -> Resident:
    """Read the streams' validation splits, and the train splits of those that are `trained` on.

    Pixels come preprocessed; of the train rows there is a `share`.

    Labels of the target are not read, except of its validation split for search.oracle. Rows of the source without a
    label are left out, unless the method needs none: then labels of the validation split are read if all of its rows
    have one.
    """
    train, validation = {}, {}
    for stream in streams:
        path, needed = getattr(run.data, stream), find.method(run.method.name).labelled
        if stream in trained:
            labels = stream == "source" and needed
            train[stream] = read(
                path,
                "train",
                run.data.transform,
                labels=labels,
                target=target_of(run),
                share=share,
                seed=run.seed,
            )
        labels = stream == "source" and (needed or labelled_whole(read_manifest(path), "val"))
        held = read_manifest(path).splits["val"].rows
        validation[stream] = read(
            path,
            "val",
            run.data.transform,
            labels=labels or run.search.oracle,
            target=target_of(run),
            share=min(1.0, run.data.validation_rows / held),
            seed=run.seed,
        )
        if needed and labels and not target_of(run):
            _check_sampled(run, path, validation[stream])
    return Resident(train, validation)


def _check_sampled(run: Run, path: str, sampled: Split) -> None:
    """Raises DataError when the rows that validation takes of a split have lost one of its classes."""
    for index, name in enumerate(read_manifest(path).classes):
        if not (sampled.labels == index).any():
            raise DataError(
                f"of the split 'val' of {path}, data.validation_rows {run.data.validation_rows} takes no image of "
                f"{name}; raise it"
            )


def target_of(run: Run) -> str | None:
    """The column that is predicted, of a regression, or of the images that are painted, of super-resolution."""
    return find.task(run.task.name).column(run.task)


def read(
    path: str,
    split: str,
    transform: str,
    *,
    labels: bool,
    target: str | None = None,
    share: float = 1.0,
    seed: int = 0,
) -> Split:
    """One split of a set as arrays, preprocessed, in the order of its files.

    All of it fits in memory, and is read here, its files side by side. With a `share` it is each row with that chance,
    drawn by `seed`, of what may be any number of rows: Ray Data's tasks read them, wherever there are CPUs. With
    `target` the labels are the numbers, or images, of that column. Raises DataError when a file is broken, or no row
    is left.
    """
    files, columns = split_files(path, split), ["pixels", target or "label"] if labels else ["pixels"]
    prepare = partial(prepared, transform=transform, target=target if labels else None)
    if share < 1:
        parts = _drawn(files, columns, prepare, share, seed)
    else:
        with ThreadPoolExecutor() as pool:
            parts = [part for held in pool.map(partial(_whole, columns, prepare), files) for part in held]
    parts = [part for part in parts if len(part["pixels"])]
    if not parts:
        raise DataError(f"no row of split {split!r} of {path} was read; give more rows")
    return Split(
        np.concatenate([part["pixels"] for part in parts]),
        np.concatenate([part["label"] for part in parts]) if labels else None,
    )


Arrays = dict[str, np.ndarray]


def _whole(columns: list[str], prepare: Callable[[pa.Table], Arrays], file: str) -> list[Arrays]:
    """The row groups of a file."""
    with reading(file), parquet(file) as held:
        return [prepare(held.read_row_group(group, columns)) for group in range(held.num_row_groups)]


def _drawn(
    files: list[str], columns: list[str], prepare: Callable[[pa.Table], Arrays], share: float, seed: int
) -> list[Arrays]:
    """A share of the rows of all files."""
    fs, _ = filesystem(files[0])
    inner = [filesystem(file)[1] for file in files]
    rows = ray_data().read_parquet(inner, filesystem=fs, override_num_blocks=max(len(files), 8))
    rows = rows.select_columns(columns).random_sample(share, seed=seed)
    rows = rows.map_batches(prepare, batch_format="pyarrow", batch_size=None)
    return [*rows.iter_batches(batch_size=None, batch_format="numpy")]


def share(run: Run, trained: Sequence[str]) -> float:
    """Share of the streams' train rows to keep in memory: all, or what data.resident_limit has room for."""
    return min(1.0, run.data.resident_limit / gigabytes(run, trained))


def gigabytes(run: Run, trained: Sequence[str]) -> float:
    """What the streams' train rows take in memory; of the source those with a label, if the method needs one."""
    taken = 0
    for stream in trained:
        held = read_manifest(getattr(run.data, stream))
        train, finer = held.splits["train"], target_of(run) == HIGH and held.high
        labelled = stream == "source" and find.method(run.method.name).labelled and not target_of(run)
        rows = train.rows - (train.labels.get("unlabelled", 0) if labelled else 0)
        taken += rows * held.channels * (held.size**2 + (held.high**2 if finer else 0)) * 4
    return taken / 1e9


def remarks(run: Run, streams: tuple[str, ...], *, test: bool = False) -> list[str]:
    """What a user should know of sets that fit together before a run learns from them."""
    held = {_place(run, stream): manifest(run, stream) for stream in streams}
    held |= {run.data.test or _place(run, "target"): tested(run)} if test else {}
    (first, source), *others = held.items()
    told = [bands.compare(where, one.bands, first, source.bands) for where, one in others]
    for stream in streams:
        batch = sizes(run)[stream]
        rows = manifest(run, stream).splits["train"].rows
        if rows < batch * run.scale.workers:
            told.append(
                f"{_place(run, stream)} has {rows} images to learn from, fewer than a step takes, "
                f"{batch * run.scale.workers} (data.batch): each step sees some more than once"
            )
    return [one for one in told if one]


def _place(run: Run, stream: str) -> str:
    """How a user knows the stream's set."""
    return getattr(run.data, stream) or f"{SIMULATED} {stream}"


def _fits(where: str, held: Manifest, first: str, source: Manifest) -> None:
    if (held.size, held.channels) != (source.size, source.channels):
        if where.startswith(SIMULATED):
            remedy = _simulated_to_fit(held, source)
        elif first.startswith(SIMULATED):
            remedy = _simulated_to_fit(source, held)
        else:
            remedy = "convert one again with --size, --crop or --bands"
        raise DataError(
            f"{where} has {held.channels} channel(s) of {held.size} x {held.size}, {first} "
            f"{source.channels} of {source.size} x {source.size}: {remedy}"
        )
    if held.classes and held.classes != source.classes:
        raise DataError(
            f"{where} has the classes {', '.join(held.classes)}, {first} {', '.join(source.classes)}; "
            "convert one again with --classes"
        )
    bands.compare(where, held.bands, first, source.bands)


def _simulated_to_fit(drawn: Manifest, given: Manifest) -> str:
    """What would make a simulated set fit one that was given."""
    known = "".join(given.bands)
    if len(known) != given.channels or not set(known) <= set(BANDS):
        known = BANDS[-given.channels :]  # of bands without a name, as many
    if given.channels > len(BANDS):
        return (
            f"what is simulated has any of the bands {', '.join(BANDS)}; convert the other again with --bands"
        )
    if drawn.size == given.size:
        return f"set data.bands to {known}"
    shape = f"--size {given.size} --bands {known}"
    return f"simulate one that fits by python -m raylens.data simulate {drawn.name} {shape}, and give it"


def _holds_rows(where: str, held: Manifest, split: str) -> None:
    if split not in held.splits or not held.splits[split].rows:
        have = ", ".join(f"{name} {part.rows}" for name, part in held.splits.items()) or "none"
        raise DataError(f"{where} has no rows in split {split!r} (it has {have}); convert it with --splits")


def _holds_classes(where: str, held: Manifest, split: str) -> None:
    labels = held.splits[split].labels
    lacking = [name for name in held.classes if not labels.get(name, 0)]
    if lacking or len(held.classes) < 2:
        have = ", ".join(f"{count} {name}" for name, count in labels.items()) or "no labels"
        raise DataError(
            f"the {split} split of {where} has no row of {' or '.join(lacking) or 'a second class'} ({have}), so "
            f"nothing can be {'measured' if split == 'test' else 'learned'} there; convert it with other --splits or "
            "--classes"
        )
