"""From the data section of a run to sets that fit together: simulated if none were given, checked, read through Ray."""

from __future__ import annotations

import os
from functools import partial

import numpy as np

from raylens.checkpoint import Facts
from raylens.config import Run, flat
from raylens.data.rows import prepared
from raylens.data.shards import Manifest, filesystem, read_manifest, split_files
from raylens.data.stream import Resident, Split
from raylens.errors import DataError
from raylens.methods.base import Method

PRESETS = {"source": "sim", "target": "survey"}


def absolute(path: str) -> str:
    """Workers run in folders of their own, so local paths are made absolute; addresses stay as they are."""
    return path if "://" in path else os.path.abspath(path)


def simulated(run: Run, stream: str) -> str:
    """Where the stream's simulated set lies: its name says all that shapes it."""
    rows = getattr(run.data, f"{stream}_rows")
    prior = f"-{run.data.target_prior:g}" if stream == "target" and run.data.target_prior else ""
    name = f"{PRESETS[stream]}-{run.data.bands}-{rows}{prior}-seed{run.seed}"
    return absolute(f"{run.storage}/data/{name}")


def missing(run: Run, streams: tuple[str, ...]) -> list[str]:
    """Streams whose simulated set is still to be made. Raises DataError for given sets that are not there."""
    found = []
    for stream in streams:
        if (path := getattr(run.data, stream)) is not None:
            read_manifest(absolute(path))
            continue
        try:
            read_manifest(simulated(run, stream))
        except DataError:
            found.append(stream)
    return found


def prepare(run: Run, streams: tuple[str, ...]) -> Run:
    """`run` with an absolute path for each stream's set; sets that were not given are simulated. Needs Ray."""
    for stream in missing(run, streams):
        from raylens.data.simulate import simulate

        out = simulated(run, stream)
        prior = run.data.target_prior if stream == "target" else None
        rows = getattr(run.data, f"{stream}_rows")
        print(f"simulating {stream}: {rows} images of preset {PRESETS[stream]}, seed {run.seed}", flush=True)
        simulate(PRESETS[stream], rows=rows, seed=run.seed, out=out, prior=prior, bands=run.data.bands)
    return placed(run, streams)


def placed(run: Run, streams: tuple[str, ...]) -> Run:
    """`run` with an absolute path for each stream's set, given or simulated."""
    paths = {stream: absolute(getattr(run.data, stream) or simulated(run, stream)) for stream in streams}
    return run.replace(**{f"data.{stream}": path for stream, path in paths.items()})


def facts(run: Run, streams: tuple[str, ...], *, test: bool = False) -> Facts:
    """What the sets are, once they are known to fit together and to hold what a run needs.

    Raises DataError: no such set, different sizes, channels or classes, an empty split, or with `test` a target whose
    test split cannot be evaluated.
    """
    manifests = {stream: read_manifest(getattr(run.data, stream)) for stream in streams}
    source = manifests[streams[0]]
    for stream, manifest in manifests.items():
        _fits(run, streams[0], source, stream, manifest)
        for split in ("train", "val"):
            _holds(run, stream, manifest, split)
    labels = source.splits["train"].labels
    present = [name for name in source.classes if labels.get(name, 0)]
    if len(present) < 2:
        raise DataError(
            f"the train split of {run.data.source} holds labels of {present or 'no class'} only; "
            "a source needs two classes or more"
        )
    if test and "target" in manifests:
        _measurable(run.data.target, manifests["target"])
    return Facts(
        classes=source.classes,
        channels=source.channels,
        size=source.size,
        manifests={
            stream: {**vars(manifest), "splits": _splits(manifest)} for stream, manifest in manifests.items()
        },
    )


def _measurable(path: str, manifest: Manifest) -> None:
    """Raises DataError unless the test split has rows of two classes or more."""
    split = "test"
    if split not in manifest.splits or not manifest.splits[split].rows:
        raise DataError(
            f"{path} has no rows in split {split!r}; it has {', '.join(manifest.splits) or 'none'}"
        )
    labels = manifest.splits[split].labels
    present = [name for name in manifest.classes if labels.get(name, 0)]
    if len(present) < 2:
        raise DataError(
            f"the {split} split of {path} holds labels of {present or 'no class'} only, so nothing can be measured "
            "there; convert it with other --splits or --seed"
        )


def reside(
    run: Run, method: type[Method], *, share: float = 1.0, streams: tuple[str, ...] | None = None
) -> Resident:
    """Read the streams' train and validation splits through Ray Data, preprocessed; `share` of the train rows.

    `streams`, all that the method has without it, are those whose train split is read.

    Labels of the target are not read, except of its validation split for search.oracle. Rows of the source without a
    label are left out.
    """
    wanted = tuple(dict.fromkeys((*method.streams, *(("target",) if run.data.target else ()))))
    train, validation = {}, {}
    for stream in wanted:
        path, labelled = getattr(run.data, stream), stream == "source"
        if stream in (method.streams if streams is None else streams):
            train[stream] = read(
                path, "train", run.data.transform, labels=labelled, share=share, seed=run.seed
            )
        held = read_manifest(path).splits["val"].rows
        validation[stream] = read(
            path,
            "val",
            run.data.transform,
            labels=labelled or run.search.oracle,
            share=min(1.0, run.data.validation_rows / held),
            seed=run.seed,
        )
    return Resident(train, validation)


def read(path: str, split: str, transform: str, *, labels: bool, share: float = 1.0, seed: int = 0) -> Split:
    """One split of a set as arrays, read and preprocessed by Ray Data's tasks, in the order of its files."""
    import ray

    context = ray.data.DataContext.get_current()
    context.use_datasource_v2 = False  # its start-up costs seconds on sets of this size
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    fs, _ = filesystem(path)
    files = [filesystem(file)[1] for file in split_files(path, split)]
    columns = ["pixels", "label"] if labels else ["pixels"]
    rows = ray.data.read_parquet(files, filesystem=fs, override_num_blocks=max(len(files), 8)).select_columns(
        columns
    )
    if share < 1:
        rows = rows.random_sample(share, seed=seed)
    rows = rows.map_batches(partial(prepared, transform=transform), batch_format="pyarrow", batch_size=None)
    parts = [part for part in rows.iter_batches(batch_size=None, batch_format="numpy") if len(part["pixels"])]
    if not parts:
        raise DataError(f"no row of split {split!r} of {path} was read; give more rows")
    return Split(
        np.concatenate([part["pixels"] for part in parts]),
        np.concatenate([part["label"] for part in parts]) if labels else None,
    )


def share(run: Run, method: type[Method]) -> float:
    """Share of the train rows that a search keeps in memory: all, or what data.resident_limit has room for."""
    size = 0.0
    for stream in method.streams:
        manifest = read_manifest(getattr(run.data, stream))
        size += manifest.splits["train"].rows * manifest.channels * manifest.size**2 * 4 / 1e9
    return min(1.0, run.data.resident_limit / size)


def _fits(run: Run, first: str, source: Manifest, stream: str, manifest: Manifest) -> None:
    paths = flat(run)
    here, there = paths[f"data.{stream}"], paths[f"data.{first}"]
    if (manifest.size, manifest.channels) != (source.size, source.channels):
        raise DataError(
            f"{here} has {manifest.channels} channel(s) of {manifest.size} x {manifest.size}, {there} "
            f"{source.channels} of {source.size} x {source.size}; convert one again with --size, --crop or --bands"
        )
    if manifest.classes and manifest.classes != source.classes:
        raise DataError(
            f"{here} has the classes {', '.join(manifest.classes)}, {there} {', '.join(source.classes)}; "
            "convert one again with --classes"
        )


def _holds(run: Run, stream: str, manifest: Manifest, split: str) -> None:
    if split not in manifest.splits or not manifest.splits[split].rows:
        have = ", ".join(f"{name} {held.rows}" for name, held in manifest.splits.items()) or "none"
        raise DataError(
            f"{getattr(run.data, stream)} has no rows in split {split!r} (it has {have}); convert it with --splits"
        )


def _splits(manifest: Manifest) -> dict:
    return {name: vars(split) for name, split in manifest.splits.items()}
