"""Shards: a folder of Parquet files and the manifest that explains them.

A set is readable once its manifest.json stands beside its files, and that is written last.
Local folders, s3:// and gs:// are alike.
"""

import hashlib
import json
import os
import platform
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs as arrow_fs

from raylens.errors import DataError, first_line
from raylens.find import guess
from raylens.storage import PASSING, filesystem

MANIFEST = "manifest.json"
SKIPPED = "skipped.csv"
"""Images that a conversion left out, and why."""
UNLABELLED = -1
LENS_CLASSES = ("nonlens", "lens")
ROWS_PER_GROUP = 500
ROWS_PER_FILE = 16 * ROWS_PER_GROUP
RESERVED = ("pixels", "label", "id", "split")
HIGH = "high"
"""Column of the twin of each image at a higher resolution, in the same units, of the same field."""
_LEFT = re.compile(r".+-\d{5}\.parquet|" + re.escape(SKIPPED))
"""Files that an interrupted writer leaves in object storage, where nothing can be renamed into place."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One part of a set: its rows, its files, and how many rows each class has."""

    rows: int
    files: list[dict[str, Any]]
    """Each file's name, rows and sha256."""
    labels: dict[str, int]
    """Rows of each class, and of "unlabelled" if there are any."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a set holds and how it was made."""

    name: str
    domain: str
    """"source", "target", or any other word for where the images come from."""
    size: int
    """Height and width in pixels."""
    channels: int
    bands: tuple[str, ...]
    arcsec_per_pixel: float | None
    classes: tuple[str, ...]
    """Label k means classes[k]."""
    splits: dict[str, Split]
    statistics: dict[str, list[float]]
    """Mean, std, min and max of each channel, of the train split if there is one, else of all rows."""
    dtype: str = "float32"
    high: int | None = None
    """Height and width of the twins in the column `high`; without one there are none."""
    columns: tuple[str, ...] = ()
    """What each row keeps beside pixels, label, id and split."""
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(split.rows for split in self.splits.values())

    def to_json(self) -> str:
        """As manifest.json has it."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        try:
            values = json.loads(text)
            for key in ("bands", "classes", "columns"):
                values[key] = tuple(values[key])
            values["splits"] = {name: Split(**split) for name, split in values["splits"].items()}
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not a manifest: {type(error).__name__}: {error}") from error


def made_by(
    command: str, seed: int | None = None, *, packages: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    """The manifest's record of where a set comes from; `packages` are those whose version matters for it."""
    versions = {name: version(name) for name in ("raylens", "numpy", "pyarrow", *packages)}
    return {
        "command": command,
        "seed": seed,
        "versions": versions | {"python": platform.python_version()},
    } | more


def read_manifest(path: str | os.PathLike) -> Manifest:
    """The manifest of the set at `path`. Raises DataError when there is none, or a broken one."""
    fs, root = filesystem(path)
    try:
        with fs.open_input_stream(f"{root}/{MANIFEST}") as file:
            return Manifest.from_json(file.read().decode())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"no data set at {path}: it has no {MANIFEST}; make one with "
            "`python -m raylens.data convert` or `python -m raylens.data simulate`"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {path}/{MANIFEST}: it is not text; make the set again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}/{MANIFEST}: {first_line(error)}") from error
    except DataError as error:
        raise DataError(f"cannot use {path}/{MANIFEST}: {error}; make the set again") from error


def split_files(path: str | os.PathLike, split: str) -> list[str]:
    """The Parquet files of one split, as paths of the same kind as `path`. Raises DataError when there is no such."""
    splits = read_manifest(path).splits
    if split not in splits:
        hint = guess(split, list(splits))
        raise DataError(f"{path} has no split {split!r}{hint}; it has {', '.join(splits)}")
    return [f"{os.fspath(path).rstrip('/')}/{file['name']}" for file in splits[split].files]


def read_split(
    path: str | os.PathLike, split: str, columns: tuple[str, ...] = ("pixels", "label", "id")
) -> dict[str, np.ndarray]:
    """Columns of one split as arrays in the order they were written; a missing label is -1.

    Pixels are (N, C, H, W), labels, ids and numbers (N,). Raises DataError when there is no such set, split or column,
    or a file is broken, OSError when it is out of reach.
    """
    known = RESERVED + read_manifest(path).columns
    if unknown := [column for column in columns if column not in known]:
        raise DataError(f"{path} has no column {unknown[0]!r}; it has {', '.join(known)}")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for name in split_files(path, split):
        fs, file = filesystem(name)
        with reading(name):
            table = pq.read_table(file, columns=list(columns), filesystem=fs, partitioning=None)
        for column in columns:
            parts[column].append(_array(column, table[column]))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Names the file of a set that is read: where it is broken or gone a DataError, out of reach an OSError."""
    try:
        yield
    except MemoryError:  # Arrow's own is one of its exceptions too
        raise
    except (OSError, pa.ArrowException) as error:
        away = isinstance(error, OSError) and (error.errno in PASSING or "AWS Error" in str(error))
        if away and not isinstance(error, FileNotFoundError):
            raise OSError(
                f"{path} could not be fetched: {first_line(error)}; the same command tries again"
            ) from error
        raise DataError(f"cannot read {path}: {first_line(error)}; make the set again") from error


def _column(values: Any) -> pa.Array:
    """Numbers, words, or images (N, C, H, W), as Arrow keeps them."""
    if isinstance(values, np.ndarray) and values.ndim == 4:
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
    return values if isinstance(values, pa.Array) else pa.array(values)


def _array(name: str, column: pa.ChunkedArray) -> np.ndarray:
    if isinstance(column.type, pa.FixedShapeTensorType):
        return np.concatenate([chunk.to_numpy_ndarray() for chunk in column.chunks])
    if name == "label":
        return pc.fill_null(column, UNLABELLED).to_numpy()
    values = column.to_numpy()
    return values.astype(str) if pa.types.is_string(column.type) else values


def verify(path: str | os.PathLike) -> None:
    """Raises DataError if a file is missing or its bytes are not those that were written."""
    for split in read_manifest(path).splits.values():
        for file in split.files:
            fs, name = filesystem(f"{os.fspath(path).rstrip('/')}/{file['name']}")
            digest = hashlib.sha256()
            try:
                with fs.open_input_stream(name) as stream:
                    while chunk := stream.read(1 << 20):
                        digest.update(chunk)
            except OSError as error:
                raise DataError(f"{path} lacks {file['name']}: {first_line(error)}") from error
            if digest.hexdigest() != file["sha256"]:
                raise DataError(
                    f"{path}/{file['name']} is not what was written: its sha256 differs; make the set again"
                )


class ShardWriter:
    """Writes a set: `with ShardWriter(out, ...) as writer: writer.add(...)`, as often as needed.

    It appears at `out` whole when the block ends, and not at all if the block raises.
    """

    def __init__(
        self,
        out: str | os.PathLike,
        *,
        name: str = "",
        domain: str = "",
        bands: tuple[str, ...] = (),
        arcsec_per_pixel: float | None = None,
        classes: tuple[str, ...] = LENS_CLASSES,
        made: dict[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.out = os.fspath(out).rstrip("/")
        self.fs, self.root = filesystem(self.out)
        self.about: dict[str, Any] = {
            "name": name or os.path.basename(self.root),
            "domain": domain,
            "bands": tuple(bands),
            "arcsec_per_pixel": arcsec_per_pixel,
            "classes": tuple(classes),
            "made": made or {},
        }
        self.local = isinstance(self.fs, arrow_fs.LocalFileSystem)
        self.manifest: Manifest | None = None
        self._splits: dict[str, _SplitWriter] = {}
        self._schema: pa.Schema | None = None
        self._refuse_or_keep(overwrite)
        parent, base = os.path.split(self.root)
        # A rename is atomic only within one file system, so the unfinished set is a hidden sibling.
        self.folder = f"{parent}/.{base}.partial-{uuid.uuid4().hex[:8]}" if self.local else self.root

    def _refuse_or_keep(self, overwrite: bool) -> None:
        try:
            held = self.fs.get_file_info(arrow_fs.FileSelector(self.root, allow_not_found=True))
        except OSError as error:
            raise DataError(f"cannot write to {self.out}: {first_line(error)}") from error
        ours = any(info.base_name == MANIFEST for info in held)
        if ours and not overwrite:
            raise DataError(f"{self.out} already holds a data set; name another --out, or add --overwrite")
        left = not self.local and all(_LEFT.fullmatch(info.base_name) for info in held)
        if held and not ours and not left:
            raise DataError(
                f"{self.out} holds other files and no data set; name an empty or new folder as --out"
            )

    def __enter__(self) -> "ShardWriter":
        try:
            if not self.local:
                if self.fs.get_file_info(f"{self.root}/{MANIFEST}").is_file:
                    self.fs.delete_file(f"{self.root}/{MANIFEST}")  # unreadable from here on
                self.fs.delete_dir_contents(self.root, missing_dir_ok=True)
            self.fs.create_dir(self.folder)
        except OSError as error:
            raise DataError(f"cannot write to {self.out}: {first_line(error)}") from error
        return self

    def add(
        self,
        split: str,
        pixels: np.ndarray,
        labels: np.ndarray | None,
        ids: list[str],
        columns: dict[str, Any] | None = None,
    ) -> None:
        """Appends rows to a split: pixels (N, C, H, W), uint8 or float32, and labels (N,), of which -1 is unknown.

        Each of the `columns` has N numbers or words, or images. Raises DataError for images that are not square, labels
        that are no class, a column that each set has, rows unlike the first, and a split that cannot name files.
        """
        if not re.fullmatch(r"\w[\w.-]*", split):
            raise DataError(
                f"a split cannot be called {split!r}: give it a name of letters, numbers, - and _"
            )
        if pixels.ndim != 4 or pixels.shape[2] != pixels.shape[3]:
            raise DataError(
                f"images of shape {tuple(pixels.shape[1:])} are not (channels, size, size); "
                "set --size or --crop to make them square"
            )
        if clash := sorted(set(columns or ()) & set(RESERVED)):
            raise DataError(
                f"a column cannot be called {clash[0]!r}: the set has its own; leave it out or rename it"
            )
        labels = np.full(len(pixels), UNLABELLED) if labels is None else np.asarray(labels, np.int64)
        if len(labels) and not UNLABELLED <= labels.min() <= labels.max() < max(
            1, len(self.about["classes"])
        ):
            raise DataError(
                f"labels {labels.min()}..{labels.max()} do not fit classes {self.about['classes']}"
            )
        pixels = np.ascontiguousarray(pixels)
        table = pa.table(
            {
                "pixels": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels),
                "label": pa.array(labels, mask=labels == UNLABELLED),
                "id": pa.array(ids, pa.string()),
                "split": pa.array([split] * len(pixels), pa.string()),
                **{name: _column(values) for name, values in (columns or {}).items()},
            }
        )
        if self._schema is None:
            self._schema = table.schema
        elif table.schema != self._schema:
            raise DataError(
                f"rows of one kind {self._brief(self._schema)}, then of another {self._brief(table.schema)}"
            )
        if split not in self._splits:
            self._splits[split] = _SplitWriter(self.fs, self.folder, split)
        self._splits[split].add(table, pixels, labels)

    @staticmethod
    def _brief(schema: pa.Schema) -> str:
        return "(" + ", ".join(f"{f.name}: {getattr(f.type, 'shape', f.type)}" for f in schema) + ")"

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        try:
            for split in self._splits.values():
                split.close()
            if kind is None:
                self._finish()
        finally:
            if self.local and os.path.isdir(self.folder):
                self.fs.delete_dir(self.folder)

    def _finish(self) -> None:
        if self._schema is None:
            raise DataError(f"nothing to write to {self.out}: not one row was given")
        channels, size, _ = self._schema.field("pixels").type.shape
        if self.about["bands"] and len(self.about["bands"]) != channels:
            raise DataError(
                f"{channels} channels do not fit bands {','.join(self.about['bands'])}; set --bands"
            )
        high = None
        if HIGH in self._schema.names:
            shape = getattr(self._schema.field(HIGH).type, "shape", [0, 0, 0])
            high = shape[1]
            if shape != [channels, high, high] or high % size or high <= size:
                raise DataError(
                    f"the column {HIGH!r} has no images that are a whole number of times finer than those of "
                    f"{(channels, size, size)}, but {tuple(shape)}; rename it, or give other twins"
                )
        parts = [self._splits["train"]] if "train" in self._splits else list(self._splits.values())
        self.manifest = Manifest(
            **self.about,
            size=size,
            channels=channels,
            dtype=str(np.dtype(self._schema.field("pixels").type.value_type.to_pandas_dtype())),
            high=high,
            columns=tuple(name for name in self._schema.names if name not in RESERVED),
            splits={name: split.summary(self.about["classes"]) for name, split in self._splits.items()},
            statistics=_statistics([split.moments for split in parts]),
        )
        with self.fs.open_output_stream(f"{self.folder}/{MANIFEST}") as file:
            file.write(self.manifest.to_json().encode())
        if self.local:
            old = f"{self.folder}-old"
            if os.path.exists(self.root):
                os.rename(self.root, old)
            os.rename(self.folder, self.root)
            if os.path.exists(old):
                self.fs.delete_dir(old)


class _SplitWriter:
    """The files of one split, a row group in memory at a time."""

    def __init__(self, fs: arrow_fs.FileSystem, folder: str, split: str) -> None:
        self.fs, self.folder, self.split = fs, folder, split
        self.files: list[dict[str, Any]] = []
        self.pending: list[pa.Table] = []
        self.writer: pq.ParquetWriter | None = None
        self.labels: dict[int, int] = {}
        self.moments: list[np.ndarray] = []

    def add(self, table: pa.Table, pixels: np.ndarray, labels: np.ndarray) -> None:
        for label, rows in zip(*np.unique(labels, return_counts=True), strict=True):
            self.labels[int(label)] = self.labels.get(int(label), 0) + int(rows)
        for start in range(0, len(pixels), ROWS_PER_GROUP):
            self.moments.append(_moments(pixels[start : start + ROWS_PER_GROUP]))
        self.moments = [_merged(self.moments)] if self.moments else []
        self.pending.append(table)
        if sum(map(len, self.pending)) >= ROWS_PER_GROUP:
            rows = pa.concat_tables(self.pending)
            whole = len(rows) - len(rows) % ROWS_PER_GROUP
            for start in range(0, whole, ROWS_PER_GROUP):
                self._write(rows[start : start + ROWS_PER_GROUP])
            self.pending = [rows[whole:]]

    def _write(self, rows: pa.Table) -> None:
        if self.writer is None:
            name = f"{self.split}-{len(self.files):05d}.parquet"
            self.files.append({"name": name, "rows": 0, "sha256": ""})
            self.sink = _Hashed(self.fs.open_output_stream(f"{self.folder}/{name}"))
            self.writer = pq.ParquetWriter(self.sink, rows.schema, use_dictionary=False, compression="zstd")
        self.writer.write_table(rows.combine_chunks(), row_group_size=ROWS_PER_GROUP)
        self.files[-1]["rows"] += len(rows)
        if self.files[-1]["rows"] >= ROWS_PER_FILE:
            self._close_file()

    def _close_file(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.sink.close()
            self.files[-1]["sha256"] = self.sink.digest.hexdigest()
            self.writer = None

    def close(self) -> None:
        rows = pa.concat_tables(self.pending) if self.pending else []
        self.pending = []
        if len(rows):
            self._write(rows)
        self._close_file()

    def summary(self, classes: tuple[str, ...]) -> Split:
        labels = {name: self.labels.get(k, 0) for k, name in enumerate(classes)}
        if UNLABELLED in self.labels:
            labels["unlabelled"] = self.labels[UNLABELLED]
        return Split(rows=sum(file["rows"] for file in self.files), files=self.files, labels=labels)


class _Hashed:
    """A stream that knows the sha256 of what went through it."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        self.stream.close()

    @property
    def closed(self) -> bool:
        return self.stream.closed


def _moments(pixels: np.ndarray) -> np.ndarray:
    """Count, sum, sum of squares, min and max of each channel."""
    count = np.full(pixels.shape[1], pixels[:, 0].size, np.float64)
    values, over = pixels.astype(np.float64), (0, 2, 3)
    return np.stack(
        [count, values.sum(over), np.square(values).sum(over), values.min(over), values.max(over)]
    )


def _merged(moments: list[np.ndarray]) -> np.ndarray:
    stack = np.stack(moments)
    return np.stack([*stack[:, :3].sum(0), stack[:, 3].min(0), stack[:, 4].max(0)])


def _statistics(parts: list[list[np.ndarray]]) -> dict[str, list[float]]:
    count, total, squares, least, most = _merged([moments for part in parts for moments in part])
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return {"mean": mean.tolist(), "std": std.tolist(), "min": least.tolist(), "max": most.tolist()}
