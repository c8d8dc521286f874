"""What images come in. A format is a module here with SUFFIXES and rows(path, options).

A unit is what one task reads: a file, or one object's files in several band folders.
"""

import importlib
import io
import os
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from pyarrow import fs as arrow_fs

from raylens.data.shards import UNLABELLED
from raylens.errors import DataError, first_line
from raylens.storage import PASSING, filesystem, waiting

Label = str | int | float | None
"""A class by name or number, or a quantity, float; see `settled`."""
CLASSES = 100
"""Whole numbers below it are classes."""
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
NEGATIVE = ("nonlens", "nonlenses", "nolens", "nolenses", "no", "nosub")
POSITIVE = ("lens", "lenses")
KNOWN = (*NEGATIVE, *POSITIVE, "sphere", "cdm", "vort", "axion", "sub", "unlabelled")
RESOLUTION = re.compile(r"(?i)(?:(.+)_)?([lh])r")
"""Folders LR and HR, or names that end in _LR and _HR."""
BANDS = re.compile(r"_([ugrizyjhk]+)$")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to read what a file's own names and shapes do not tell."""

    pixels_key: str | None = None
    label_key: str | None = None
    labels: str | None = None
    """A .npy file with one label for each image of a .npy stack."""
    hdu: tuple[str, ...] = ()
    """Names or numbers of the FITS image HDUs to take as bands."""
    path_column: str = "path"
    target_column: str = "target"
    fold_column: str = "fold"
    required: Mapping[str, str] = field(default_factory=dict)
    """Flag -> the column that a table must have for it."""


class Row(NamedTuple):
    """One image (C, H, W) and what is known of it."""

    pixels: np.ndarray
    label: Label = None
    id: str = ""
    columns: Mapping[str, Any] = {}
    bands: tuple[str, ...] = ()
    high: np.ndarray | None = None
    """Its twin of a higher resolution (C, f H, f W)."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one task reads; label, split and columns hold where the file itself says nothing."""

    files: tuple[str, ...]
    id: str
    label: Label = None
    split: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    high: str = ""
    """The file of twins of a higher resolution."""
    missing: str = ""
    """Why the unit cannot be read, if that is known already."""
    stamp: str = ""
    """Size and time of change of its files, where a folder was listed; see `stamps`."""


class Unreadable(Exception):
    """Why a file gives no image; convert counts these."""


class Unreached(Exception):
    """A store, or this machine, did not answer, which says nothing of its files: whatever reads them ends."""


@cache
def formats() -> dict[str, ModuleType]:
    """Suffix -> the format that reads it."""
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return {suffix: module for module in modules for suffix in module.SUFFIXES}


def suffix(path: str) -> str:
    """By which a file's format is known; a FITS file may be compressed."""
    return os.path.splitext(_unpacked(path))[1].lower()


def stem_of(path: str) -> str:
    """A path without its suffix."""
    return os.path.splitext(_unpacked(path))[0]


def _unpacked(path: str) -> str:
    return path[: -len(".gz")] if re.search(r"(?i)\.(fits|fit)\.gz$", path) else path


def opened(path: str) -> BinaryIO:
    """A file to read and to close, wherever it lies. Raises Unreached."""
    fs, name = filesystem(path)
    if isinstance(fs, arrow_fs.LocalFileSystem):
        return open(name, "rb")
    try:
        with waiting(fs).open_input_stream(name) as file:
            return io.BytesIO(file.read())
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        if "ACCESS_DENIED" in str(error):
            raise
        raise Unreached(
            f"{path} could not be fetched: {first_line(error)}; the same command tries again"
        ) from error


def rows(unit: Unit, options: Options) -> Iterator[Row]:
    """The images of a unit."""
    if unit.missing:
        raise Unreadable(unit.missing)
    try:
        files = [*unit.files, unit.high] if unit.high else unit.files
        read = [formats()[suffix(file)].rows(file, options) for file in files]
        for parts in zip(*read, strict=True):
            *parts, high = parts if unit.high else (*parts, None)
            first = parts[0]
            if high and high.id != first.id:
                raise Unreadable("twin of another image")
            yield Row(
                pixels=np.concatenate([part.pixels for part in parts]) if len(parts) > 1 else first.pixels,
                label=unit.label if first.label is None else first.label,
                id=f"{unit.id}/{first.id}" if first.id else unit.id,
                columns={**unit.columns, **first.columns},
                bands=sum((part.bands for part in parts), ()),
                high=high.pixels if high else None,
            )
    except (Unreadable, Unreached, DataError):
        raise
    except FileNotFoundError as error:
        raise Unreadable("no such file") from error
    except PermissionError as error:
        raise Unreadable("not readable by this user") from error
    except MemoryError:
        raise
    except Exception as error:  # readers of seven formats raise anything on broken files
        if isinstance(error, OSError) and error.errno in PASSING:
            raise Unreached(
                f"{', '.join(unit.files)}: {first_line(error)}; the same command tries again"
            ) from error
        cut = re.search(
            "trunc|EOF|No data left|too small|expected|reshape|ended|greater than file|not a zip|empty",
            str(error),
        )
        raise Unreadable("truncated" if cut else f"unreadable ({first_line(error)})") from error


def units(path: str, options: Options) -> list[Unit]:
    """What `path` holds: a folder of files, a table that lists files, or one file."""
    fs, root = filesystem(path)
    info = fs.get_file_info(root)
    if info.type == arrow_fs.FileType.NotFound:
        raise DataError(f"no such file or folder: {path}")
    if info.type == arrow_fs.FileType.File:
        if suffix(root) not in formats():
            raise DataError(
                f"cannot read {path}; readable are {', '.join(sorted(formats()))}, and folders of them"
            )
        listing = getattr(formats()[suffix(root)], "units", None)
        stem = stem_of(os.path.basename(root))
        return listing(path, options) if listing else [Unit(files=(path,), id=stem, label=place(stem, ())[1])]
    listed = [file for file in fs.get_file_info(arrow_fs.FileSelector(root, recursive=True)) if file.is_file]
    names = {os.path.relpath(file.path, root): _stamp(file) for file in listed}
    names = {
        name: names[name]
        for name in sorted(names)
        if suffix(name) in formats() and not hasattr(formats()[suffix(name)], "units")
    }
    if not names:
        raise DataError(f"no images in {path}; readable are {', '.join(sorted(formats()))}")
    return _folder(path.rstrip("/"), names)


def stamps(units: Sequence[Unit]) -> list[str]:
    """Size and time of change of each unit's files, by which it is seen that one was written again.

    Of those that a table lists in a store, folders are listed whole: to ask for each file would take hours.
    """
    folders: dict[str, set[str]] = {}
    for folder, name in (os.path.split(file) for unit in units if not unit.stamp for file in unit.files):
        folders.setdefault(folder, set()).add(name)
    known: dict[tuple[str, str], str] = {}
    for folder, names in folders.items():
        fs, root = filesystem(folder)
        fs, listed = waiting(fs), []
        if len(names) > 1 and not isinstance(fs, arrow_fs.LocalFileSystem):
            with suppress(OSError):  # whoever may read a file need not be allowed to list its folder
                listed = fs.get_file_info(arrow_fs.FileSelector(root, allow_not_found=True))
        found = {info.base_name: info for info in listed}
        known |= {(folder, name): _stamp(found.get(name) or _info(fs, f"{root}/{name}")) for name in names}
    return [unit.stamp or " ".join(known[os.path.split(file)] for file in unit.files) for unit in units]


def _info(fs: arrow_fs.FileSystem, path: str) -> arrow_fs.FileInfo | None:
    try:
        return fs.get_file_info(path)
    except OSError:  # it will be told as one that cannot be read
        return None


def _stamp(info: arrow_fs.FileInfo | None) -> str:
    return f"{info.size}-{info.mtime_ns}" if info else ""


def _folder(path: str, stamps: Mapping[str, str]) -> list[Unit]:
    """A unit for each file, or for each object if its bands lie in folders Band1, Band2, ... side by side."""
    objects: dict[str, dict[str, str]] = {}
    names, highs = _twins([*stamps])
    places = {called: _banded(called) for called in names}
    numbered = _numbered(path, places)
    for called, (folders, band, stem) in places.items():
        key = "/".join([*folders, _number(stem) if band and folders in numbered else stem])
        while band in objects.get(key, {}):  # the same stem with another suffix
            key += "'"
        objects.setdefault(key, {})[band] = called
    bands = sorted({band for files in objects.values() for band in files})
    found = []
    for key, files in objects.items():
        *folders, stem = key.split("/")
        split, label = place(stem, folders) if folders else place(stem, [os.path.basename(path)])
        absent = [band for band in bands if band and band not in files] if any(files) else []
        missing = f"no file in {', '.join(absent)}" if absent else ""
        if highs and (called := files.get("")) not in highs:
            missing = "no twin of a higher resolution"
        elif highs and not names[called]:
            missing = "no image of the lower resolution"
        found.append(
            Unit(
                files=tuple(f"{path}/{names[files[band]]}" for band in sorted(files)),
                id=key,
                label=label,
                split=split,
                high=f"{path}/{highs[files['']]}" if highs and not missing else "",
                missing=missing,
                stamp=" ".join(stamps.get(names[files[band]], "") for band in sorted(files)),
            )
        )
    return found


def _banded(name: str) -> tuple[tuple[str, ...], str, str]:
    """A file's folders but for the one of its band, that one, and its stem."""
    *folders, file = name.split("/")
    band = next((folder for folder in folders if re.fullmatch(r"(?i)band_?\w+", folder)), "")
    return tuple(folder for folder in folders if folder != band), band, stem_of(file)


def _number(stem: str) -> str:
    return (re.findall(r"\d+", stem) or [stem])[-1]


def _numbered(path: str, places: Mapping[str, tuple[tuple[str, ...], str, str]]) -> set[tuple[str, ...]]:
    """Folders of several bands in which no name is the same, so that an object is the last number in its files' names.

    Raises DataError where two files of a band have one number: nothing tells then which belong together.
    """
    bands: dict[tuple[str, ...], set[str]] = {}
    holders: dict[tuple[tuple[str, ...], str], set[str]] = {}
    for folders, band, stem in places.values():
        if band:
            bands.setdefault(folders, set()).add(band)
            holders.setdefault((folders, stem), set()).add(band)
    shared = {folders for (folders, _), held in holders.items() if len(held) > 1}
    numbered = {folders for folders, held in bands.items() if len(held) > 1} - shared
    first: dict[tuple, str] = {}
    for called, (folders, band, stem) in places.items():
        if band and folders in numbered:
            other = first.setdefault((folders, band, _number(stem)), called)
            if stem_of(other.rpartition("/")[2]) != stem:
                raise DataError(
                    f"{path}: {other} and {called} have one number, {_number(stem)}, and no name is in two bands; give "
                    "the files of an object one name in all of them"
                )
    return numbered


def _twins(names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Files as they would be called without LR and HR in their paths, and the twins of those that have any.

    A twin without its image is there without a file. Where nothing is called LR or nothing HR, all are images.
    """
    found: dict[str, dict[str, str]] = {"": {}, "l": {}, "h": {}}
    for name in names:
        *folders, file = name.split("/")
        stem, dot = os.path.splitext(file)
        parts, kind = [], ""
        for part in (*folders, stem):
            match = RESOLUTION.fullmatch(part)
            kind = match[2].lower() if match else kind
            parts.append(part if match is None else match[1] or "")
        found[kind]["/".join(filter(None, parts)) + dot] = name
    if not found["l"] or not found["h"]:
        return {name: name for name in names}, {}
    if not found["l"].keys() & found["h"].keys():
        low, high = (next(iter(found[kind].values())) for kind in "lh")
        raise DataError(
            f"{low} and {high} make no pair: twins bear one name, suffix and all, beside LR and HR"
        )
    return dict.fromkeys(found["h"], "") | found[""] | found["l"], found["h"]


def plain(name: str) -> str:
    """A class name as it is compared: lower case, without separators."""
    return re.sub(r"[\W_]", "", name.lower())


def place(stem: str, folders: list[str] | tuple[str, ...]) -> tuple[str | None, str | None]:
    """Split and class that a file's folders and name speak of: train/lens/7, train_lenses/7, or cdm."""
    split, candidates = None, []
    for folder in folders:
        word, _, rest = folder.partition("_")
        if folder.lower() in SPLITS or (word.lower() in SPLITS and plain(rest) in KNOWN):
            split, folder = SPLITS[word.lower()], rest
        if folder:
            candidates.append(folder)
    known = [name for name in (stem, *candidates[::-1]) if plain(name) in KNOWN]
    last = candidates[-1] if candidates and (len(folders) > 1 or split) else None
    label = known[0] if known else last
    return split, None if label and plain(label) == "unlabelled" else label


def settled(labels: Iterable[Any]) -> list[Label]:
    """A file's labels as classes, int or str, or all of its numbers as quantities, float; what is NaN is unknown.

    Numbers are classes if all of them may be.
    """
    known = [None if label is None or label != label else label for label in labels]
    kind = int if all(may_be_class(label) for label in known if isinstance(label, int | float)) else float
    return [kind(label) if isinstance(label, int | float) else label for label in known]


def may_be_class(number: float) -> bool:
    """Whether a number is whole, and from 0 to below CLASSES, or UNLABELLED."""
    return float(number).is_integer() and UNLABELLED <= number < CLASSES


def channels_first(image: np.ndarray) -> np.ndarray:
    """(H, W), (C, H, W) or (H, W, C) as (C, H, W)."""
    if image.ndim == 2:
        return image[None]
    if image.ndim != 3:
        raise Unreadable(f"wrong shape, {' x '.join(map(str, image.shape))}")
    return np.moveaxis(image, -1, 0) if image.shape[-1] <= 12 < image.shape[0] else image


def is_stack(shape: tuple[int, ...]) -> bool:
    """Whether an array holds many images; (N, H, W) does unless N or W is a number of channels."""
    return len(shape) == 4 or (len(shape) == 3 and shape[0] > 12 < shape[-1])


def stack_rows(arrays: Mapping[str, Any], options: Options) -> Iterator[Row]:
    """The images of named arrays: one stack with labels and columns beside it, or a stack for each class."""
    shapes = {name: array.shape for name, array in arrays.items()}
    label_key = _key(options.label_key, shapes, "--label-key", ("label", "labels", "target", "targets", "y"))
    images = [name for name, shape in shapes.items() if name != label_key and len(shape) in (2, 3, 4)]
    stacks = [name for name in images if is_stack(shapes[name])] or images
    pixels_key = _key(options.pixels_key, shapes, "--pixels-key", ("pixels", "images", "image", "x", "data"))
    pixels_key = pixels_key or (stacks[0] if len(stacks) == 1 else None)
    if not stacks or (pixels_key is None and label_key):
        raise DataError(f"which of {', '.join(shapes)} are the images? set --pixels-key")
    for name in [pixels_key] if pixels_key else stacks:
        array = arrays[name]
        many = is_stack(array.shape) or (label_key and shapes[label_key][:1] == array.shape[:1])
        stack = array if many else array[:][None]
        beside = {
            key: arrays[key][:] for key, shape in shapes.items() if key != name and shape == stack.shape[:1]
        }
        beside.pop(label_key, None)
        labels = _labels(arrays[label_key][:], len(stack)) if label_key else None
        if options.label_key and labels is None:
            shape = " x ".join(map(str, shapes[label_key]))
            raise DataError(
                f"the array {label_key!r}, {shape}, is no label of each of {len(stack)} images, one-hot or not; set "
                "--label-key to another"
            )
        bands = tuple(match[1]) if (match := BANDS.search(name.lower())) else ()
        for i, image in enumerate(stack):
            columns = {key: _scalar(values[i]) for key, values in beside.items()}
            label = name if pixels_key is None else None if labels is None else labels[i]
            id = f"{name}/{i}" if pixels_key is None else str(i) if many else ""
            yield Row(channels_first(image), label, id, columns, bands)


def _labels(labels: np.ndarray, images: int) -> list[Label] | None:
    """One label for each image, of an array (N,), (N, 1) or one-hot (N, K); None for any other."""
    if (
        labels.ndim == 2
        and labels.shape[1] > 1
        and np.isin(labels, (0, 1)).all()
        and (labels.sum(1) == 1).all()
    ):
        labels = labels.argmax(-1)
    return settled(map(_scalar, labels.reshape(-1))) if labels.size == images == len(labels) else None


def _key(asked: str | None, shapes: Mapping[str, Any], flag: str, usual: tuple[str, ...]) -> str | None:
    if asked and asked not in shapes:
        raise DataError(f"no array {asked!r} for {flag}; there are {', '.join(shapes)}")
    return asked or next((name for name in shapes if name.lower() in usual), None)


def _scalar(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode() if isinstance(value, bytes) else value
