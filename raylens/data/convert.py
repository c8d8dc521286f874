"""From whatever images come in to shards, as Ray Data tasks over files.

A row's place, and so its split, follows from the seed and its id, not from the number of workers or files.
Splits are stratified, and rows within a split are in random order: a reader of few files sees all classes.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from rich.progress import Progress

from raylens.data import bands as known_bands
from raylens.data import formats
from raylens.data.formats import NEGATIVE, POSITIVE, Options, Row, Unit, Unreadable, plain
from raylens.data.shards import HIGH, LENS_CLASSES, SKIPPED, UNLABELLED, Manifest, ShardWriter, made_by
from raylens.data.tasks import ray_data
from raylens.errors import DataError
from raylens.find import guess
from raylens.progress import bar

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
ORDER = (*NEGATIVE, "nonsub", "sphere", "cdm", "sub", "vort", "axion")
PROBES = 24
REASONS = 5
"""Told on the screen; a file has them all."""
WRONG_SHAPE = "wrong shape"
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.IGNORECASE | re.ASCII)
WORDS = 10
"""Of more than these, classes have two images each at least."""
ROWS_PER_BLOCK = 256
MEMORY = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What every image is made into."""

    bands: tuple[int, ...] | None = None
    crop: int | None = None
    size: int | None = None
    masked: float | None = None
    """What a pixel that was not seen holds, NaN too; it takes a value of its band, drawn from those that were seen."""
    expected: tuple[int, ...] | None = None
    """(C, H, W) that an image must have in the end."""
    names: tuple[str, ...] = ()
    """What an image whose bands are not chosen must not contradict, if it names its own."""
    dtype: str = "float32"
    finer: int = 1
    """How many times finer the twins are."""

    def twin(self, high: np.ndarray) -> np.ndarray:
        """The twin as it is kept, float32; raises Unreadable with the reason why it is not."""
        size = self.size and self.size * self.finer
        if self.crop:  # by whole pixels of the image, wherever its own middle is
            high = high[
                :,
                *(
                    slice(self.finer * start, self.finer * (start + self.crop))
                    for start in ((length // self.finer - self.crop) // 2 for length in high.shape[1:])
                ),
            ]
        expected = self.expected and (
            self.expected[0],
            *(length * self.finer for length in self.expected[1:]),
        )
        try:
            kept = replace(self, crop=None, size=size, expected=expected, dtype="float32").apply(high)
        except Unreadable as error:
            raise Unreadable(f"twin: {error}") from error
        return kept.astype(np.float32)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The image as it is kept; raises Unreadable with the reason why it is not."""
        if self.bands:
            if max(self.bands) >= len(image):
                raise Unreadable(f"no band {max(self.bands)}, there are 0 to {len(image) - 1}")
            image = image[list(self.bands)]
        if self.crop:
            top, left = ((length - self.crop) // 2 for length in image.shape[1:])
            if min(top, left) < 0:
                raise _misshapen(image)
            image = image[:, top : top + self.crop, left : left + self.crop]
        if image.dtype.kind not in "fiub":
            raise Unreadable("not numbers")
        if not image.size:
            raise _misshapen(image)
        with np.errstate(over="ignore"):
            kept = image if image.dtype == np.uint8 else image.astype(np.float32)
        nan, unseen = np.isnan(kept), np.zeros(kept.shape, bool)
        if self.masked is not None:
            unseen = nan if np.isnan(self.masked) else kept == self.masked
        if (nan & ~unseen).any():
            raise Unreadable("NaN, which --masked nan fills")
        if not (np.isfinite(kept) | unseen).all():
            raise Unreadable("infinite")
        if unseen.any():
            # Values that were seen, at random: a constant would be taken for sky without noise.
            kept, rng = kept.copy(), np.random.default_rng(0)
            for band, without in zip(kept, unseen, strict=True):
                band[without] = rng.choice(band[~without], without.sum()) if not without.all() else 0
        if kept.min() == kept.max():
            raise Unreadable("constant")
        if self.size and self.size != kept.shape[1]:
            kept = np.stack([_resized(band, self.size) for band in kept])
        if self.expected and kept.shape != self.expected:
            raise _misshapen(kept)
        if self.dtype == "uint8" and kept.dtype != np.uint8:
            raise Unreadable("not 8 bit, as the others are")
        return np.ascontiguousarray(kept, self.dtype if self.expected else None)


def _misshapen(image: np.ndarray) -> Unreadable:
    return Unreadable(f"{WRONG_SHAPE}, {' x '.join(map(str, image.shape))}")


def _resized(band: np.ndarray, size: int) -> np.ndarray:
    """One band at another size; brightness per area is kept, and a smaller image is averaged, not sampled."""
    if band.shape[0] != band.shape[1]:
        raise Unreadable("not square; set --crop")
    large = Image.fromarray(band.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    scaled = np.asarray(large)
    return np.rint(scaled).clip(0, 255).astype(np.uint8) if band.dtype == np.uint8 else scaled


def convert(
    inputs: list[str],
    out: str,
    *,
    name: str = "",
    domain: str = "",
    splits: Mapping[str, float] | None = None,
    seed: int = 0,
    bands: tuple[str, ...] = (),
    band_names: tuple[str, ...] = (),
    crop: int | None = None,
    size: int | None = None,
    masked: float | None = None,
    arcsec_per_pixel: float | None = None,
    classes: Mapping[str, str] | None = None,
    keep_columns: tuple[str, ...] | None = None,
    folds: Mapping[str, str] | None = None,
    options: Options | None = None,
    strict: bool = False,
    overwrite: bool = False,
    command: str = "convert",
    say: Callable[[str], None] = lambda text: None,
) -> Manifest:
    """Write the images of `inputs` as a set at `out`, and tell `say` what was taken, what was not, and why.

    splits      fraction of each; without it, folders named after two or more splits decide.
    bands       which to keep, by name or number, in this order; `band_names` says what the bands are.
    classes     class -> what it is called in the input, in the order of labels.
    folds       fold of a table -> split.
    """
    options = options or Options()
    writer = ShardWriter(out, overwrite=overwrite)  # refuses before any work is done
    _pairs(inputs)
    if folds:
        options = replace(options, required={**options.required, "--folds": options.fold_column})
    listed = [(path, formats.units(path, options)) for path in inputs]
    for path, some in listed:
        if _is_table(path) and not classes:
            _are_classes(path, some, options)
    _once(listed)
    units = _apart(listed)
    if all(map(_is_table, inputs)):
        _check_kept({name for unit in units for name in unit.columns}, keep_columns, inputs, options)
    shape, kept_bands, scale = _probe(
        units, options, bands, band_names, Shape(crop=crop, size=size, masked=masked), inputs
    )

    with bar() as progress:
        rows, blocks = _read(units, options, shape, seed, progress)
        rows.sort(key=lambda row: (row["order"], row["id"]))
        taken = [row for row in rows if not row["reason"]]
        _account(rows, inputs, shape, strict, say)
        brighter = _brightness(taken, shape, say)
        held = {name for row in rows for name in row["columns"]}
        _check_kept(held, keep_columns, inputs, options)
        if folds and options.fold_column not in held:
            raise DataError(
                f"{', '.join(inputs)} has no column {options.fold_column!r} for --folds; set --fold-column, or leave "
                "--folds out"
            )
        quantity = _quantities(taken, classes, options, say)
        _assign(taken, splits, folds, seed, options, say)
        known = _label(taken, classes)
        if keep_columns is not None:
            for row in taken:
                row["columns"] = {key: row["columns"].get(key) for key in (*keep_columns, *quantity)}
        columns = _columns(taken)
        writer.about |= {
            "name": name or writer.about["name"],
            "domain": domain,
            "bands": kept_bands,
            "arcsec_per_pixel": arcsec_per_pixel * scale if arcsec_per_pixel else None,
            "classes": known,
            "made": made_by(command, seed, inputs=[os.path.basename(path.rstrip("/")) for path in inputs]),
        }
        with writer:
            _list_skipped(writer, rows)
            _write(writer, blocks, shape, taken, columns, brighter, progress)
    return writer.manifest


def _is_table(path: str) -> bool:
    return hasattr(formats.formats().get(formats.suffix(path)), "units")


def _are_classes(path: str, units: Sequence[Unit], options: Options) -> None:
    """Raises DataError when a table's target column is of words, and these are no classes."""
    words = Counter(unit.label for unit in units if isinstance(unit.label, str))
    column = f"column {options.target_column!r} of {path}"
    numbers = [word for word in words if NUMBER.fullmatch(word)]
    others = [word for word in words if not NUMBER.fullmatch(word)]
    if others and (broken := [number for number in numbers if not float(number).is_integer()]):
        raise DataError(
            f"{column} has numbers, such as {broken[0]}, and words, such as {others[0]!r}; leave the words out, or "
            "set --target-column to a column of classes or of numbers"
        )
    if len(words) > WORDS and 2 * len(words) > words.total():
        raise DataError(
            f"{column} has {len(words)} different words in {words.total()} rows, such as {next(iter(words))!r}, which "
            "are no classes; set --target-column to a column of classes or of numbers"
        )


def _check_kept(
    held: set[str], keep_columns: tuple[str, ...] | None, inputs: list[str], options: Options
) -> None:
    """Raises DataError for a column to keep that no input has; those that are kept anyway may be named."""
    anyway = {options.path_column, options.target_column, "split"}
    if absent := [name for name in keep_columns or () if name not in held | anyway]:
        raise DataError(
            f"{', '.join(inputs)} has no column {absent[0]!r}{guess(absent[0], sorted(held))} for --keep-columns; "
            f"there are {', '.join(sorted(held)) or 'none beside path and target'}"
        )


def _pairs(inputs: list[str]) -> None:
    """Raises DataError when twins are given as inputs of their own, where nothing tells that they are."""
    called = {path: formats.RESOLUTION.fullmatch(_stem(path)) for path in inputs}
    low, high = (
        [path for path, match in called.items() if match and match[2].lower() == kind] for kind in "lh"
    )
    if low and high:
        raise DataError(f"{low[0]} and {high[0]} are twins: give the one folder that holds both")


def _once(listed: Sequence[tuple[str, list[Unit]]]) -> None:
    """Raises DataError for a file that comes with two inputs: its copies would lie in several splits."""
    first: dict[str, int] = {}
    for index, (path, units) in enumerate(listed):
        for file in {
            os.path.realpath(file) if "://" not in file else file for unit in units for file in unit.files
        }:
            if first.setdefault(file, index) != index:
                raise DataError(
                    f"{file} comes with {listed[first[file]][0]} and again with {path}; give it once"
                )


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path.rstrip("/")))[0]


def _apart(listed: Sequence[tuple[str, list[Unit]]]) -> list[Unit]:
    """Units that, of several inputs, carry their input's name in the id, or its whole path where two have one name."""
    if len(listed) == 1:
        return listed[0][1]
    stems = [_stem(path) for path, _ in listed]
    found = []
    for (path, units), stem in zip(listed, stems, strict=True):
        name = stem if stems.count(stem) == 1 else formats.stem_of(path.strip("/"))
        found += [replace(unit, id=name if unit.id == stem else f"{name}/{unit.id}") for unit in units]
    return found


def _probe(
    units: list[Unit],
    options: Options,
    bands: tuple[str, ...],
    band_names: tuple[str, ...],
    shape: Shape,
    inputs: list[str],
) -> tuple[Shape, tuple[str, ...], float]:
    """What most images look like, from a few: shape, names of the bands, and change of the pixel scale."""
    looks, why, finer, refused = Counter(), Counter(), Counter(), Counter()
    for unit in units[:: max(1, len(units) // PROBES)]:
        try:
            row = next(formats.rows(unit, options), None)
            if row is None:
                continue
            names = band_names or row.bands
            numbers = _band_numbers(bands, names, len(row.pixels))
            kept = replace(shape, bands=numbers).apply(row.pixels)
            names = tuple(names[i] for i in numbers) if numbers and names else tuple(names or bands)
            before = shape.crop or row.pixels.shape[1]
            if row.high is not None:
                finer[row.high.shape[1] / row.pixels.shape[1]] += 1
            looks[(kept.shape, str(kept.dtype), numbers, names, before / kept.shape[1])] += 1
        except Unreadable as error:
            why[str(error)] += 1
        except DataError as error:  # one odd image is skipped, of all of them the setting is wrong
            refused[str(error)] += 1
    if refused and refused.total() >= looks.total():
        raise DataError(refused.most_common(1)[0][0])
    if not looks:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in why.most_common())
        raise DataError(f"no image of {', '.join(inputs)} can be read: {reasons or 'there is none'}")
    (kept, dtype, numbers, names, scale), _ = looks.most_common(1)[0]
    if kept[1] != kept[2]:
        raise DataError(
            f"images of {', '.join(inputs)} are {kept[1]} x {kept[2]}; set --crop to make them square"
        )
    if (
        len({look[0] for look in looks}) > 1
        and not shape.size
        and looks.most_common(1)[0][1] < 0.5 * looks.total()
    ):
        sizes = ", ".join(" x ".join(map(str, look[0])) for look, _ in looks.most_common())
        raise DataError(
            f"images of {', '.join(inputs)} differ in shape: {sizes}; set --size, --crop or --bands"
        )
    dtype = "uint8" if {look[1] for look in looks} == {"uint8"} else "float32"
    names = names if len(names) == kept[0] else ()
    times = finer.most_common(1)[0][0] if finer else 1
    if finer and (times <= 1 or times != int(times)):
        raise DataError(
            f"twins in {', '.join(inputs)} are {times:g} times as large as their images, and a whole number is needed"
        )
    return replace(shape, bands=numbers, expected=kept, dtype=dtype, finer=int(times)), names, scale


def _band_numbers(bands: tuple[str, ...], names: tuple[str, ...], channels: int) -> tuple[int, ...] | None:
    if names and len(names) != channels:
        raise DataError(f"{channels} channels cannot be called {','.join(names)}; set --band-names")
    if not bands or (not names and len(bands) == channels and not all(band.isdigit() for band in bands)):
        return None  # all of them, and perhaps that is what they are called
    numbers = {**{str(i): i for i in range(channels)}, **{name: i for i, name in enumerate(names)}}
    if unknown := [band for band in bands if band not in numbers]:
        known = ",".join(names) or f"0 to {channels - 1}"
        raise DataError(
            f"no band {unknown[0]!r}; there are {known}; set --bands, or --band-names to name them"
        )
    return tuple(numbers[band] for band in bands)


def _read(
    units: list[Unit], options: Options, shape: Shape, seed: int, progress: Progress
) -> tuple[list[dict[str, Any]], list[Any]]:
    """What is known of every row, and the blocks with their pixels in Ray's object store."""
    from raylens.cluster import launch  # before ray, whose settings it makes

    launch.connect(dashboard=False)
    import ray

    ray_data()
    reference = ray.put(units)

    def read(batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        yield from _blocks(batch["item"], ray.get(reference), options, shape, seed)

    per_task = max(1, min(512, len(units) // 64))
    data = ray.data.from_items(list(range(len(units))), override_num_blocks=-(-len(units) // per_task))
    data = data.map_batches(read, batch_size=per_task)
    task, rows, blocks = progress.add_task("reading", total=len(units)), [], []
    seen = set()
    for bundle in data.iter_internal_ref_bundles():
        for block in bundle.block_refs:
            about = [json.loads(text) for text in ray.get(block)["about"].to_pylist()]
            seen.update(row["unit"] for row in about)
            rows += [{**row, "block": len(blocks), "place": i} for i, row in enumerate(about)]
            blocks.append(block)
            progress.update(task, completed=len(seen))
    progress.update(task, completed=len(units))
    return rows, blocks


def _blocks(
    numbers: np.ndarray, units: list[Unit], options: Options, shape: Shape, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """Rows of some units, a block at a time: pixels, and what is known of them as JSON."""
    held = []
    bands, height, width = shape.expected
    blank = np.zeros(shape.expected, shape.dtype)
    no_twin = np.zeros((bands, height * shape.finer, width * shape.finer), np.float32)
    for number in numbers:
        for image, high, row in images_of(units[number], options, shape):
            key = hashlib.sha256(f"{seed}:{row['id']}".encode()).digest()
            about = {**row, "unit": int(number), "order": int.from_bytes(key[:8]) >> 1}
            held.append((blank if image is None else image, no_twin if high is None else high, about))
            if len(held) == ROWS_PER_BLOCK:
                yield _block(held, shape)
                held = []
    if held:
        yield _block(held, shape)


def _block(held: list[tuple[np.ndarray, np.ndarray, dict[str, Any]]], shape: Shape) -> dict[str, np.ndarray]:
    pixels, highs, about = zip(*held, strict=True)
    block = {"pixels": np.stack(pixels), "about": np.array([json.dumps(row) for row in about])}
    return block | ({HIGH: np.stack(highs)} if shape.finer > 1 else {})


def images_of(
    unit: Unit, options: Options, shape: Shape
) -> Iterator[tuple[np.ndarray | None, np.ndarray | None, dict[str, Any]]]:
    """Each image of a unit and its twin, or None, and what is known of it, with the reason if it is None."""

    def about(row: Row, reason: str) -> dict[str, Any]:
        columns = dict(row.columns)
        if isinstance(row.label, float):  # a quantity, not a class
            columns[options.target_column] = row.label
        split = unit.split or formats.SPLITS.get(str(columns.pop("split", None)).lower())
        return {"id": row.id, "label": row.label, "split": split, "columns": columns, "reason": reason}

    try:
        for row in formats.rows(unit, options):
            try:
                image = shape.apply(row.pixels)
                if shape.names and not shape.bands and row.bands:
                    known_bands.compare("its file", row.bands, "the checkpoint", shape.names)
                if shape.finer == 1:
                    yield image, None, about(row, "")
                    continue
                if row.high is None:
                    raise Unreadable("no twin of a higher resolution")
                high = shape.twin(row.high)
                yield image, high, about(row, "") | {"brightness": _slope(image, high, shape.finer)}
            except (Unreadable, DataError) as error:
                yield None, None, about(row, str(error))
    except (Unreadable, DataError) as error:
        yield None, None, about(Row(np.empty(0), unit.label, unit.id), str(error))


def _slope(image: np.ndarray, high: np.ndarray, finer: int) -> float:
    """How much brighter an image (C, H, W) is than the mean of its twin's pixels; noise in it does not bias that."""
    bands, height, width = image.shape
    mean = high.reshape(bands, height, finer, width, finer).mean((2, 4), dtype=np.float64)
    mean -= mean.mean()
    return float((image * mean).sum() / max((mean * mean).sum(), 1e-300))


def _brightness(rows: list[dict[str, Any]], shape: Shape, say: Callable[[str], None]) -> float:
    """What twins are multiplied with, so that they are in the brightness of their images' larger pixels."""
    if shape.finer == 1:
        return 1.0
    slope, area = float(np.median([row["brightness"] for row in rows])), shape.finer**2
    say(f"each has a twin, {shape.finer} times finer")
    if abs(np.log(slope / area)) < 0.3 if slope > 0 else False:
        say(f"twins times {area}: pixels of theirs hold as much less light, as they are smaller")
        return float(area)
    if not 0.7 < slope < 1.4:
        say(
            f"images are {slope:.3g} times as bright as their twins: are these of the same sky, in the same units?"
        )
    return 1.0


def _account(
    rows: list[dict[str, Any]], inputs: list[str], shape: Shape, strict: bool, say: Callable[[str], None]
) -> None:
    """Says how many images were taken, and how many were not for which reason."""
    unfit = [(row["id"], row["reason"]) for row in rows if row["reason"]]
    told = counted(unfit)
    if any(reason.startswith(WRONG_SHAPE) for _, reason in unfit):
        told += f"; the set is {' x '.join(map(str, shape.expected))}: --size or --crop may fit them in"
    if strict and unfit:
        raise DataError(f"--strict: {len(unfit)} of {len(rows)} images are unfit: {told}")
    if len(unfit) == len(rows):
        raise DataError(f"nothing to take from {', '.join(inputs)}: {told}")
    say(f"taken {len(rows) - len(unfit)} of {len(rows)} images")
    if unfit:
        most = ", most of the images" if 2 * len(unfit) > len(rows) else ""
        say(f"skipped {len(unfit)}{most}: {told}; {SKIPPED} of the set lists them")


def counted(unfit: Sequence[tuple[str, str]]) -> str:
    """How many of the images (id, reason) could not be read for which reason, with an example of each."""
    reasons, first = Counter(reason for _, reason in unfit), {reason: id for id, reason in reversed(unfit)}
    told = [f"{count} {reason} (such as {first[reason]})" for reason, count in reasons.most_common(REASONS)]
    if rest := len(reasons) - len(told):
        left = len(unfit) - sum(count for _, count in reasons.most_common(REASONS))
        told.append(f"{left} for {rest} other reason(s)")
    return "; ".join(told)


def _list_skipped(writer: ShardWriter, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put what was left out, and why, beside the shards."""
    if unfit := [(row["id"], row["reason"]) for row in rows if row["reason"]]:
        with writer.fs.open_output_stream(f"{writer.folder}/{SKIPPED}") as file:
            file.write(pd.DataFrame(unfit, columns=["id", "reason"]).to_csv(index=False).encode())


def _quantities(
    rows: list[dict[str, Any]],
    classes: Mapping[str, str] | None,
    options: Options,
    say: Callable[[str], None],
) -> tuple[str, ...]:
    """The column of the labels, if those of any file are numbers and not classes: then those of all are.

    Raises DataError where some are words, or `classes` are asked for.
    """
    found = [row["label"] for row in rows if isinstance(row["label"], float)]
    if not found:
        return ()
    one = next((number for number in found if not formats.may_be_class(number)), found[0])
    if classes:
        raise DataError(
            f"--classes was given, and labels are numbers such as {one:g}; leave it out, or set --target-column"
        )
    for row in rows:
        if isinstance(row["label"], str):
            raise DataError(
                f"labels are numbers, such as {one:g}, and words, such as {row['label']!r}; convert these inputs "
                "one by one, or set --target-column"
            )
        if row["label"] is not None:
            row["columns"][options.target_column], row["label"] = float(row["label"]), None
    say(f"labels are numbers such as {one:g}, no classes: they are the column {options.target_column}")
    return (options.target_column,)


def _assign(
    rows: list[dict[str, Any]],
    splits: Mapping[str, float] | None,
    folds: Mapping[str, str] | None,
    seed: int,
    options: Options,
    say: Callable[[str], None],
) -> None:
    """Gives every row its split: by its fold, by what the input says, or drawn class by class."""
    if folds:
        for row in rows:
            fold = re.sub(r"\.0$", "", str(row["columns"].get(options.fold_column)))
            if fold not in folds:
                raise DataError(
                    f"fold {fold!r} of {row['id']} has no split; set --folds, such as 0=test,1=train"
                )
            row["split"] = folds[fold]
        return
    given = {row["split"] for row in rows}
    if splits is None and len(given) > 1 and None not in given:
        say(f"splits as the input has them: {', '.join(sorted(given))}")
        return
    splits = splits or FRACTIONS
    by_class: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        by_class.setdefault(row["label"], []).append(row)
    for members in by_class.values():  # in the order of the hashes, which is random
        ends = np.cumsum(shares(len(members), list(splits.values())))
        for i, row in enumerate(members):
            row["split"] = list(splits)[int(np.searchsorted(ends, i, side="right"))]
    drawn = ", ".join(f"{name} {fraction:g}" for name, fraction in splits.items())
    say(f"splits drawn class by class with seed {seed}: {drawn}")


def shares(rows: int, fractions: list[float]) -> list[int]:
    """Whole numbers nearest to the fractions of `rows`, each at least 1 if there are rows enough."""
    least = [int(rows >= len(fractions) and fraction > 0) for fraction in fractions]
    counts = [max(few, int(rows * fraction)) for few, fraction in zip(least, fractions, strict=True)]
    while (short := rows - sum(counts)) != 0:
        lacking = np.multiply(rows, fractions) - counts
        lacking[(short < 0) & np.equal(counts, least)] = np.inf
        counts[int(np.argmax(lacking) if short > 0 else np.argmin(lacking))] += 1 if short > 0 else -1
    return counts


def _label(rows: list[dict[str, Any]], wanted: Mapping[str, str] | None) -> tuple[str, ...]:
    """Replaces every row's label by its number, and returns the classes."""
    found = {row["label"] for row in rows} - {None, UNLABELLED}
    if not found:
        classes, number = (), {}
    elif wanted:
        classes = tuple(wanted)
        number = {alias: k for k, (name, other) in enumerate(wanted.items()) for alias in (name, other)}
        asked = {int(alias): k for alias, k in number.items() if re.fullmatch(r"-?\d+", alias)}
        number |= asked or {k: k for k in range(len(wanted))}
    elif found <= {0, 1}:
        classes, number = LENS_CLASSES, {0: 0, 1: 1}
    elif all(isinstance(label, int) for label in found):
        classes = tuple(str(k) for k in range(max(found) + 1))
        number = {k: k for k in range(max(found) + 1)}
    elif {plain(str(label)) for label in found} <= {*NEGATIVE[:4], *POSITIVE}:
        classes = LENS_CLASSES
        number = {label: int(plain(label) in POSITIVE) for label in found}
    else:
        classes = tuple(sorted(map(str, found), key=_rank))
        number = {name: k for k, name in enumerate(classes)}
    if strange := sorted(map(str, found - set(number))):
        raise DataError(
            f"label {strange[0]!r} is none of the classes {', '.join(classes)}; set --classes, by the labels "
            f"{', '.join(sorted(map(str, found)))}: such as --classes CLASS=LABEL,CLASS=LABEL"
        )
    for row in rows:
        row["label"] = number.get(row["label"], UNLABELLED)
    return classes


def _rank(name: str) -> tuple[int, str]:
    """The negative class first, then DeepLense's in their order, then others by name."""
    word = plain(name)
    return (ORDER.index(word) if word in ORDER else len(ORDER), word)


def _columns(rows: list[dict[str, Any]]) -> dict[str, pa.Array]:
    """What rows know beside pixels and label; a row without it has a null."""
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row["columns"]):
        values = [row["columns"].get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int, float}:
            values = [None if value is None else float(value) for value in values]
        elif len(kinds) > 1:
            values = [None if value is None else str(value) for value in values]
        if kinds:
            columns[f"{name}_" if name in ("pixels", "label", "id", HIGH) else name] = pa.array(values)
    return columns


def _write(
    writer: ShardWriter,
    blocks: list[Any],
    shape: Shape,
    taken: list[dict[str, Any]],
    columns: dict[str, pa.Array],
    brighter: float,
    progress: Progress,
) -> None:
    """Pixels in the order of the hashes, each to its split, as many at a time as MEMORY holds."""
    import ray

    task = progress.add_task("writing", total=len(taken))
    kinds = {"pixels": (shape.expected, np.dtype(shape.dtype))}
    if shape.finer > 1:
        bands, height, width = shape.expected
        kinds[HIGH] = ((bands, height * shape.finer, width * shape.finer), np.dtype("float32"))
    step = max(1, MEMORY // sum(int(np.prod(each)) * dtype.itemsize for each, dtype in kinds.values()))
    for start in range(0, len(taken), step):
        some = taken[start : start + step]
        images = {name: np.empty((len(some), *each), dtype) for name, (each, dtype) in kinds.items()}
        wanted: dict[int, list[int]] = {}
        for i, row in enumerate(some):
            wanted.setdefault(row["block"], []).append(i)
        for block, places in wanted.items():
            held = ray.get(blocks[block])
            for name, into in images.items():
                those = held[name].combine_chunks().to_numpy(zero_copy_only=False)
                for i in places:
                    into[i] = those[some[i]["place"]]
        for split in dict.fromkeys(row["split"] for row in some):
            index = np.array([i for i, row in enumerate(some) if row["split"] == split])
            twins = {HIGH: brighter * images[HIGH][index]} if HIGH in images else {}
            writer.add(
                split,
                images["pixels"][index],
                np.array([some[i]["label"] for i in index]),
                [some[i]["id"] for i in index],
                {name: values.take(pa.array(index + start)) for name, values in columns.items()} | twins,
            )
        progress.update(task, completed=start + len(some))
