"""The plan of a stream from Parquet and the batches that its tasks make, without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from raylens.data import streaming
from raylens.data.shards import LENS_CLASSES, UNLABELLED, ShardWriter
from raylens.data.streaming import Pools, plan

ROWS, PER_GROUP = 230, 20  # the last row group has ten rows


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> str:
    """A set of many small row groups; each image holds its row's number; one row in 46 is a lens."""
    return written(tmp_path_factory.mktemp("wide") / "set", np.arange(ROWS) % 46 == 0)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory) -> str:
    """The same with a label in one row of 40: most row groups have none."""
    labels = np.where(np.arange(ROWS) % 40 == 7, np.arange(ROWS) % 80 == 7, UNLABELLED)
    return written(tmp_path_factory.mktemp("sparse") / "set", labels)


def written(path, labels) -> str:
    out = str(path)
    pixels = np.arange(ROWS, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 8, 8), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raylens.data.shards.ROWS_PER_GROUP", PER_GROUP)
        with ShardWriter(out, classes=LENS_CLASSES, bands=("i",)) as writer:
            for split in ("train", "val", "test"):
                ids = [f"{split}{row}" for row in range(ROWS)]
                writer.add(split, pixels, np.asarray(labels, int), ids)
    return out


@pytest.fixture
def run(tiny, wide, monkeypatch):
    monkeypatch.setattr(streaming, "POOL", 3)

    def made(**data: Any):
        return tiny.run(
            "adda",
            data={"source": wide, "target": wide, "transform": "none", "views": "none", "batch": 16} | data,
            fit={"steps": 40},
            scale={"workers": 2},
        )

    return made


def batches(run, stream: str, rank: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
    for pool in plan(run, stream, rank):
        if pool["last"] >= start:
            yield from Pools(run, stream, rank).batches(pool)


def seen(batch: dict[str, np.ndarray]) -> list[int]:
    return batch["view/view"][:, 0, 0, 0].astype(int).tolist()


def test_there_are_groups_of_unequal_length_and_several_pools(run):
    pools = list(plan(run(), "source", 0))
    assert len({index for pool in pools for _, index in pool["groups"]}) == 12
    assert len(pools) > 8
    assert all(len(pool["groups"]) == 3 for pool in pools)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("stream", ["source", "target"])
def test_every_step_has_one_whole_batch(run, stream, rank):
    made = list(batches(run(), stream, rank))
    assert [int(batch["step"][0]) for batch in made] == list(range(40))
    assert {len(batch["view/view"]) for batch in made} == {16}
    assert all((batch["step"] == batch["step"][0]).all() for batch in made)


def test_the_target_comes_without_labels(run):
    assert "label" not in next(batches(run(), "target", 0))
    batch = next(batches(run(), "source", 0))
    assert batch["label"].tolist() == [row % 46 == 0 for row in seen(batch)]


def test_a_stream_that_begins_later_has_the_same_batches(run):
    whole = list(batches(run(), "source", 1))
    later = [batch for batch in batches(run(), "source", 1, start=17) if batch["step"][0] >= 17]
    assert [seen(batch) for batch in later] == [seen(batch) for batch in whole[17:]]


def test_workers_take_turns_at_the_pools(run):
    turns = [[pool["turn"] for pool in plan(run(), "source", rank)] for rank in (0, 1)]
    assert {turn % 2 for turn in turns[0]} == {0}
    assert {turn % 2 for turn in turns[1]} == {1}
    first = [next(plan(run(), "source", rank))["groups"] for rank in (0, 1)]
    assert not {tuple(group) for group in first[0]} & {tuple(group) for group in first[1]}


def test_every_row_is_seen(run):
    """Rows that are left over in one pool have their turn in another."""
    long = run().replace(**{"fit.steps": 200})
    found = {row for rank in (0, 1) for batch in batches(long, "source", rank) for row in seen(batch)}
    assert found == set(range(ROWS))


def test_another_seed_has_another_order(run):
    one, other = (next(batches(run().replace(seed=seed), "source", 0)) for seed in (0, 1))
    assert seen(one) != seen(other)


def test_balance_holds_in_every_pool(run):
    """Most pools have no lens among their own groups, and some have nothing but the one that they were given."""
    labels = [batch["label"] for batch in batches(run(balance=0.5), "source", 0)]
    assert {float(np.mean(label)) for label in labels} == {0.5}
    sizes = [len(pool["groups"]) for pool in plan(run(balance=0.5), "source", 0)]
    assert set(sizes) == {3, 4}


def test_a_batch_larger_than_a_few_groups_repeats_no_image(run):
    for batch in batches(run(batch=100), "target", 0):
        assert len({*seen(batch)}) == len(batch["row"]) == 100


def test_of_few_labels_each_step_sees_all(run, sparse):
    """Not the one or two of a few groups, over and over."""
    made = list(batches(run(source=sparse), "source", 0))
    assert [int(batch["step"][0]) for batch in made] == list(range(40))
    rows = {7, 47, 87, 127, 167, 207}
    assert all({*seen(batch)} == rows for batch in made)
    assert len(list(plan(run(source=sparse), "source", 0))) < 5  # and is not read anew for each


def test_views_are_made_in_the_tasks(run):
    plain = next(batches(run(), "source", 0))["view/view"]
    noisy = next(batches(run(views="noise"), "source", 0))["view/view"]
    assert 0 < np.abs(plain - noisy).max() < 1
