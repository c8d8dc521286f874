"""`python -m raylens.explain`: a picture of what a checkpoint looks at."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from raylens import checkpoint, saliency
from raylens.errors import ConfigError, DataError
from raylens.explain import explain, first, labels, wanted


@pytest.fixture
def save(tiny, tmp_path):
    """Writes a checkpoint of a model that has learned nothing; returns its folder."""

    def write(name="model", classes=("nonlens", "lens"), **sections) -> str:
        run = tiny.run(sections.pop("method", "supervised"), **sections)
        facts = tiny.facts(classes)
        checkpoint.save(tmp_path / name, run, facts, checkpoint.build_model(run, facts), {})
        return str(tmp_path / name)

    return write


@pytest.fixture
def images(image_folder):
    """A folder of 6 files, of which the first is torn."""
    return image_folder(6, torn=0)


@pytest.mark.parametrize("encoder", ["small", "vit"])
def test_a_set_is_pictured(save, toy_sets, tmp_path, capsys, encoder):
    words = [save(encoder={"name": encoder}), toy_sets["data.target"], "--split", "test", "--rows", "5"]
    out = str(tmp_path / "out")
    assert explain([*words, "--out", out, "--class", "lens"]) == out
    picture = imread(f"{out}/explained.png")
    assert picture.shape[1] > picture.shape[0] > 300
    assert picture.std() > 0.05
    said = capsys.readouterr().out
    assert said.startswith(f"5 images by {'Grad-CAM' if encoder == 'small' else 'attention rollout'}; rank")


@pytest.mark.parametrize(("alike", "warned"), [(0.81, True), (0.8, False), (-0.3, False)])
def test_maps_that_shuffled_weights_make_too_are_warned_of(
    save, images, tmp_path, capsys, monkeypatch, alike, warned
):
    monkeypatch.setattr(saliency, "likeness_to_random", lambda *given: alike)
    explain([save(), images, "--out", str(tmp_path / "out")])
    assert ("the maps say little about this model" in capsys.readouterr().out) == warned


def test_a_folder_is_read_up_to_as_many_rows_as_are_asked_for(save, images, tmp_path):
    explain([save(), images, "--out", str(tmp_path / "out"), "--rows", "100"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["explained.png"]


def test_the_first_images_that_can_be_read_are_taken_as_the_model_wants_them(save, images):
    from raylens.data.convert import Shape
    from raylens.data.pieces import Reader

    reader = Reader(Shape(expected=(1, 32, 32)), "minmax")
    pixels, ids = first(reader, images, None, 3)
    assert ids == ["01", "02", "03"]
    assert (pixels.shape, pixels.min(), pixels.max()) == ((3, 1, 32, 32), 0, 1)
    with pytest.raises(
        DataError, match=r"can be read as 1 x 48 x 48: 5 wrong shape, 1 x 32 x 32 .*--crop or --resize"
    ):
        first(Reader(Shape(expected=(1, 48, 48)), "minmax"), images, None, 3)


@pytest.mark.parametrize(
    ("taken", "error", "said"),
    [
        (["--bands", "0,"], ConfigError, "--bands '0,' is no list of numbers"),
        (["--crop", "0"], ConfigError, "--crop 0 is no size of an image"),
        (["--crop", "-5"], ConfigError, "--crop -5 is no size of an image"),
        (["--bands", "3"], DataError, "no band 3, there are 0 to 0"),
    ],
)
def test_a_part_of_images_that_there_is_not_is_refused(save, images, tmp_path, taken, error, said):
    with pytest.raises(error, match=said):
        explain([save(), images, "--out", str(tmp_path / "out"), *taken])
    assert not (tmp_path / "out").exists()


def test_labels_tell_the_explained_class_and_its_probability(save):
    found = checkpoint.read(save(classes=("no", "cdm", "axion")))
    said = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    assert labels(found, said, None, ["a", "b"]) == ["no 0.700\na", "axion 0.600\nb"]
    assert labels(found, said, wanted(found, "cdm"), ["a", "b"]) == ["cdm 0.200\na", "cdm 0.300\nb"]
    number = checkpoint.read(save("number", task={"name": "regression"}))
    assert labels(number, np.array([-23.456]), None, ["a"]) == ["log10_mass -23.46\na"]


def test_bad_requests_are_refused_in_a_line(save, images, tmp_path):
    model, out = save(), ["--out", str(tmp_path / "out")]
    painter = save("painter", task={"name": "super_resolution", "width": 8, "blocks": 1})
    pretrained = save("pretrained", method="contrastive")
    (tmp_path / "file").touch()
    for words, told in (
        (
            [model, images, "--class", "lenss", *out],
            r"no class 'lenss' \(did you mean lens\?\); known here: nonlens, lens",
        ),
        ([save("number", task={"name": "regression"}), images, "--class", "lens", *out], "leave --class out"),
        ([model, images, "--rows", "0", *out], "--rows 0 shows nothing"),
        ([model, images, "--bands", "a", *out], "--bands 'a' is no list of numbers"),
        ([model, images, "--out", f"{tmp_path}/file/out"], "cannot be written"),
        ([painter, images, *out], "paints images"),
        ([pretrained, images, *out], "finetune it first"),
    ):
        with pytest.raises(ConfigError, match=told):
            explain(words)
    for words, told in (
        ([model, f"{tmp_path}/nothing", *out], "nothing"),
        ([model, images, "--split", "test", *out], "leave --split out"),
    ):
        with pytest.raises(DataError, match=told):
            explain(words)
    assert not (tmp_path / "out").exists()
