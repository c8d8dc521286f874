"""A set at a higher resolution keeps all that is not its pixels."""

import json

import numpy as np
import pytest
import torch

from raylens import checkpoint
from raylens.checkpoint import Facts
from raylens.data.__main__ import main
from raylens.data.preprocess import preprocess
from raylens.data.shards import ShardWriter, read_manifest, read_split, verify
from raylens.tasks.super_resolution import bicubic


@pytest.fixture
def painter(tiny, tmp_path) -> str:
    """A checkpoint that paints 32 x 32 images as 64 x 64; as it starts, by bicubic interpolation."""
    run = tiny.run(task={"name": "super-resolution", "width": 8, "blocks": 1})
    facts = Facts(("no_sub", "cdm"), 1, 32, {}, factor=2)
    checkpoint.save(tmp_path / "painter", run, facts, checkpoint.build_model(run, facts), {})
    return str(tmp_path / "painter")


@pytest.fixture
def pairs(tmp_path) -> str:
    rng = np.random.default_rng(0)
    high = rng.random((700, 1, 64, 64), dtype=np.float32)
    low = high.reshape(700, 1, 32, 2, 32, 2).mean((3, 5))
    mass = np.where(np.arange(700) % 2, -23.0, np.nan)
    about = {"bands": ("i",), "arcsec_per_pixel": 0.1, "classes": ("no_sub", "cdm")}
    with ShardWriter(str(tmp_path / "pairs"), **about) as writer:
        for split, rows in (("train", slice(0, 600)), ("test", slice(600, 700))):
            held = {"log10_mass": mass[rows], "sub_x": [np.arange(k % 3) for k in range(len(low[rows]))]}
            labels = np.where(np.arange(len(low[rows])) % 5, np.arange(len(low[rows])) % 2, -1)
            names = [f"{split}{k}" for k in range(len(low[rows]))]
            writer.add(split, low[rows], labels, names, held | {"high": high[rows]})
    return str(tmp_path / "pairs")


@pytest.mark.parametrize("by", ["model", "bicubic", "high"])
def test_a_set_is_made_finer_and_the_rest_stays(painter, pairs, tmp_path, by, capsys):
    out = str(tmp_path / "finer")
    assert main(["resolve", painter, pairs, "--out", out, "--by", by]) == 0
    assert capsys.readouterr().out.strip() == out
    verify(out)
    held, before = read_manifest(out), read_manifest(pairs)
    assert (held.size, held.arcsec_per_pixel, held.classes) == (64, 0.05, before.classes)
    assert held.columns == ("log10_mass", "sub_x")
    for split in ("train", "test"):
        columns = ("pixels", "label", "id", "log10_mass")
        ours, theirs = read_split(out, split, columns), read_split(pairs, split, (*columns, "high"))
        for column in columns[1:]:
            np.testing.assert_array_equal(ours[column], theirs[column])
        low = preprocess(theirs["pixels"], "minmax")
        high = preprocess(theirs["high"], "minmax", like=theirs["pixels"])
        expected = high if by == "high" else bicubic(torch.from_numpy(low), 2).numpy()
        np.testing.assert_allclose(ours["pixels"], expected, atol=1e-6)
    assert held.made["by"] == by
    assert json.dumps(held.made["of"]) == json.dumps(before.made)


def test_what_cannot_be_made_finer_is_refused(painter, pairs, tiny, tmp_path, capsys):
    run, facts = tiny.run(), tiny.facts()
    checkpoint.save(tmp_path / "finder", run, facts, checkpoint.build_model(run, facts), {})
    with ShardWriter(str(tmp_path / "small")) as writer:
        writer.add(
            "test", np.random.default_rng(0).random((9, 1, 20, 20), np.float32), None, list("abcdefghi")
        )
    with ShardWriter(str(tmp_path / "alone")) as writer:
        writer.add(
            "test", np.random.default_rng(0).random((9, 1, 32, 32), np.float32), None, list("abcdefghi")
        )
    for words, said in (
        ([str(tmp_path / "finder"), pairs], "is of classification and paints no images"),
        ([painter, str(tmp_path / "small")], "has 1 channel(s) of 20 x 20"),
        ([painter, str(tmp_path / "alone"), "--by", "high"], "has no twins of 64 pixels"),
    ):
        assert main(["resolve", *words, "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
