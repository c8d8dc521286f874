"""Ray Data as raylens uses it: in order, and without a word."""

from __future__ import annotations

import logging
from types import ModuleType


def ray_data() -> ModuleType:
    """`ray.data`, told to keep the order of rows and to print nothing; the import itself sets up its logger."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, and told once
    context = ray.data.DataContext.get_current()
    context.use_datasource_v2 = False  # its start-up costs seconds on sets of ordinary size
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    return ray.data
