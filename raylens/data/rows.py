"""Rows as shards hold them -> arrays as training wants them. Data tasks import this, so it imports little."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raylens.data.preprocess import preprocess
from raylens.data.shards import HIGH


def prepared(table: pa.Table, transform: str, target: str | None = None) -> dict[str, np.ndarray]:
    """Rows as shards hold them -> preprocessed pixels, and labels if there are any; unlabelled rows are left out.

    With `target` the numbers of that column are the labels, and rows where they are not finite are left out; of the
    column `high` they are images, in the constants of the rows' own pixels.
    """
    images = _images(table, "pixels")
    if target == HIGH:
        high = preprocess(_images(table, HIGH), transform, like=images)
        return {"pixels": preprocess(images, transform), "label": high}
    if target is not None:
        numbers = table.column(target).cast(pa.float32()).fill_null(np.nan).to_numpy()
        known = np.isfinite(numbers)
        return {"pixels": preprocess(images[known], transform), "label": numbers[known]}
    if "label" not in table.column_names:
        return {"pixels": preprocess(images, transform)}
    labels = table.column("label").fill_null(-1).to_numpy()
    known = labels >= 0
    return {"pixels": preprocess(images[known], transform), "label": labels[known].astype(np.int64)}


def _images(table: pa.Table, column: str) -> np.ndarray:
    """Images (N, C, H, W) of a column."""
    held = table.column(column).combine_chunks()
    values = held.storage.flatten() if hasattr(held, "storage") else held.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(len(table), *held.type.shape)
