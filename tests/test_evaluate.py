"""Measuring a checkpoint: on all rows or some, with the batch norm it has or another set's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import roc_auc_score

from raylens import card, checkpoint
from raylens.cluster.worker import build
from raylens.data.outputs import _meets
from raylens.data.preprocess import preprocess
from raylens.data.shards import LENS_CLASSES, ShardWriter, read_split
from raylens.errors import ConfigError, DataError
from raylens.evaluate import evaluate
from raylens.loop import collect
from raylens.measure import averaged, outputs
from raylens.models import turns


@pytest.fixture
def held(tiny, toy_sets, tmp_path) -> checkpoint.Checkpoint:
    """A checkpoint of a model that has learned nothing."""
    run = tiny.run()
    checkpoint.save(tmp_path / "model", run, tiny.facts(), build(run, tiny.facts()).model, {})
    return checkpoint.read(tmp_path / "model")


@pytest.fixture
def graded(tiny, tmp_path) -> str:
    """A labelled set with a column `part`: 30 rows of each of a, b and c, no lens in c."""
    pixels, labels = tiny.domain(90, 0.4, 5, shifted=True)
    labels[60:] = 0
    labels[[0, 1, 30, 31]] = 0, 1, 0, 1
    with ShardWriter(str(tmp_path / "graded"), name="graded", classes=LENS_CLASSES, bands=("i",)) as writer:
        ids = [f"{row}" for row in range(90)]
        writer.add("test", pixels, labels, ids, {"part": np.repeat(["a", "b", "c"], 30)})
    return str(tmp_path / "graded")


def test_an_evaluation_leaves_metrics_and_pictures(held, toy_sets, tmp_path, capsys):
    out = evaluate(
        [str(held.folder), "--data", toy_sets["data.target"], "--out", f"{tmp_path}/out", "--resamples", "50"]
    )
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert out == f"{tmp_path}/out"
    assert found["rows"] == 120
    for name in ("auroc", "auprc", "tpr0", "tpr10"):
        assert (
            found["metrics"][name]["low"] <= found["metrics"][name]["value"] <= found["metrics"][name]["high"]
        )
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".png"}
    assert "auroc" in capsys.readouterr().out


def test_where_takes_some_rows(held, graded):
    everything = outputs(held, graded, "test")
    some = outputs(held, graded, "test", where="part=a,c")
    assert len(everything.labels) == 90
    np.testing.assert_array_equal(
        some.labels, np.concatenate([everything.labels[:30], everything.labels[60:]])
    )
    np.testing.assert_allclose(some.logits[:30], everything.logits[:30], atol=1e-6)
    with pytest.raises(DataError, match="where part=c has labels of 'nonlens' only"):
        outputs(held, graded, "test", where="part=c")
    with pytest.raises(DataError, match=r"no labelled row in .* where part=d; there are a, b, c"):
        outputs(held, graded, "test", where="part=d")
    with pytest.raises(ConfigError, match=r"not COLUMN=VALUE with a column of .*: part"):
        outputs(held, graded, "test", where="grade=a")


def test_batch_norm_of_another_set_changes_the_outputs_and_not_the_checkpoint(held, toy_sets):
    before = outputs(held, toy_sets["data.target"], "test")
    adapted = outputs(held, toy_sets["data.target"], "test", batch_norm_from=toy_sets["data.target"])
    assert not np.allclose(before.logits, adapted.logits)
    again = outputs(held, toy_sets["data.target"], "test")
    np.testing.assert_array_equal(before.logits, again.logits)


def test_images_are_preprocessed_as_the_checkpoint_has_it(tiny, tmp_path):
    run = tiny.run(data={"transform": "asinh"})
    checkpoint.save(tmp_path / "model", run, tiny.facts(), build(run, tiny.facts()).model, {})
    held = checkpoint.read(tmp_path / "model")
    pixels, labels = tiny.domain(20, 0.4, 5, shifted=False)
    with ShardWriter(str(tmp_path / "set"), classes=LENS_CLASSES, bands=("i",)) as writer:
        writer.add("test", pixels, labels, [str(row) for row in range(20)])
    found = outputs(held, str(tmp_path / "set"), "test").logits
    for transform, alike in (("asinh", True), ("minmax", False)):
        expected = collect(held.model(), preprocess(pixels, transform), None).logits
        assert np.allclose(found, expected, atol=1e-5) is alike


def test_images_that_do_not_fit_the_model_are_refused(held, tmp_path):
    with ShardWriter(str(tmp_path / "wide"), classes=LENS_CLASSES, bands=("i",)) as writer:
        writer.add(
            "test",
            np.random.default_rng(0).random((4, 1, 48, 48), np.float32),
            np.arange(4) % 2,
            list("abcd"),
        )
    with pytest.raises(DataError, match=r"48 x 48, the checkpoint was trained on 1 of 32 x 32; .*--size"):
        outputs(held, str(tmp_path / "wide"), "test")


def test_batch_norm_of_images_that_do_not_fit_the_model_is_refused(held, toy_sets, tmp_path):
    for name, channels, size in (("wide", 1, 48), ("colour", 3, 32)):
        with ShardWriter(str(tmp_path / name)) as writer:
            pixels = np.random.default_rng(0).random((4, channels, size, size), np.float32)
            writer.add("train", pixels, None, list("abcd"))
        told = rf"{name} has {channels} channel\(s\) of {size} x {size}, the checkpoint was trained on 1 of 32 x 32"
        with pytest.raises(DataError, match=told):
            outputs(held, toy_sets["data.target"], "test", batch_norm_from=str(tmp_path / name))


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--resamples", "0", "--resamples 0 is too few; give 1 or more"),
        ("--resamples", "-3", "--resamples -3 is too few"),
        ("--batch", "0", "--batch 0 is too few; give 1 or more"),
        ("--batch", "-1", "--batch -1 is too few"),
        ("--seed", "-1", "--seed -1 is no seed; give 0 or more"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_name(flag, value, told):
    with pytest.raises(ConfigError, match=told):
        evaluate(["runs/none", "--data", "shards/none", flag, value])


def test_a_gpu_that_is_not_there_is_refused(held, toy_sets, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU here; use --device cpu"):
        outputs(held, toy_sets["data.target"], "test", device="cuda")


def test_an_ensemble_says_the_mean_of_its_models_probabilities(tiny, held, toy_sets, tmp_path):
    run = tiny.run(seed=1)
    other = build(run, tiny.facts()).model
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    checkpoint.save(tmp_path / "other", run, tiny.facts(), other, {})
    said = [
        outputs(checkpoint.read(tmp_path / name), toy_sets["data.target"], "test")
        for name in ("model", "other")
    ]
    chances = [np.exp(one.logits) / np.exp(one.logits).sum(1, keepdims=True) for one in said]
    assert not np.allclose(*chances, atol=1e-3)
    together = np.exp(averaged(said).logits)
    np.testing.assert_allclose(together, np.mean(chances, axis=0), atol=1e-5)

    flags = ["--data", toy_sets["data.target"], "--resamples", "50"]
    out = evaluate([str(held.folder), "--checkpoint", str(tmp_path / "other"), *flags])
    report = json.loads((Path(out) / "metrics.json").read_text())
    expected = roc_auc_score(said[0].labels, together[:, 1])
    assert report["metrics"]["auroc"]["value"] == pytest.approx(expected, abs=1e-6)
    assert "ensemble-of-2" in out
    assert not list(card.evaluations(held))  # it is no figure of the first model's


def test_turned_images_are_averaged_and_told(held, toy_sets):
    split = read_split(toy_sets["data.target"], "test", ("pixels", "label"))
    model, pixels = held.model(), preprocess(split["pixels"], held.run.data.transform)
    with torch.inference_mode():
        said = [model(turn).softmax(1)[:, 1].numpy() for turn in turns(torch.from_numpy(pixels))]
    turned = outputs(held, toy_sets["data.target"], "test", dihedral=True)
    found = held.facts.task(held.run.task).scores(turned.logits)
    np.testing.assert_allclose(found, np.mean(said, axis=0), atol=1e-6)

    flags = ["--data", toy_sets["data.target"], "--resamples", "50"]
    out = evaluate([str(held.folder), *flags, "--dihedral"])
    report = json.loads((Path(out) / "metrics.json").read_text())
    expected = roc_auc_score(split["label"], found)
    assert report["metrics"]["auroc"]["value"] == pytest.approx(expected, abs=1e-6)
    assert report["dihedral"]
    assert out.endswith("-dihedral")
    assert "on average of the eight turns" in "\n".join(card.measured(held, []))


def test_a_set_of_the_same_name_does_not_replace_a_report(held, toy_sets, tmp_path):
    shutil.copytree(toy_sets["data.target"], tmp_path / "other")
    sets = [toy_sets["data.target"], str(tmp_path / "other"), toy_sets["data.target"]]
    first, second, third = (
        evaluate([str(held.folder), "--data", data, "--resamples", "50"]) for data in sets
    )
    assert first == third != second
    told = [json.loads((Path(out) / "metrics.json").read_text())["data"] for out in (first, second)]
    assert told == sets[:2]
    assert len(list(card.evaluations(held))) == 2


def test_an_ensemble_is_of_models_that_differ(held, tmp_path):
    shutil.copytree(held.folder, tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"has the weights of .*; give each model once"):
        checkpoint.together([str(held.folder), str(tmp_path / "copy")])


def test_batch_norm_of_a_network_without_any_is_refused(tiny, toy_sets, tmp_path):
    run = tiny.run(encoder={"name": "vit", "features": 16, "depth": 1, "heads": 2})
    checkpoint.save(tmp_path / "vit", run, tiny.facts(), build(run, tiny.facts()).model, {})
    where = toy_sets["data.target"]
    with pytest.raises(ConfigError, match=r"has no batch norm \(encoder vit\); leave --batch-norm-from out"):
        outputs(checkpoint.read(tmp_path / "vit"), where, "test", batch_norm_from=where)


def test_an_ensemble_is_of_models_that_say_the_same(tiny, held, tmp_path):
    others = tiny.facts(classes=("no_sub", "cdm", "axion"))
    checkpoint.save(tmp_path / "others", tiny.run(), others, build(tiny.run(), others).model, {})
    with pytest.raises(ConfigError, match="an ensemble predicts the same of the same images"):
        checkpoint.together([str(held.folder), str(tmp_path / "others")])


@pytest.mark.parametrize(
    ("held", "asked", "met"),
    [
        ([1.0, 2.0, None], ["1.0"], [True, False, False]),
        ([1.0, 2.5, None], ["1", "2.5"], [True, True, False]),
        ([1237648720693755918, 1237648720693755919], ["1237648720693755918"], [True, False]),
        ([True, False, None], ["True"], [True, False, False]),
        (["a", "b", None], ["b", "c"], [False, True, False]),
        ([1, 2], ["a"], [False, False]),
    ],
)
def test_values_of_a_condition_are_of_the_columns_type(held, asked, met):
    assert _meets(pa.table({"x": held}), "x", asked).to_pylist() == met
