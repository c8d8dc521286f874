"""Rows as shards hold them -> arrays as training wants them. Data tasks import this, so it imports little."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raylens.data.preprocess import preprocess


def prepared(table: pa.Table, transform: str, target: str | None = None) -> dict[str, np.ndarray]:
    """Rows as shards hold them -> preprocessed pixels, and labels if there are any; unlabelled rows are left out.

    With `target` the numbers of that column are the labels, and rows where they are not finite are left out.
    """
    pixels = table.column("pixels").combine_chunks()
    shape = pixels.type.shape
    flat_values = pixels.storage.flatten() if hasattr(pixels, "storage") else pixels.flatten()
    images = flat_values.to_numpy(zero_copy_only=False).reshape(len(table), *shape)
    if target is not None:
        numbers = table.column(target).cast(pa.float32()).fill_null(np.nan).to_numpy()
        known = np.isfinite(numbers)
        return {"pixels": preprocess(images[known], transform), "label": numbers[known]}
    if "label" not in table.column_names:
        return {"pixels": preprocess(images, transform)}
    labels = table.column("label").fill_null(-1).to_numpy()
    known = labels >= 0
    return {"pixels": preprocess(images[known], transform), "label": labels[known].astype(np.int64)}
