"""A description shows every class of every set."""

import numpy as np
import pytest
from PIL import Image

from raylens.data.__main__ import main
from raylens.data.describe import describe, some_of_each
from raylens.data.shards import ShardWriter, read_manifest


@pytest.fixture
def sets(tmp_path):
    rng = np.random.default_rng(0)
    for name, channels, classes in (("one", 1, ("no", "sphere", "vort")), ("two", 3, ("nonlens", "lens"))):
        with ShardWriter(tmp_path / name, domain=name, classes=classes, bands="gri"[:channels]) as writer:
            for split, rows in (("train", 30), ("test", 12)):
                labels = rng.permutation(np.arange(rows) % len(classes))
                labels[0] = -1
                pixels = rng.random((rows, channels, 16, 16)).astype(np.float32)
                writer.add(split, pixels, labels, [f"{split}{k}" for k in range(rows)])
    return [str(tmp_path / "one"), str(tmp_path / "two")]


def test_pictures_are_drawn_and_numbers_printed(sets, tmp_path, capsys):
    assert main(["describe", *sets, "--out", str(tmp_path / "pictures")]) == 0
    printed = capsys.readouterr().out
    for word in ("sphere", "vort", "lens", "unlabelled", "train", "test"):
        assert word in printed
    assert printed.strip().splitlines()[-1] == str(tmp_path / "pictures")
    for name in ("samples.png", "histograms.png"):
        with Image.open(tmp_path / "pictures" / name) as picture:
            assert min(picture.size) > 300


def test_some_of_each_class_are_taken(sets):
    some = some_of_each(sets[0], read_manifest(sets[0]), 5, seed=0)
    assert {label: len(pixels) for label, pixels in some.items()} == {
        "no": 5,
        "sphere": 5,
        "vort": 5,
        "unlabelled": 2,
    }


@pytest.mark.parametrize("transform", ["asinh", "log", "none"])
def test_every_transform_can_be_drawn(sets, tmp_path, transform):
    assert describe(sets, out=str(tmp_path / "pictures"), transform=transform)


def test_an_unknown_transform_names_the_known(sets, capsys):
    assert main(["describe", *sets, "--transform", "sqrt"]) == 2
    assert "minmax, asinh, log, none" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(sets, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["describe", *sets, "--out", f"{tmp_path}/file/pictures"]) == 2
    assert f"--out {tmp_path}/file/pictures cannot be written" in capsys.readouterr().err


def test_views_of_a_method_are_drawn(sets, tmp_path):
    describe(sets, out=str(tmp_path / "pictures"), views="adda")
    assert (tmp_path / "pictures" / "views-adda.png").exists()
