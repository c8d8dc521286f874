"""Which rows a step sees."""

from collections import Counter

import numpy as np
import pytest

from raylens.data.order import Order, Shuffled

RARE = (np.arange(500) % 100 == 0).astype(np.int64)  # 1 : 99


def order(rows=10, batch=4, **settings):
    return Order(rows=rows, batch=batch, key=(0, "order", "source"), **settings)


def take(order, steps, start=0):
    return np.concatenate([order.step(step) for step in range(start, start + steps)])


@pytest.mark.parametrize(("rows", "batch"), [(10, 4), (7, 7), (3, 8), (1, 5), (20, 1)])
def test_every_row_is_seen_equally_often(rows, batch):
    seen = take(order(rows, batch), 2 * rows)  # 2 x batch times through all rows
    assert Counter(seen.tolist()) == dict.fromkeys(range(rows), 2 * batch)


def test_no_row_comes_again_before_all_have_come():
    seen = take(order(10, 4), 50).reshape(-1, 10)
    assert (np.sort(seen) == np.arange(10)).all()
    assert len({tuple(turn) for turn in seen}) > 1


@pytest.mark.parametrize("settings", [{}, {"labels": RARE, "balance": 0.5}])
def test_a_step_is_a_function_of_the_step_alone(settings):
    one, other = (order(500, 16, **settings) for _ in range(2))
    forwards = [one.step(step) for step in range(40)]
    for step in (39, 3, 17, 0):
        np.testing.assert_array_equal(other.step(step), forwards[step])


def test_another_seed_and_another_stream_have_another_order():
    keys = [(0, "order", "source"), (1, "order", "source"), (0, "order", "target")]
    found = {tuple(Order(rows=100, batch=20, key=key).step(0)) for key in keys}
    assert len(found) == 3


@pytest.mark.parametrize("settings", [{}, {"labels": RARE, "balance": 0.3}])
@pytest.mark.parametrize("world", [2, 3])
def test_workers_together_see_what_one_with_a_larger_batch_sees(world, settings):
    alone = order(500, 4 * world, **settings)
    together = [order(500, 4, rank=rank, world=world, **settings) for rank in range(world)]
    for step in range(30):
        parts = [worker.step(step) for worker in together]
        assert all(len(part) == 4 for part in parts)
        np.testing.assert_array_equal(np.concatenate(parts), alone.step(step))


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("balance", [0.01, 0.3, 0.5, 0.99])
def test_balance_is_exact_in_the_long_run_and_never_off_by_more_than_a_row(batch, balance):
    balanced = order(500, batch, labels=RARE, balance=balance)
    total = 0
    for step in range(200):
        rows = balanced.step(step)
        assert len(rows) == batch
        total += RARE[rows].sum()
        assert abs(total - balance * batch * (step + 1)) <= 1


def test_balanced_rows_of_a_class_are_seen_equally_often():
    balanced = order(500, 10, labels=RARE, balance=0.5)
    seen = Counter(take(balanced, 198).tolist())  # 990 rows of each: 198 times 5, 2 times 495
    assert {seen[row] for row in np.flatnonzero(RARE)} == {198}
    assert {seen[row] for row in np.flatnonzero(RARE == 0)} == {2}


def test_one_lens_in_a_hundred_is_never_dropped():
    plain = order(500, 32)
    assert Counter(take(plain, 125).tolist()) == dict.fromkeys(range(500), 8)
    single = (np.arange(100) == 3).astype(np.int64)
    balanced = order(100, 8, labels=single, balance=0.25)
    assert all((balanced.step(step) == 3).sum() == 2 for step in range(50))


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("balance", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("batch", [1, 8])
def test_the_other_classes_share_the_rest_equally(classes, balance, batch):
    labels = np.sort(np.random.default_rng(0).integers(0, classes, 300))
    balanced = order(300, batch, labels=labels, balance=balance)
    counts = np.bincount(labels[take(balanced, 600)], minlength=classes)
    assert abs(counts[-1] - 600 * batch * balance) <= 1
    assert np.ptp(counts[:-1]) <= 1


def test_classes_come_mixed_within_a_batch_so_that_every_worker_has_some():
    parts = [order(500, 32, labels=RARE, balance=0.5, rank=rank, world=2) for rank in range(2)]
    shares = [RARE[take(part, 50)].mean() for part in parts]
    assert all(0.4 < share < 0.6 for share in shares)


def test_rows_without_a_label_are_left_out_of_balanced_batches():
    labels = np.where(np.arange(500) % 2, RARE, -1)
    labels[::50] = 1
    seen = take(order(500, 16, labels=labels, balance=0.5), 50)
    assert (labels[seen] >= 0).all()


def test_a_set_of_one_class_gives_that_class():
    assert set(take(order(5, 4, labels=np.zeros(5, np.int64), balance=0.5), 5)) == set(range(5))


def test_any_part_of_the_endless_order_can_be_taken():
    endless = Shuffled(np.array([3, 5, 8]), (0,))
    whole = endless.take(0, 20)
    for begin in range(10):
        for count in (0, 1, 5, 10):
            np.testing.assert_array_equal(endless.take(begin, count), whole[begin : begin + count])
    assert set(whole) == {3, 5, 8}
