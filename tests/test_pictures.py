import io
from itertools import pairwise

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from raylens import pictures
from raylens.errors import DataError
from raylens.metrics import evaluate_outputs
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


def test_panels_apart_are_files_of_their_own(tmp_path):
    paths = draw(outputs(2), ("non-lens", "lens"), tmp_path, warning=WARNING, apart=True)
    names = ["roc-1", "roc-2", "pr-1", "pr-2", "confusion", "calibration-1", "calibration-2"]
    assert [path.stem for path in paths] == names
    for path in paths:
        height, width = imread(path).shape[:2]
        assert width < 1.5 * height


@pytest.mark.parametrize("span", [(-24.0, -22.0), (0.0, 1e-5), (1e5, 3e5)])
def test_a_regression_is_drawn_with_all_of_its_words_and_points(span):
    random = np.random.default_rng(0)
    numbers = random.uniform(*span, 300)
    predicted = numbers + random.normal(0, 0.1 * (span[1] - span[0]), 300)
    title = "MAE 12345.678 [12345.678, 12345.678]\nR2 -0.123 [-0.123, -0.123]"
    for drawing in (pictures._scatter, pictures._residuals):
        with matplotlib.rc_context(pictures.STYLE):
            figure = drawing(predicted, numbers, "log10_mass", title)
            FigureCanvasAgg(figure).draw()
        (axes,) = figure.axes
        words = axes.title.get_window_extent()
        assert figure.bbox.x0 <= words.x0
        assert words.x1 <= figure.bbox.x1
        ends = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert all(one.x1 < other.x0 for one, other in pairwise(ends)), "labels of ticks collide"
        low, high = axes.get_xlim()
        assert low < numbers.min()
        assert numbers.max() < high
    low, high = pictures._scatter(predicted, numbers, "log10_mass", title).axes[0].get_xlim()
    assert low < min(numbers.min(), predicted.min())
    assert max(numbers.max(), predicted.max()) < high


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_painted_is_one_picture_or_one_of_each_image(apart, tmp_path):
    random = np.random.default_rng(0)
    high = random.random((3, 1, 32, 32)).astype(np.float32)
    judged = random.random((20, 4)) + 0.1
    shown = (high[..., ::2, ::2], high + 0.1, high, judged)
    paths = pictures.draw_super_resolution(*shown, tmp_path, apart=apart)
    names = ["images-1", "images-2", "images-3"] if apart else ["images"]
    assert [path.stem for path in paths] == [*names, "gain"]
    images = [np.where(high < 0.2, np.nan, high) if masked else high for masked in (0, 1, 0, 0, 1, 0)]
    paths = pictures.draw_reconstruction(images, tmp_path, apart=apart)
    assert [path.stem for path in paths] == [name.replace("images", "reconstruction") for name in names]


def test_a_pair_holds_the_image_and_what_speaks_in_it():
    image, seen = np.zeros((1, 32, 32), np.float32), np.zeros((32, 32), np.float32)
    image[0, 4:8] = 1.0
    seen[:, 20:24] = 1.0
    drawn = imread(io.BytesIO(pictures.pair(image, seen)))[..., :3]
    left, right = drawn[:, :160], drawn[:, -160:]
    assert drawn.shape[0] == 160
    assert (np.ptp(left, axis=-1) == 0).all(), "the image is as it was given"
    coloured = np.ptp(right, axis=-1) > 0.1
    assert coloured[:, 100:120].all()
    assert not coloured[:, :100].any()
    assert left[20 + 100, 80].min() > 0.9, "and the right way up"


@pytest.mark.parametrize(("bands", "shown"), [(("red", "green", "blue"), 0), (("g", "r", "i"), 2), ((), 2)])
def test_a_picture_keeps_its_colours_wherever_it_is_drawn(bands, shown):
    """The last of three bands is red, but for pictures, whose first is."""
    image = np.zeros((3, 32, 32), np.float32)
    image[0, 8:24, 8:24] = 1.0
    nothing = np.zeros((32, 32), np.float32)
    for drawn in (
        pictures.pair(image, nothing, "minmax", bands),
        pictures.sheet([image], ["a"], "minmax", bands),
        pictures.explained([image], [nothing], ["a"], "", "minmax", bands),
    ):
        colours = imread(io.BytesIO(drawn))[..., :3].reshape(-1, 3)
        sure = colours[np.ptp(colours, axis=1) > 0.9]
        assert len(sure)
        assert (sure.argmax(1) == shown).all()


def test_figures_on_pictures_are_those_of_the_report(tmp_path, monkeypatch):
    given, classes = outputs(2), ("non-lens", "lens")
    report = evaluate_outputs(given, classes, seed=7, resamples=50)
    monkeypatch.setattr(pictures, "evaluate_outputs", lambda *_, **__: pytest.fail("it was measured again"))
    assert len(draw(given, classes, tmp_path, report=report)) == 4


def test_of_finetuned_encoders_each_amount_of_labels_has_a_panel(monkeypatch):
    kept = []
    monkeypatch.setattr(pictures, "Figure", lambda **settings: kept.append(Figure(**settings)) or kept[-1])
    rows = [
        {"labels": amount, "images": images, "encoder": f"byol {kind}", "kind": kind, "trainings": 2}
        | {"psnr": value, "psnr_low": value - 2, "psnr_high": value + 1}
        for amount, images in (("10%", 60), ("600", 600))
        for kind, value in (("finetuned", 40 + images / 100), ("frozen", 30), ("from scratch", 35))
    ]
    plain = {"labels": "none", "images": 0, "encoder": "bicubic", "kind": "bicubic", "trainings": 0}
    rows.append(plain | {"psnr": 20, "psnr_low": 19, "psnr_high": 21})
    assert imread(io.BytesIO(pictures.finetuned(pd.DataFrame(rows), "psnr"))).std() > 0.05
    few, many = kept[0].axes
    assert [axes.get_title() for axes in (few, many)] == ["10%: 60 images", "600 images"]
    assert [text.get_text() for text in few.get_yticklabels()] == [
        *(f"byol {kind}" for kind in ("finetuned", "frozen", "from scratch")),
        "bicubic",
    ]
    assert [float(line.get_xdata()[0]) for line in few.lines] == [40.6, 30, 35, 20]
    assert [float(line.get_xdata()[0]) for line in many.lines] == [46, 30, 35, 20]
    bars = [bar.get_segments()[0][:, 0].tolist() for bar in few.collections]
    assert bars[0] == [38.6, 41.6], "from low to high"
    assert len({line.get_color() for line in few.lines}) == 3, "what starts from nothing is grey"


def test_of_a_label_that_is_too_long_the_end_is_shown_and_that_it_is_one():
    assert pictures._ends("1: 0.997\nsurvey-48-test-12359", 18) == "1: 0.997\n…vey-48-test-12359"
    assert pictures._ends("just-so-many-as-18", 18) == "just-so-many-as-18"
