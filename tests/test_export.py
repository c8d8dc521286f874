"""`python -m raylens.export`: files that say without raylens what the checkpoint says with it, or none."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import raylens
from raylens import checkpoint, standalone
from raylens.card import evaluations
from raylens.data.preprocess import TRANSFORMS, preprocess
from raylens.errors import ConfigError
from raylens.export import export
from raylens.models import Painter, adapt_batch_norm, batch_norms
from raylens.standalone import FORMATS, TOLERANCE, Standalone, compare, trials, write

MANIFEST = {
    "name": "toy",
    "bands": ["i"],
    "arcsec_per_pixel": 0.168,
    "made": {"command": "tests"},
    "splits": {
        "train": {"rows": 8, "files": [{"sha256": "a1b2"}], "labels": {"nonlens": 6, "lens": 2}},
        "val": {"rows": 4, "files": [{"sha256": "c3"}, {"sha256": "d4"}], "labels": {"nonlens": 4}},
    },
}
TASKS = {
    "three": {"classes": ("no_sub", "cdm", "axion")},
    "regression": {"task": {"name": "regression"}, "scale": (-23.0, 0.6)},
    "super_resolution": {"task": {"name": "super_resolution", "width": 8, "blocks": 1}},
    "pretraining": {"method": "contrastive"},
}


def images(rows: int, channels: int = 1) -> np.ndarray:
    """Noise around 100 under blobs of all widths, (N, C, 32, 32)."""
    rng = np.random.default_rng(rows)
    y, x = np.mgrid[-16:16, -16:16]
    widths = rng.uniform(1, 16, (rows, channels, 1, 1))
    blobs = 100 * np.exp(-(x**2 + y**2) / (2 * widths**2))
    return (100 + blobs + 3 * rng.standard_normal(blobs.shape)).astype(np.float32)


@pytest.fixture
def save(tiny, tmp_path):
    """Writes a checkpoint of a model that has seen a few images; returns its folder."""

    def write(method="supervised", channels=1, classes=("nonlens", "lens"), scale=(0.0, 1.0), **sections):
        run = tiny.run(method, **sections)
        facts = checkpoint.Facts(classes, channels, 32, {"source": MANIFEST}, scale, factor=2)
        torch.manual_seed(0)
        model = checkpoint.build_model(run, facts)
        pixels = preprocess(images(64, channels), run.data.transform)
        adapt_batch_norm(model, pixels)
        with torch.no_grad():
            if isinstance(model, Painter):  # it begins as bicubic interpolation
                for weight in model.head.parameters():
                    weight.add_(0.05 * torch.randn_like(weight))
            elif isinstance(model.head, torch.nn.Linear):  # images are to be told apart
                said = model(torch.from_numpy(pixels))
                model.head.weight.div_(said.std(0)[:, None])
                model.head.bias.sub_(said.mean(0)).div_(said.std(0))
        folder = tmp_path / "run" / "best"
        checkpoint.save(folder, run, facts, model, {})
        return folder

    return write


def encoder(name: str) -> dict:
    small = {"ecnn": {"width": 3}, "vit": {"depth": 2, "features": 32}}
    return {"encoder": {"name": name, **small.get(name, {})}}


def read(path) -> standalone.Callable:
    """What a file says of images, without raylens."""
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        return lambda images: module(torch.from_numpy(images)).numpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    assert [one.name for one in session.get_inputs()] == ["pixels"]
    assert session.get_inputs()[0].shape[0] == "batch"
    return lambda images: session.run(None, {"pixels": images})[0]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "sections",
    [
        *(encoder(name) for name in ("small", "ecnn", "vit", "test_resnet")),
        *TASKS.values(),
        {**TASKS["super_resolution"], **encoder("ecnn"), "channels": 3},
        {**encoder("vit"), "method": "mae"},
    ],
    ids=["small", "ecnn", "vit", "resnet", *TASKS, "ecnn-paints", "mae"],
)
def test_a_file_says_what_the_checkpoint_says(save, tmp_path, form, sections):
    folder = save(**sections)
    assert export([str(folder), "--out", f"{tmp_path}/out", "--format", form]) == f"{tmp_path}/out"
    path = tmp_path / "out" / FORMATS[form]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {path.name, "model-card.md"}
    says, model = read(path), raylens.load(folder, device="cpu")
    for rows in (1, 2, 5):
        given = images(rows, model.channels)
        expected = model(given)
        np.testing.assert_allclose(says(given), expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert np.ptp(expected, axis=0).max() > (0 if model.kind == "pretraining" else 0.02)
    assert b"site-packages" not in path.read_bytes()


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_every_transform_is_inside(save, tmp_path, transform):
    ready = raylens.load(save(data={"transform": transform}), device="cpu")
    assert (
        compare(ready, lambda images: Standalone(ready)(torch.from_numpy(images)).numpy(), "torch")
        < TOLERANCE
    )
    assert write(ready, "onnx", tmp_path / "model.onnx") < TOLERANCE


def test_the_equivariant_encoder_becomes_plain_convolutions(save):
    ready = raylens.load(save(**encoder("ecnn")), device="cpu")
    made = Standalone(ready)
    assert not any(type(module).__module__.startswith("escnn.nn.modules.conv") for module in made.modules())
    assert sum(type(module) is torch.nn.Conv2d for module in made.modules()) == 6
    assert [*batch_norms(ready.model)], "the original is left as it was"
    before = ready(np.eye(32))
    for weight in made.parameters():
        weight.zero_()
    np.testing.assert_array_equal(ready(np.eye(32)), before)


def test_a_file_that_says_something_else_is_not_left_behind(save, tmp_path, monkeypatch):
    told = standalone.Standalone.forward
    monkeypatch.setattr(standalone.Standalone, "forward", lambda self, pixels: told(self, pixels) + 2e-4)
    for form in FORMATS:
        with pytest.raises(
            ConfigError, match=rf"as {form} the model differs by 0\.0002 in random images, above"
        ):
            export([str(save()), "--out", f"{tmp_path}/out", "--format", form])
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_files_of_before_stay_when_an_export_fails(save, tmp_path, monkeypatch):
    words = [str(save()), "--out", f"{tmp_path}/out", "--format", "torch"]
    export(words)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(torch.export, "export", lambda *given, **named: 1 / 0)
    with pytest.raises(ConfigError, match="cannot be written as torch: division by zero"):
        export(words)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_an_export_leaves_nothing_of_the_model_that_was_there(save, tmp_path):
    for form, left in (("torch", "model.pt2"), ("onnx", "model.onnx")):
        export([str(save()), "--out", f"{tmp_path}/out", "--format", form])
        assert {path.name for path in (tmp_path / "out").iterdir()} == {left, "model-card.md"}


def test_an_export_leaves_the_models_of_others_alone(save, tmp_path):
    (tmp_path / "model.pt2").write_text("another's")
    export([str(save()), "--out", str(tmp_path), "--format", "onnx"])
    assert (tmp_path / "model.pt2").read_text() == "another's"


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (lambda said: said[:, :1], "says something else"),
        (lambda said: np.where(said > 2, said, np.nan), "says something else"),
        (lambda said: said + 1e-3, "differs by 0.001"),
    ],
)
def test_a_comparison_sees_shapes_nans_and_differences(save, found, told):
    ready = raylens.load(save(), device="cpu")
    assert compare(ready, ready, "torch") == 0
    with pytest.raises(ConfigError, match=told):
        compare(ready, lambda images: found(ready(images)), "torch")


def test_extremes_are_among_the_trials(save):
    found = trials(raylens.load(save(), device="cpu"))
    assert {len(images) for images in found.values()} >= {1, 3, 7}
    assert np.isnan(found["damaged"]).any()
    assert np.isinf(found["damaged"]).any()
    assert np.abs(found["very faint and bright"]).max() > 1e20
    assert (np.ptp(found["flat"], axis=(1, 2, 3)) == 0).any()


def test_the_card_tells_data_metrics_limits_and_versions(save, tmp_path):
    folder = save()
    report = {"checkpoint": "runs/run/best", "data": "shards/sky", "split": "test", "where": None, "rows": 90}
    report["metrics"] = {"auroc": {"value": 0.912, "low": 0.87, "high": 0.95}}
    for name, there in (
        ("best-sky-test", report),
        ("last-sky-test", report | {"checkpoint": "x/last", "rows": 91}),
    ):
        (folder.parent / "evaluation" / name).mkdir(parents=True)
        (folder.parent / "evaluation" / name / "metrics.json").write_text(json.dumps(there))
    (folder.parent / "evaluation" / "metrics.json").write_text("{")
    searched = {"best": {"metrics": {"auroc": {"value": 0.87, "low": 0.8, "high": 0.9}}, "rows": 70}}
    (folder.parent / "test.json").write_text(json.dumps({"warning": "chosen by labels", **searched}))
    elsewhere = tmp_path / "metrics.json"
    weights = checkpoint.read(folder).weights
    far = {"data": "s3://bucket/far/", "weights": weights, "checkpoint": "s3://x/y", "batch_norm_from": "a/b"}
    elsewhere.write_text(json.dumps(report | far))
    words = [str(folder), "--out", f"{tmp_path}/out", "--format", "torch", "--metrics", str(elsewhere)]
    export(words)
    card = (tmp_path / "out" / "model-card.md").read_text()
    for said in (
        "which of the classes nonlens, lens",
        'torch.export.load("model.pt2")',
        "| source | toy | train | 8 | 6 nonlens, 2 lens | `a1b2` |",
        "0.168 arcsec per pixel",
        "test, 70 images:",
        "**chosen by labels**",
        "| auroc | 0.87 | 0.8 to 0.9 |",
        "sky, test, 90 images:",
        "| auroc | 0.912 | 0.87 to 0.95 | chance that",
        "far, test, 90 images, with batch norm's statistics of b:",
        "0.25 of the last class",
        f"torch {torch.__version__.partition('+')[0]}",
    ):
        assert said in card
    assert "onnx" not in card
    assert "91 images" not in card
    held = [report["rows"] for report in evaluations(checkpoint.read(f"file://{folder}"))]
    assert held == [70, 90], "at an address too"
    elsewhere.write_text(json.dumps(report | far | {"weights": "0" * 64}))
    with pytest.raises(ConfigError, match="which has other weights than"):
        export(words)
    elsewhere.write_text("{}")
    with pytest.raises(ConfigError, match=r"is no metrics\.json"):
        export(words)


def test_the_code_of_the_card_runs_where_raylens_is_not(save, tmp_path):
    folder = save()
    export([str(folder), "--out", f"{tmp_path}/out"])
    code = [
        part.split("```")[0]
        for part in (tmp_path / "out" / "model-card.md").read_text().split("```python\n")[1:]
    ]
    assert len(code) == 2
    np.save(tmp_path / "images.npy", images(3))
    for lines in code:
        lines = (
            f"import sys, numpy; sys.modules['raylens'] = None; images = numpy.load('../images.npy')\n{lines}"
        )
        lines += "\nprint(probabilities.tolist())"
        done = subprocess.run(
            [sys.executable, "-c", lines], cwd=tmp_path / "out", capture_output=True, text=True, check=True
        )
        np.testing.assert_allclose(json.loads(done.stdout), raylens.load(folder)(images(3)), atol=TOLERANCE)


def test_bad_requests_are_refused_in_a_line(save, tmp_path, monkeypatch):
    model = str(save())
    (tmp_path / "file").touch()
    for words, told in (
        ([model, "--out", "s3://bucket/out"], "is not on this machine"),
        ([model, "--out", f"{tmp_path}/file/out"], "cannot be written"),
        ([model, "--out", f"{tmp_path}/file"], "is a file"),
        ([model, "--out", f"{tmp_path}/out", "--format", "tflite"], "invalid choice: 'tflite'"),
        ([str(tmp_path), "--out", f"{tmp_path}/out"], "is no checkpoint"),
    ):
        with pytest.raises(ConfigError, match=told):
            export(words)
    monkeypatch.setattr(standalone, "_there", lambda name: False)
    with pytest.raises(ConfigError, match=r"onnx needs onnxscript and onnxruntime; .*raylens\[export\]"):
        export([model, "--out", f"{tmp_path}/out"])
    assert {path.name for path in tmp_path.iterdir()} == {"run", "file"}
