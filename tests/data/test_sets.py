"""Sets that are to be used together."""

from __future__ import annotations

import numpy as np
import pytest

from raylens.data import sets
from raylens.data.shards import LENS_CLASSES, ShardWriter
from raylens.errors import DataError


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((3, 64, 64), "set data.bands to gri"),
        (
            (3, 48, 48),
            "simulate one that fits by python -m raylens.data simulate sim --size 48 --bands gri, and give",
        ),
        ((1, 101, 101), "simulate sim --size 101 --bands i,"),
        ((2, 64, 64), "set data.bands to ri"),
        ((5, 64, 64), "has any of the bands g, r, i; convert the other again with --bands"),
    ],
)
def test_what_does_not_fit_the_simulated_source_is_told_what_would(tiny, tmp_path, shape, told):
    with ShardWriter(str(tmp_path / "sky"), name="sky", domain="target", classes=LENS_CLASSES) as writer:
        for split in ("train", "val", "test"):
            writer.add(split, np.zeros((4, *shape), np.float32), np.arange(4) % 2, list("abcd"))
    run = tiny.run("adda", data={"target": str(tmp_path / "sky")})
    with pytest.raises(DataError) as refused:
        sets.facts(run, ("source", "target"))
    assert told in str(refused.value)
    assert "the simulated source" in str(refused.value)


def test_named_bands_are_simulated_in_their_order(tiny, tmp_path):
    with ShardWriter(str(tmp_path / "sky"), bands=("i", "g"), classes=LENS_CLASSES) as writer:
        for split in ("train", "val", "test"):
            writer.add(split, np.zeros((4, 2, 64, 64), np.float32), np.arange(4) % 2, list("abcd"))
    run = tiny.run("adda", data={"target": str(tmp_path / "sky")})
    with pytest.raises(DataError, match=r"set data\.bands to ig"):
        sets.facts(run, ("source", "target"))
    assert sets.facts(run.replace(**{"data.bands": "ig"}), ("source", "target")).bands == ("i", "g")
