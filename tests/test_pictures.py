import numpy as np
import pytest
from matplotlib.image import imread

from raylens import pictures
from raylens.errors import DataError
from raylens.pictures import draw
from raylens.records import Outputs

WARNING = "this checkpoint was chosen by target labels (search.oracle)"


def outputs(classes, rows=400, scale=2.0):
    random = np.random.default_rng(0)
    labels = random.integers(classes, size=rows)
    logits = random.normal(size=(rows, classes)) + scale * np.eye(classes)[labels]
    return Outputs(np.zeros((rows, 2)), logits.astype(np.float32), labels, np.arange(rows))


@pytest.mark.parametrize("classes", [("non-lens", "lens"), ("no_sub", "axion", "cdm")])
def test_four_pictures_are_drawn(classes, tmp_path):
    paths = draw(outputs(len(classes)), classes, tmp_path / "new")
    assert [path.name for path in paths] == ["roc.png", "pr.png", "confusion.png", "calibration.png"]
    for path in paths:
        assert imread(path).std() > 0.05


@pytest.mark.parametrize("scale", [0.0, 1000.0], ids=["collapsed", "perfect"])
def test_extremes_are_drawn(scale, tmp_path):
    extreme = outputs(2, rows=60)
    extreme.logits[:] = scale * np.eye(2)[extreme.labels]
    assert len(draw(extreme, ("non-lens", "lens"), tmp_path)) == 4


def test_a_warning_stands_on_every_picture(tmp_path):
    red = np.array([209, 73, 91]) / 255
    for path in draw(outputs(2), ("non-lens", "lens"), tmp_path, warning=WARNING):
        below = np.abs(imread(path)[-40:, :, :3] - red).max(-1) < 0.02
        assert below.sum() > 50, path.name
        assert not below[:, :5].any(), "cut at its ends"
        assert not below[:, -5:].any()


def test_a_split_without_lenses_is_refused_before_anything_is_written(tmp_path):
    empty = outputs(2)
    empty.labels[:] = 0
    with pytest.raises(DataError, match="labels 0 alone"):
        draw(empty, ("non-lens", "lens"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_faint_arc_is_brighter_where_pixels_are_linear():
    image = np.zeros((1, 32, 32), np.float32)
    image[0, 16, 16], image[0, 5, 5:20] = 1.0, 0.05
    image[0, 14:18, 14:18] = 1.0
    seen = {name: pictures.stretched(image, name)[5, 10] for name in ("minmax", "none", "asinh", "log")}
    assert seen["asinh"] == seen["log"] == pytest.approx(0.05)
    assert seen["minmax"] == seen["none"] > 0.15


def test_a_small_probability_is_told_from_none():
    assert [pictures.chance(one) for one in (0.0, 0.00042, 0.5)] == ["0.000", "4e-04", "0.500"]
