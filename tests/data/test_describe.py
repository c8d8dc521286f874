"""A description shows every class of every set."""

import numpy as np
import pytest
from PIL import Image

from raylens.data.__main__ import main
from raylens.data.describe import (
    as_frequent,
    describe,
    draw_histograms,
    draw_profiles,
    profiles,
    some_of_each,
)
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
    for name in ("samples.png", "histograms.png", "profiles.png"):
        with Image.open(tmp_path / "pictures" / name) as picture:
            assert min(picture.size) > 300


def test_every_set_is_named_however_many_there_are(tmp_path):
    groups, held, names = {}, {}, {}
    for number in range(6):
        bands = "ri" if number == 4 else "gri"
        path = f"set{number}"
        names[path] = path
        with ShardWriter(tmp_path / path, bands=tuple(bands)) as writer:
            pixels = np.random.default_rng(number).random((4, len(bands), 16, 16), np.float32)
            writer.add("train", pixels, None, list("abcd"))
        groups[path, "unlabelled"], held[path] = pixels, read_manifest(tmp_path / path)
    *_, together = draw_histograms(groups, names, "minmax").axes
    told = [text.get_text() for text in together.get_legend().get_texts()]
    assert told == [f"set{number}: unlabelled" for number in range(6)]
    legend = draw_profiles(groups, held, names, "minmax").axes[0].get_legend()
    assert {text.get_text() for text in legend.get_texts()} == {*names}


def test_some_of_each_class_are_taken(sets):
    some = some_of_each(sets[0], read_manifest(sets[0]), 5, seed=0)
    assert {label: len(pixels) for label, pixels in some.items()} == {
        "no": 5,
        "sphere": 5,
        "vort": 5,
        "unlabelled": 2,
    }


def test_rings_are_told_by_their_mean_and_their_scatter():
    """Of a disc 20 times as bright as the sky only the rings within are bright; a half of it scatters by 10."""
    y, x = np.mgrid[:64, :64] - 31.5
    disc = np.where(np.hypot(x, y) < 16, 20.0, 0.0)
    mean, scatter = profiles(np.stack([disc, disc * (x > 0)])[:, None])
    np.testing.assert_allclose(mean[0, 0], [20] * 4 + [0] * 4)
    np.testing.assert_allclose(scatter[0, 0], 0)
    np.testing.assert_allclose(mean[1, 0], [10] * 4 + [0] * 4)
    np.testing.assert_allclose(scatter[1, 0], [10] * 4 + [0] * 4)
    assert profiles(np.ones((2, 3, 5, 5)))[0].shape == (2, 3, 1)


def test_profiles_take_classes_as_often_as_the_set_has_them(sets):
    held = read_manifest(sets[1])
    counts = {
        label: sum(split.labels.get(label, 0) for split in held.splits.values()) for label in held.classes
    }
    found = {label: np.full((10, 1), number) for number, label in enumerate(held.classes)}
    taken = np.bincount(as_frequent(held, found).ravel())
    assert taken.max() == 10
    assert taken[0] / taken[1] == pytest.approx(counts["nonlens"] / counts["lens"], rel=0.06)


@pytest.mark.parametrize("transform", ["asinh", "log", "none"])
def test_every_transform_can_be_drawn(sets, tmp_path, transform):
    assert describe(sets, out=str(tmp_path / "pictures"), transform=transform)


def test_an_unknown_transform_names_the_known(sets, capsys):
    assert main(["describe", *sets, "--transform", "sqrt"]) == 2
    assert "minmax, asinh, log, none" in capsys.readouterr().err


def test_a_seed_below_zero_is_refused(sets, capsys):
    assert main(["describe", *sets, "--seed", "-1"]) == 2
    assert capsys.readouterr().err == "error: --seed -1 is no seed; give 0 or more\n"


def test_a_folder_that_cannot_be_made_is_named(sets, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["describe", *sets, "--out", f"{tmp_path}/file/pictures"]) == 2
    assert f"--out {tmp_path}/file/pictures cannot be written" in capsys.readouterr().err


def test_views_of_a_method_are_drawn(sets, tmp_path):
    describe(sets, out=str(tmp_path / "pictures"), views="adda")
    assert (tmp_path / "pictures" / "views-adda.png").exists()
