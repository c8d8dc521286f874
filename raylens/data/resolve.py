"""A set at a higher resolution: painted by a checkpoint of super-resolution, enlarged, or as it is known to be."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raylens import checkpoint
from raylens.data import bands
from raylens.data.rows import prepared
from raylens.data.shards import HIGH, UNLABELLED, ShardWriter, made_by, read_manifest, split_files
from raylens.errors import ConfigError, DataError
from raylens.progress import counting
from raylens.storage import filesystem, parquet
from raylens.tasks.super_resolution import bicubic

WAYS = ("model", "bicubic", "high")
"""Where finer images come from: the checkpoint, an enlargement, the set's own twins."""


def resolve(
    path: str,
    data: str,
    out: str,
    *,
    by: str = "model",
    device: str = "cpu",
    overwrite: bool = False,
    command: str = "resolve",
) -> str:
    """Write the set at `data` with finer images as one at `out`, all else as it was; returns `out`.

    Images are preprocessed as the checkpoint's are, and twins in the constants of their images, whichever way. Raises
    ConfigError for a checkpoint that paints nothing, DataError for a set that it does not fit.
    """
    found, held = checkpoint.read(path), read_manifest(data)
    if found.run.task.name != "super_resolution":
        raise ConfigError(
            f"{path} is of {found.run.task.name} and paints no images; finetune one: python -m raylens.finetune "
            f"{path} super-resolution"
        )
    if (held.channels, held.size) != (found.facts.channels, found.facts.size):
        raise DataError(
            f"{data} has {held.channels} channel(s) of {held.size} x {held.size}, the checkpoint was trained on "
            f"{found.facts.channels} of {found.facts.size} x {found.facts.size}; convert it with --size or --bands"
        )
    bands.compare(data, held.bands, path, found.facts.bands)
    if by == "high" and held.high != held.size * found.facts.factor:
        raise DataError(
            f"{data} has no twins of {held.size * found.facts.factor} pixels; use --by model or bicubic"
        )
    if filesystem(out)[1].rstrip("/") == filesystem(data)[1].rstrip("/"):
        raise DataError(f"--out {out} is the set that is read; name another folder")
    model, factor, transform = found.model(device), found.facts.factor, found.run.data.transform
    writer = ShardWriter(
        out,
        domain=held.domain,
        bands=held.bands,
        arcsec_per_pixel=held.arcsec_per_pixel and held.arcsec_per_pixel / factor,
        classes=held.classes,
        made=made_by(command, packages=("torch",), checkpoint=path, by=by, of=dict(held.made)),
        overwrite=overwrite,
    )

    @torch.inference_mode()
    def finer(table: pa.Table) -> np.ndarray:
        if by == "high":
            return prepared(table, transform, HIGH)["label"]
        pixels = torch.from_numpy(prepared(table.select(["pixels"]), transform)["pixels"])
        enlarge = model if by == "model" else lambda some: bicubic(some, factor)
        return np.concatenate([enlarge(some.to(device)).float().cpu().numpy() for some in pixels.split(64)])

    with writer, counting("painting", sum(one.rows for one in held.splits.values())) as count:
        for split in held.splits:
            for file in split_files(data, split):
                with parquet(file) as rows:
                    for group in range(rows.num_row_groups):
                        table = rows.read_row_group(group).combine_chunks()
                        labels = pc.fill_null(table["label"], UNLABELLED).to_numpy()
                        kept = {
                            column: table[column].combine_chunks()
                            for column in held.columns
                            if column != HIGH
                        }
                        writer.add(split, finer(table), labels, table["id"].to_pylist(), kept)
                        count(len(table))
    return writer.out
