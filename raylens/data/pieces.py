"""Images of any kind and number, cut into pieces: what one task reads, and what is predicted as a whole.

The images of a piece are numbered in the order in which they are read, so what is known of some of them is found again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, islice, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from raylens.data import bands, formats
from raylens.data.convert import PROBES, Shape, counted, images_of
from raylens.data.formats import Options, Unit, stamps
from raylens.data.preprocess import preprocess
from raylens.data.rows import prepared
from raylens.data.shards import MANIFEST, RESERVED, read_manifest, split_files
from raylens.errors import DataError
from raylens.storage import filesystem, parquet

BYTES = 32 << 20
"""Of the pixels, float32, that are read at a time."""


@dataclass(frozen=True)
class Piece:
    """Files of images, or row groups of a file of a shard set."""

    units: tuple[Unit, ...] = ()
    shard: str = ""
    groups: tuple[int, ...] = ()
    sha256: str = ""
    """Of the shard, as its set's manifest has it."""
    rows: int = 0
    """In the groups; how many images files hold is not known before they are read."""


@dataclass(frozen=True)
class Change:
    """Names of what is no longer as a `record` has it: of files, without their suffix, or of a set's shards."""

    changed: Sequence[str]
    gone: Sequence[str]
    added: Sequence[str]


@dataclass(frozen=True)
class Block:
    """Images of a piece that were read together, rows `begin` ... `begin + N`, and whether they are its last."""

    begin: int
    last: bool
    ids: Sequence[str]
    reasons: Sequence[str]
    """Why an image is none; then its pixels are zeros."""
    columns: Sequence[Mapping[str, Any]]
    """What its file says of each image beside its pixels."""
    pixels: np.ndarray
    """float32 (N, C, H, W), preprocessed."""


@dataclass(frozen=True)
class Reader:
    """Reads pieces as images of one shape under one transform."""

    shape: Shape
    transform: str
    options: Options = field(default_factory=Options)

    @property
    def rows(self) -> int:
        """Images that are read at a time."""
        return max(1, BYTES // (4 * int(np.prod(self.shape.expected))))

    def pieces(self, path: str, split: str | None = None) -> list[Piece]:
        """What a shard set, its split or all of them, a folder, a table or a file is cut into.

        Raises DataError when there is nothing to read, or a set's images are of another shape or order of bands.
        """
        fs, root = filesystem(path)
        if fs.get_file_info(f"{root}/{MANIFEST}").is_file:
            return self._of_set(path, split)
        if split:
            raise DataError(f"{path} is no shard set, and has no split {split!r}; leave --split out")
        units = formats.units(path, self.options)
        return self._of_files(units)

    def _of_files(self, units: Sequence[Unit]) -> list[Piece]:
        each = min(self.rows, 512)
        return [Piece(units=tuple(units[start : start + each])) for start in range(0, len(units), each)]

    def grown(self, held: pa.Table, pieces: Sequence[Piece]) -> tuple[list[Piece], Change]:
        """The pieces that `held`, a `record`, is of, then pieces of what `pieces` have beyond; and what differs.

        Where anything has changed or is gone there are no such pieces.
        """
        parts, now = _parts(pieces), record(pieces)
        then, here = held["digest"].to_numpy(), now["digest"].to_numpy()
        fresh, lost = np.flatnonzero(~np.isin(here, then)), held.filter(~np.isin(then, here))
        names = set(now["name"].to_pylist()) if len(lost) else ()
        change = Change(
            changed=[name for name in _distinct(lost) if name in names],
            gone=[name for name in _distinct(lost) if name not in names],
            added=_distinct(now.take(fresh)),
        )
        if len(lost):
            return [], change
        place = dict(zip(here.tolist(), parts, strict=True))
        numbers = zip(held["piece"].to_pylist(), then.tolist(), strict=True)
        old = [[place[digest] for _, digest in some] for _, some in groupby(numbers, key=itemgetter(0))]
        new = [parts[row] for row in fresh]
        if isinstance(parts[0], Piece):
            return [*chain(*old), *new], change
        return [*(Piece(units=tuple(units)) for units in old), *self._of_files(new)], change

    def check(self, path: str, pieces: Sequence[Piece]) -> None:
        """Raises DataError when none of some images from all over the pieces can be read."""
        unfit = []
        for piece in pieces[:: -(-len(pieces) // PROBES)]:
            if piece.shard:
                return
            for image, about in islice(self._images(piece), PROBES):
                if image is not None:
                    return
                unfit.append((about["id"], about["reason"]))
        raise self.unreadable(path, unfit)

    def unreadable(self, path: str, unfit: Sequence[tuple[str, str]]) -> DataError:
        """That no image of `path` can be read, for the reasons of these (id, reason)."""
        side, why = " x ".join(map(str, self.shape.expected)), counted(unfit) or "it is empty"
        return DataError(
            f"no image of {path} can be read as {side}: {why}; --bands, --hdu, --crop or --resize may fit them in"
        )

    def remark(self, path: str) -> str:
        """What a user should know of the bands at `path` before they are used; nothing if they are alike."""
        fs, root = filesystem(path)
        if fs.get_file_info(f"{root}/{MANIFEST}").is_file:
            return bands.compare(path, read_manifest(path).bands, "the checkpoint", self.shape.names)
        if len(self.shape.names) < 2 or self.shape.bands:
            return ""
        wanted = ", ".join(self.shape.names)
        return f"bands of {path} are taken in the order {wanted} of the checkpoint; --bands takes others"

    def _of_set(self, path: str, split: str | None) -> list[Piece]:
        manifest = read_manifest(path)
        if self.shape.bands is not None or self.shape.crop is not None:
            raise DataError(
                f"--bands and --crop are of images that are not yet converted, and {path} is a shard set; convert "
                "it with them, or leave them out"
            )
        held = (manifest.channels, manifest.size, manifest.size)
        if held != self.shape.expected:
            channels, size, _ = self.shape.expected
            raise DataError(
                f"{path} has {manifest.channels} channel(s) of {manifest.size} x {manifest.size}, the checkpoint was "
                f"trained on {channels} of {size} x {size}; convert it with --size, --crop or --bands"
            )
        bands.compare(path, manifest.bands, "the checkpoint", self.shape.names)
        found, splits = [], [split] if split else manifest.splits
        for name in splits:
            for file, about in zip(split_files(path, name), manifest.splits[name].files, strict=True):
                found += self._of_shard(file, about["sha256"])
        return found

    def _of_shard(self, file: str, sha256: str) -> Iterator[Piece]:
        with parquet(file) as held:
            metadata = held.metadata
        groups, rows = [], 0
        for group in range(metadata.num_row_groups):
            groups.append(group)
            rows += metadata.row_group(group).num_rows
            if rows >= self.rows or group == metadata.num_row_groups - 1:
                yield Piece(shard=file, groups=tuple(groups), sha256=sha256, rows=rows)
                groups, rows = [], 0

    def blocks(self, piece: Piece, known: Sequence[range] = ()) -> Iterator[Block]:
        """A piece's images, but for the rows that are `known` already, in order."""
        held: Block | None = None
        for block in self._read(piece, known):
            if held:
                yield held
            held = block
        if held:
            yield Block(**{**vars(held), "last": True})

    def _read(self, piece: Piece, known: Sequence[range]) -> Iterator[Block]:
        if piece.shard:
            yield from self._groups(piece, known)
            return
        begin, held = 0, []
        for row, found in enumerate(self._images(piece)):
            if any(row in some for some in known):
                continue
            if held and (row != begin + len(held) or len(held) == self.rows):
                yield self._block(begin, held)
                held = []
            begin = begin if held else row
            held.append(found)
        if held:
            yield self._block(begin, held)

    def _images(self, piece: Piece) -> Iterator[tuple[np.ndarray | None, dict[str, Any]]]:
        for unit in piece.units:
            for image, _, about in images_of(unit, self.options, self.shape):
                yield image, about

    def _block(self, begin: int, held: list[tuple[np.ndarray | None, dict[str, Any]]]) -> Block:
        blank = np.zeros(self.shape.expected, np.float32)
        images = np.stack([blank if image is None else image.astype(np.float32) for image, _ in held])
        about = [one for _, one in held]
        return Block(
            begin,
            last=False,
            ids=[one["id"] for one in about],
            reasons=[one["reason"] for one in about],
            columns=[one["columns"] for one in about],
            pixels=preprocess(images, self.transform),
        )

    def _groups(self, piece: Piece, known: Sequence[range]) -> Iterator[Block]:
        with parquet(piece.shard) as file:
            begin = 0
            for group in piece.groups:
                rows = range(begin, begin + file.metadata.row_group(group).num_rows)
                begin = rows.stop
                left = [row for row in rows if not any(row in some for some in known)]
                if not left:
                    continue
                whole = file.read_row_group(group)
                names = [name for name in whole.column_names if not _large(whole.schema.field(name).type)]
                breaks = [0, *(np.flatnonzero(np.diff(left) != 1) + 1).tolist(), len(left)]
                for start, stop in pairwise(breaks):
                    table = whole.slice(left[start] - rows.start, stop - start)
                    yield Block(
                        left[start],
                        last=False,
                        ids=table["id"].to_pylist(),
                        reasons=[""] * len(table),
                        columns=table.select([name for name in names if name not in RESERVED]).to_pylist(),
                        pixels=prepared(table.select(["pixels"]), self.transform)["pixels"],
                    )


def _large(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.FixedShapeTensorType) or pa.types.is_nested(kind)


def amount(pieces: Sequence[Piece]) -> str:
    """How much pieces hold: the images of a set, or files, of which each may hold many."""
    files = sum(len(piece.units) for piece in pieces)
    return f"{files} file(s)" if files else f"{sum(piece.rows for piece in pieces)} images"


def record(pieces: Sequence[Piece]) -> pa.Table:
    """A row for each unit, or for each piece of a shard: its piece, its name, and a digest of what it holds.

    What files hold is taken from their sizes and times of change, what shards hold from the manifest's hashes.
    """
    parts = _parts(pieces)
    units = [part for part in parts if isinstance(part, Unit)]
    told = (
        [(one.files, one.id, one.columns, stamp) for one, stamp in zip(units, stamps(units), strict=True)]
        if units
        else [(piece.shard, piece.groups, piece.sha256) for piece in parts]
    )
    return pa.table(
        {
            "piece": np.repeat(np.arange(len(pieces)), [len(piece.units) or 1 for piece in pieces]),
            "name": [one.id if units else os.path.basename(one.shard) for one in parts],
            "digest": np.fromiter((_digest(one) for one in told), np.int64, len(parts)),
        }
    )


def _parts(pieces: Sequence[Piece]) -> list[Unit | Piece]:
    return [part for piece in pieces for part in piece.units or (piece,)]


def _digest(told: tuple) -> int:
    return int.from_bytes(hashlib.blake2b(repr(told).encode(), digest_size=8).digest(), signed=True)


def _distinct(table: pa.Table) -> list[str]:
    return [*dict.fromkeys(table["name"].to_pylist())]


def packed(piece: int, block: Block) -> dict[str, np.ndarray]:
    """A block as columns that Ray Data carries; see `unpacked`."""
    count = len(block.ids)
    about = zip(block.ids, block.reasons, block.columns, strict=True)
    return {
        "piece": np.full(count, piece),
        "row": np.arange(block.begin, block.begin + count),
        "last": np.arange(count) == (count - 1 if block.last else count),
        "about": np.array([json.dumps(one, default=str) for one in about]),
        "pixels": block.pixels,
    }


def runs(batch: Mapping[str, np.ndarray]) -> list[slice]:
    """Where the rows of a batch are of one piece and follow one another: Ray Data may have joined several blocks."""
    piece, row = batch["piece"], batch["row"]
    breaks = np.flatnonzero((np.diff(piece) != 0) | (np.diff(row) != 1)) + 1
    return [slice(start, stop) for start, stop in pairwise([0, *breaks.tolist(), len(piece)]) if stop > start]
