"""Resident streams: what a worker's batches hold, and the thread that makes them."""

import threading
import time
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import torch

from raylens import config, find
from raylens.data.stream import AHEAD, Resident, Split, ahead, few, sizes, views
from raylens.errors import ConfigError
from raylens.methods.adda import ADDA
from raylens.methods.supervised import Supervised


class TwoViews(ADDA):
    views = {"weak": "weak", "strong": "strong"}


@pytest.fixture
def data(tiny):
    return tiny.resident()


def batches(data, run, count, method=ADDA, **where):
    with closing(data.batches(run, method, **where)) as stream:
        return [*islice(stream, count)]


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].views.keys() == other[name].views.keys()
        for view in one[name].views:
            assert torch.equal(one[name].views[view], other[name].views[view])
        assert torch.equal(one[name].ids, other[name].ids)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "raylens-views"]


def test_a_batch_has_the_methods_streams_and_views(tiny, data):
    run = tiny.run("adda", data={"batch": 6, "target_batch": 10})
    for batch in batches(data, run, 3, TwoViews):
        assert batch.keys() == {"source", "target"}
        for name, size in (("source", 6), ("target", 10)):
            assert batch[name].views.keys() == {"weak", "strong"}
            for view in batch[name].views.values():
                assert view.shape == (size, 1, 32, 32)
                assert view.dtype == torch.float32
            assert not torch.equal(batch[name].views["weak"], batch[name].views["strong"])
    assert batches(data, run, 1, Supervised)[0].keys() == {"source"}


def test_labels_of_the_target_are_never_in_a_batch_even_if_a_set_has_them(tiny, data):
    target = data.train["target"]
    labelled = Resident({**data.train, "target": Split(target.pixels, np.ones(len(target), np.int64))}, {})
    for batch in batches(labelled, tiny.run("adda"), 3):
        assert batch["target"].labels is None
        assert batch["source"].labels.dtype == torch.int64


def test_labels_and_pixels_are_those_of_the_rows(tiny, data):
    source = data.train["source"]
    for batch in batches(data, tiny.run("adda", data={"views": "none"}), 5):
        rows = batch["source"].ids.numpy()
        np.testing.assert_array_equal(batch["source"].labels, source.labels[rows])
        np.testing.assert_array_equal(batch["source"].views["view"], source.pixels[rows])


@pytest.mark.parametrize("rank", [0, 1])
def test_from_any_step_on_the_batches_are_those_of_an_undisturbed_run(tiny, data, rank):
    run = tiny.run("adda", data={"views": "strong", "balance": 0.5, "target_batch": 5})
    undisturbed = batches(data, run, 8, rank=rank, world=2)
    for start in (1, 5):
        later = batches(data, run, 8 - start, rank=rank, world=2, start=start)
        for one, other in zip(later, undisturbed[start:], strict=True):
            assert_equal(one, other)


def test_views_differ_by_step_rank_stream_and_seed(tiny):
    run, pixels = (
        tiny.run("adda", data={"views": "strong"}),
        np.random.default_rng(0).random((4, 1, 32, 32), np.float32),
    )
    keys = [("source", 0, 0), ("source", 0, 1), ("source", 1, 0), ("target", 0, 0)]
    made = [views(run, ADDA, pixels, key)["view"] for key in keys]
    made.append(views(run.replace(seed=1), ADDA, pixels, keys[0])["view"])
    for index, one in enumerate(made):
        assert not any(torch.equal(one, other) for other in made[:index])
    assert torch.equal(views(run, ADDA, pixels, keys[0])["view"], made[0])


def test_balance_is_the_sources_alone(tiny, data):
    found = batches(data, tiny.run("adda", data={"balance": 0.5, "batch": 8}), 10)
    assert all(batch["source"].labels.sum() == 4 for batch in found)


def test_sets_of_unequal_lengths_smaller_than_a_batch_never_end(tiny):
    tinier = tiny.resident(rows=5)
    data = Resident({**tiny.resident().train, "target": tinier.train["target"]}, {})
    found = batches(data, tiny.run("adda", data={"batch": 16}), 20)
    assert all(len(batch["source"]) == len(batch["target"]) == 16 for batch in found)


@pytest.mark.parametrize(
    ("data", "rows"),
    [({}, (32, 96)), ({"batch": 64}, (64, 192)), ({"batch": 64, "target_batch": 64}, (64, 64))],
)
def test_adamatchs_target_batch_is_a_multiple_of_the_sources(data, rows):
    run = config.build({"method.name": "adamatch"}, {"data": data})
    assert tuple(sizes(run).values()) == rows


@pytest.mark.parametrize(("world", "rows"), [(4, (16, 32)), (3, (21, 42)), (2, (32, 64)), (1, (64, 128))])
def test_workers_that_are_left_take_the_rows_of_the_others(tiny, world, rows):
    run = tiny.run("adda", data={"batch": 16, "target_batch": 32}, scale={"workers": 4})
    assert tuple(sizes(run, world).values()) == rows


def test_one_worker_of_two_sees_what_both_saw(tiny, data):
    run = tiny.run("adda", scale={"workers": 2})
    both = [batches(data, run, 1, rank=rank, world=2, start=3)[0]["source"].ids for rank in range(2)]
    assert torch.equal(torch.cat(both), batches(data, run, 1, world=1, start=3)[0]["source"].ids)


def test_shared_memory_is_not_written_to(tiny, data):
    for split in data.train.values():
        split.pixels.flags.writeable = False
    before = data.train["target"].pixels.copy()
    for pipeline in ("none", "strong"):
        for batch in batches(data, tiny.run("adda", data={"views": pipeline}), 2):
            batch["target"].views["view"].add_(1)
    np.testing.assert_array_equal(data.train["target"].pixels, before)


def test_the_thread_stops_when_the_stream_is_closed(tiny, data):
    stream = data.batches(tiny.run("adda"), ADDA)
    next(stream)
    assert threads()
    stream.close()
    assert not threads()


def test_a_stream_that_was_never_read_has_no_thread(tiny, data):
    data.batches(tiny.run("adda"), ADDA).close()
    assert not threads()


def test_the_thread_works_ahead_but_not_far():
    made = []
    with closing(ahead(lambda step: made.append(step) or step, 7)) as stream:
        assert next(stream) == 7
        deadline = time.monotonic() + 30
        while len(made) < AHEAD + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [*range(7, 7 + AHEAD + 2)]  # one taken, AHEAD ready, one in hand
        assert [next(stream), next(stream)] == [8, 9]
    assert not threads()


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_asked_for():
    def make(step):
        if step == 2:
            raise ZeroDivisionError("in step 2")
        return step

    stream = ahead(make, 0)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ZeroDivisionError, match="in step 2"):
        next(stream)
    assert not threads()


def test_unknown_views_are_refused(tiny, data):
    with pytest.raises(ConfigError, match="unknown views 'upside_down'"):
        batches(data, tiny.run("adda", data={"views": "upside_down"}), 1)
    assert not threads()


def test_a_part_of_the_labels_is_a_part_of_any_larger_one_and_keeps_the_classes(tiny):
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    split = Split(np.zeros((1000, 1, 2, 2), np.float32), labels)
    kept = {share: few(split, tiny.run(data={"labels": share})) for share in (0.01, 0.1, 0.5, 300)}
    assert {share: len(rows) for share, rows in kept.items()} == {0.01: 10, 0.1: 100, 0.5: 500, 300: 300}
    assert set(kept[0.01]) < set(kept[0.1]) < set(kept[300]) < set(kept[0.5])
    assert np.bincount(labels[kept[0.1]]).tolist() == [60, 30, 10]
    assert np.bincount(labels[few(split, tiny.run(data={"labels": 0.0005}))]).tolist() == [1, 1, 1]
    assert few(split, tiny.run()) is None
    other = few(split, tiny.run(seed=1, data={"labels": 0.1}))
    assert set(other) != set(kept[0.1])


def test_a_part_of_numbers_is_any_part(tiny):
    numbers = np.random.default_rng(0).normal(size=200).astype(np.float32)
    split = Split(np.zeros((200, 1, 2, 2), np.float32), numbers)
    assert len(few(split, tiny.run(data={"labels": 0.1}))) == 20


@pytest.mark.parametrize("balance", [None, 0.5])
def test_only_labelled_images_are_learned_from(tiny, balance):
    data = tiny.resident(rows=60)
    run = tiny.run(data={"labels": 0.2, "balance": balance})
    allowed, seen = set(few(data.train["source"], run)), set()
    with closing(data.batches(run, find.method("supervised"))) as batches:
        for _ in range(12):
            seen |= set(next(batches)["source"].ids.tolist())
    assert seen == allowed
