"""Images of any kind and number, cut into pieces: what one task reads, and what is predicted as a whole.

The images of a piece are numbered in the order in which they are read, so what is known of some of them is found again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylens.data import bands, formats
from raylens.data.convert import PROBES, Shape, counted, images_of
from raylens.data.formats import Options, Unit
from raylens.data.preprocess import preprocess
from raylens.data.rows import prepared
from raylens.data.s3 import waiting
from raylens.data.shards import MANIFEST, RESERVED, filesystem, read_manifest, split_files
from raylens.errors import DataError

BYTES = 32 << 20
"""Of the pixels, float32, that are read at a time."""


@dataclass(frozen=True)
class Piece:
    """Files of images, or row groups of a file of a shard set."""

    units: tuple[Unit, ...] = ()
    shard: str = ""
    groups: tuple[int, ...] = ()


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
        each = min(self.rows, 512)
        return [Piece(units=tuple(units[start : start + each])) for start in range(0, len(units), each)]

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
        for file in (file for name in splits for file in split_files(path, name)):
            fs, name = filesystem(file)
            with fs.open_input_file(name) as opened:
                metadata = pq.ParquetFile(opened).metadata
            together: list[int] = []
            for group in range(metadata.num_row_groups):
                together.append(group)
                if sum(metadata.row_group(one).num_rows for one in together) >= self.rows:
                    found.append(Piece(shard=file, groups=tuple(together)))
                    together = []
            if together:
                found.append(Piece(shard=file, groups=tuple(together)))
        return found

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
        fs, name = filesystem(piece.shard)
        with waiting(fs).open_input_file(name) as opened:
            file, begin = pq.ParquetFile(opened), 0
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
