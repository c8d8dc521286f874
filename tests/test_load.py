"""raylens.load: a checkpoint becomes a model that takes images as they are."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import raylens
from raylens import checkpoint
from raylens.data.preprocess import preprocess
from raylens.errors import ConfigError, DataError
from raylens.loop import collect


@pytest.fixture
def save(tiny, tmp_path):
    """Writes a checkpoint of a model that has learned nothing; returns its folder."""

    def write(method="supervised", channels=1, classes=("nonlens", "lens"), scale=(0.0, 1.0), **sections):
        run = tiny.run(method, **sections)
        facts = checkpoint.Facts(classes, channels, 32, {}, scale, factor=2)
        checkpoint.save(tmp_path / "model", run, facts, checkpoint.build_model(run, facts), {})
        return tmp_path / "model"

    return write


def sky(rows: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 3, (rows, channels, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("transform", ["minmax", "asinh", "log", "none"])
def test_images_are_preprocessed_as_in_training(save, transform):
    folder = save(data={"transform": transform})
    found, images = checkpoint.read(folder), sky(5)
    output = collect(found.model(), preprocess(images, transform), None)
    model = raylens.load(folder)
    np.testing.assert_allclose(
        model(images), found.facts.task(found.run.task).predict(output.logits), atol=1e-6
    )
    np.testing.assert_allclose(model.features(images), output.features, atol=1e-5)


def test_what_is_said_of_turned_images_does_not_depend_on_how_they_lie(save):
    folder, images = save(), sky(5)
    model, turned = raylens.load(folder), raylens.load(folder, dihedral=True)
    other = np.rot90(images, 1, (2, 3))
    assert not np.allclose(model(images), model(other), atol=1e-5)
    np.testing.assert_allclose(turned(images), turned(other), atol=1e-6)
    expected = [model(np.rot90(side, k, (2, 3))) for side in (images, images[..., ::-1]) for k in range(4)]
    np.testing.assert_allclose(turned(images), np.mean(expected, axis=0), atol=1e-6)


def test_turns_of_painted_images_are_refused(save):
    with pytest.raises(ConfigError, match="leave --dihedral out"):
        raylens.load(save(task={"name": "super_resolution"}), dihedral=True)


def test_a_finder_says_what_it_is_and_gives_probabilities(save):
    folder = save()
    model = raylens.load(folder, device="cpu", batch=2)
    assert (model.classes, model.size, model.channels, model.kind) == (
        ("nonlens", "lens"),
        32,
        1,
        "classification",
    )
    said = model(sky(5))
    assert said.shape == (5, 2)
    np.testing.assert_allclose(said.sum(1), 1)
    assert repr(model) == "<raylens model of nonlens, lens: images of 1 x 32 x 32, minmax, on cpu>"
    np.testing.assert_allclose(said, raylens.load(folder, batch=100)(sky(5)), atol=1e-6)


def test_images_of_one_channel_come_in_three_shapes_and_any_numbers(save):
    model, images = raylens.load(save()), sky(3)
    whole = model(images)
    for given in (images[:, 0], torch.from_numpy(images), images.tolist()):
        np.testing.assert_array_equal(model(given), whole)
    np.testing.assert_allclose(model(images[0, 0]), whole[:1], atol=1e-6)
    for dtype in (np.uint8, np.int16, np.float64, np.float16, ">f4"):
        there = images.astype(dtype)
        np.testing.assert_allclose(model(there), model(there.astype(np.float32)), atol=1e-6)
    assert model(images[:0]).shape == (0, 2)
    assert model.explain(images[:0]).shape == (0, 32, 32)


def test_images_of_several_channels_may_be_one(save):
    model, images = raylens.load(save(channels=3)), sky(2, 3)
    np.testing.assert_allclose(model(images[0]), model(images)[:1], atol=1e-6)


def test_a_dead_pixel_is_no_trouble(save):
    images = sky(2)
    images[0, 0, 3, 3], images[1] = np.nan, np.inf
    assert np.isfinite(raylens.load(save())(images)).all()


@pytest.mark.parametrize(
    ("channels", "shape"),
    [
        (1, (2, 1, 30, 30)),
        (1, (2, 3, 32, 32)),
        (1, (32,)),
        (1, ()),
        (1, (1, 1, 1, 32, 32)),
        (3, (32, 32)),
        (3, (2, 32, 32)),
    ],
)
def test_other_shapes_are_refused_with_the_right_one(save, channels, shape):
    model = raylens.load(save(channels=channels))
    for act in (model, model.features, model.explain):
        with pytest.raises(
            DataError, match=rf"the images are \({', '.join(map(str, shape))}.*{channels}, 32, 32\)"
        ):
            act(np.zeros(shape))


@pytest.mark.parametrize("images", ["picture.png", [[1], [1, 2]], np.zeros((32, 32), complex), None])
def test_what_is_no_image_is_refused(save, images):
    with pytest.raises(DataError, match="the images"):
        raylens.load(save())(images)


def test_other_tasks_tell_their_own(save):
    images = sky(3)
    number = raylens.load(save(task={"name": "regression"}, scale=(-23.0, 1.0)))
    assert (number.classes, number.target, number(images).shape) == ((), "log10_mass", (3,))
    assert np.abs(number(images) + 23).max() < 5
    assert number.explain(images).shape == (3, 32, 32)
    painter = raylens.load(save(task={"name": "super-resolution", "width": 8, "blocks": 1}))
    assert painter(images).shape == (3, 1, 64, 64)
    assert painter.features(images).shape == (3, 16)
    encoder = raylens.load(save("contrastive"))
    np.testing.assert_array_equal(encoder(images), encoder.features(images))
    for model in (painter, encoder):
        with pytest.raises(ConfigError, match="that a map could explain"):
            model.explain(images)


def test_a_class_is_explained_by_number_or_name(save):
    model, images = raylens.load(save(), batch=2), sky(3)
    seen = model.explain(images, "lens")
    assert (seen.shape, seen.dtype) == ((3, 32, 32), np.float32)
    np.testing.assert_array_equal(seen, model.explain(images, 1))
    with pytest.raises(ConfigError, match="no class 'len' to explain; known here: nonlens, lens"):
        model.explain(images, "len")
    with pytest.raises(ConfigError, match="no class 7"):
        model.explain(images, 7)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no checkpoint"):
        raylens.load(tmp_path)


def test_a_device_that_is_not_there_is_refused(save, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU here"):
        raylens.load(save(), device="cuda")


def test_neither_ray_nor_the_command_line_is_needed(save):
    code = f"""
import sys
sys.modules["ray"] = None
import numpy, raylens
model = raylens.load({str(save())!r})
model(numpy.zeros((32, 32))), model.explain(numpy.zeros((32, 32)))
assert "raylens.cli" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_the_readme_does_in_python_is_done(save, tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = textwrap.dedent(re.search(r"## In Python\n\n((?: {4}.*\n)+)", text)[1])
    monkeypatch.chdir(tmp_path)
    Path("runs/adda-NAME").mkdir(parents=True)
    save().rename("runs/adda-NAME/best")
    np.save("cutouts.npy", sky(3))
    made = {}
    exec(code, made)
    assert (made["lens"].shape, made["seen"].shape) == ((3,), (3, 32, 32))
    assert made["features"].shape == (3, 16)
    assert 0 <= made["seen"].min() <= made["seen"].max() <= 1
