"""Sets that are to be used together."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest

from raylens.data import sets, shards
from raylens.data.shards import LENS_CLASSES, UNLABELLED, ShardWriter, split_files
from raylens.data.stream import Split, few
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


def test_a_number_s_scale_is_of_the_labels_that_are_left(tiny, tmp_path):
    """Else what is not to be known is: of ten numbers four are, by the run's seed."""
    masses = np.random.default_rng(0).normal(3, 2, 10)
    with ShardWriter(str(tmp_path / "sky"), classes=("no", "vort")) as writer:
        for split in ("train", "val", "test"):
            images, ids = np.zeros((10, 1, 32, 32), np.float32), [f"{split}{row}" for row in range(10)]
            writer.add(split, images, np.ones(10, int), ids, {"log10_mass": masses})
    source = {"source": str(tmp_path / "sky")}
    run = tiny.run(task={"name": "regression"}, data=source)
    assert sets.facts(run, ("source",)).scale == pytest.approx((masses.mean(), masses.std()))
    less = run.replace(**{"data.labels": 4.0})
    left = few(Split(masses, masses), less)
    assert len(left) == 4
    assert sets.facts(less, ("source",)).scale == pytest.approx((masses[left].mean(), masses[left].std()))
    with pytest.raises(DataError, match=r"1 numbers left by data\.labels 0\.01 .* set more"):
        sets.facts(run.replace(**{"data.labels": 0.01}), ("source",))


@pytest.fixture
def many_files(tmp_path, monkeypatch):
    """A set whose pixels say which row they are of; in nine files of two row groups, and a short one."""
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 5)
    monkeypatch.setattr(shards, "ROWS_PER_FILE", 10)
    with ShardWriter(str(tmp_path / "sky"), classes=LENS_CLASSES) as writer:
        pixels = np.broadcast_to(np.arange(93.0, dtype=np.float32)[:, None, None, None], (93, 1, 16, 16))
        labels = np.where(np.arange(93) % 3, np.arange(93) % 2, UNLABELLED)
        writer.add("train", np.ascontiguousarray(pixels), labels, [f"{row}" for row in range(93)])
    return str(tmp_path / "sky")


def test_a_set_of_many_files_is_in_memory_in_their_order(many_files):
    assert len(split_files(many_files, "train")) == 10
    held = sets.read(many_files, "train", "none", labels=False)
    np.testing.assert_array_equal(held.pixels[:, 0, 0, 0], np.arange(93))
    assert held.labels is None
    held = sets.read(many_files, "train", "none", labels=True)
    known = np.arange(93)[np.arange(93) % 3 > 0]
    np.testing.assert_array_equal(held.pixels[:, 0, 0, 0], known)
    np.testing.assert_array_equal(held.labels, known % 2)


def test_a_share_of_a_set_is_that_of_its_seed(ray_cluster, many_files):
    one, again, other = (
        sets.read(many_files, "train", "none", labels=False, share=0.5, seed=seed).pixels[:, 0, 0, 0]
        for seed in (1, 1, 2)
    )
    assert (np.diff(one) > 0).all(), "in the order of the files"
    assert 25 < len(one) < 70
    np.testing.assert_array_equal(one, again)
    assert one.tolist() != other.tolist()


def test_a_file_that_is_torn_or_gone_is_named(many_files):
    last = Path(split_files(many_files, "train")[-1])
    last.write_bytes(last.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"cannot read {last}: .*; make the set again"):
        sets.read(many_files, "train", "none", labels=True)
    last.unlink()
    with pytest.raises(DataError, match=f"cannot read {last}: .*; make the set again"):
        sets.read(many_files, "train", "none", labels=True)


def test_a_store_that_does_not_answer_says_nothing_of_a_set(many_files, monkeypatch):
    away = OSError("When reading 'b/a.parquet': AWS Error NETWORK_CONNECTION during GetObject operation")
    for error, told in (
        (away, "could not be fetched: .*; the same command tries again"),
        (pa.ArrowMemoryError("malloc of size 9 failed"), "malloc"),
    ):
        monkeypatch.setattr(sets, "parquet", Mock(side_effect=error))
        with pytest.raises(type(error), match=told):
            sets.read(many_files, "train", "none", labels=True)


def test_a_class_that_validation_s_part_of_a_split_lacks_is_told(tiny, tmp_path, ray_cluster):
    labels = np.arange(200) == 17
    with ShardWriter(str(tmp_path / "sky"), classes=LENS_CLASSES) as writer:
        for split in ("train", "val", "test"):
            images, ids = np.zeros((200, 1, 32, 32), np.float32), [f"{split}{row}" for row in range(200)]
            writer.add(split, images, labels.astype(int), ids)
    run = tiny.run("supervised", data={"source": str(tmp_path / "sky"), "validation_rows": 5})
    with pytest.raises(DataError, match=r"data.validation_rows 5 takes no image of lens; raise it"):
        sets.reside(run, ("source",))
    sets.reside(run.replace(**{"data.validation_rows": 200}), ("source",))


def test_what_is_in_memory_of_a_partly_labelled_source_is_what_has_a_label(tiny, tmp_path):
    labels = np.where(np.arange(100) < 10, np.arange(100) % 2, UNLABELLED)
    with ShardWriter(str(tmp_path / "sky"), classes=LENS_CLASSES) as writer:
        writer.add("train", np.zeros((100, 1, 32, 32), np.float32), labels, [f"{row}" for row in range(100)])
    given = {"source": str(tmp_path / "sky"), "target": str(tmp_path / "sky")}
    run = tiny.run("adda", data=given)
    assert sets.gigabytes(run, ("source",)) == pytest.approx(10 * 32 * 32 * 4 / 1e9)
    assert sets.gigabytes(run, ("source", "target")) == pytest.approx(110 * 32 * 32 * 4 / 1e9)
    assert sets.gigabytes(tiny.run("byol", data=given), ("source",)) == pytest.approx(100 * 32 * 32 * 4 / 1e9)


def test_more_labels_than_there_are_is_refused(tiny, toy_sets):
    """All 360 images of the train split have one."""
    run = tiny.run(data={"source": toy_sets["data.source"], "labels": 360.0})
    sets.facts(run, ("source",))
    with pytest.raises(DataError, match=r"has 360 images with labels to learn from, and 361 were asked for"):
        sets.facts(run.replace(**{"data.labels": 361.0}), ("source",))


def test_a_row_without_its_number_is_no_label(tiny, tmp_path):
    """As two of three classes have none in Models I to III."""
    numbers = np.where(np.arange(12) % 3, np.nan, np.arange(12.0))

    def written(name, bare):
        with ShardWriter(str(tmp_path / name), classes=("no", "vort")) as writer:
            for split in ("train", "val", "test"):
                images, ids = np.zeros((12, 1, 32, 32), np.float32), [f"{split}{row}" for row in range(12)]
                mass = np.full(12, np.nan) if split == bare else numbers
                writer.add(split, images, np.ones(12, int), ids, {"log10_mass": mass})
        return {"source": str(tmp_path / name), "test": str(tmp_path / name)}

    run = tiny.run(task={"name": "regression"}, data=written("sky", None))
    sets.facts(run.replace(**{"data.labels": 4.0}), ("source",), test=True)
    with pytest.raises(DataError, match="has 4 images with labels to learn from, and 5 were asked for"):
        sets.facts(run.replace(**{"data.labels": 5.0}), ("source",))
    for split in ("val", "test"):
        bare = tiny.run(task={"name": "regression"}, data=written(split, split))
        with pytest.raises(DataError, match=f"'{split}' of .* has 0 numbers in the column 'log10_mass'"):
            sets.facts(bare, ("source",), test=True)


def test_what_is_measured_on_has_labels(tiny, toy_sets, tmp_path):
    """A target may have none, and then nothing is measured; a set given to be measured on must."""
    with ShardWriter(str(tmp_path / "bare"), domain="target", bands=("i",), classes=LENS_CLASSES) as writer:
        for split in ("train", "val", "test"):
            writer.add(
                split, np.zeros((4, 1, 32, 32), np.float32), None, [f"{split}{row}" for row in range(4)]
            )
    run = tiny.run("adda", data={"source": toy_sets["data.source"], "target": str(tmp_path / "bare")})
    sets.facts(run, ("source", "target"), test=True)
    with pytest.raises(DataError, match=r"no image of the test split of .*bare has a label"):
        sets.facts(run.replace(**{"data.test": str(tmp_path / "bare")}), ("source", "target"), test=True)
