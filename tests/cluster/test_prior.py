"""The share of lenses that methods are told; no Ray is started."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from raylens import checkpoint, cli
from raylens.cluster.prior import SETTING, informed
from raylens.data.stream import Split
from raylens.errors import ConfigError
from raylens.priors import mlls
from raylens.records import Outputs


@pytest.fixture
def here(monkeypatch):
    """Ray's tasks, done at once."""
    monkeypatch.setattr("ray.remote", lambda **how: lambda work: SimpleNamespace(remote=work))
    monkeypatch.setattr("ray.get", lambda done: done)


@pytest.fixture
def said(monkeypatch):
    """Logits of 2,000 source images, half of them lenses, and 2,000 of the target, 1 in 20."""
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 2
    truth = np.arange(2000) % 20 == 0
    made = {}
    for name, right in (("source", labels), ("target", truth)):
        score = rng.normal(size=2000) + 2.0 * right
        made[name] = np.stack([np.zeros(2000), 2.0 * score - 2.0], axis=1)  # log odds of two normals 2 apart

    def collect(model, pixels, given, device):
        assert given is None
        return Outputs(None, made[pixels], None, None)

    monkeypatch.setattr("raylens.cluster.prior.collect", collect)
    splits = {"source": Split("source", labels), "target": Split("target", None)}
    return made, SimpleNamespace(validation=splits)


def asking(tiny, folder, method="adda", **settings):
    first = tiny.run("supervised", scale={"gpus": 0})
    checkpoint.save(folder, first, tiny.facts(), tiny.method(first).result, {})
    return tiny.run(method, data={"prior": "estimate"}, scale={"gpus": 0}, start=str(folder), **settings)


def test_the_share_is_estimated_from_the_start_and_said(tiny, here, said, tmp_path, capsys):
    made, data = said
    run = informed(asking(tiny, tmp_path), data)
    wanted = mlls(made["source"], data.validation["source"].labels, made["target"])[1]
    assert run.method.target_prior == pytest.approx(wanted)
    assert run.method.target_prior == pytest.approx(0.05, abs=0.02)
    line = capsys.readouterr().out
    assert f"{wanted:.4f} [" in line
    assert "(BBSE)" in line


def test_a_share_of_none_is_told_as_almost_none(tiny, here, said, tmp_path):
    made, data = said
    made["target"] = np.stack([np.zeros(2000), np.full(2000, -9.0)], axis=1)
    assert informed(asking(tiny, tmp_path), data).method.target_prior == pytest.approx(1e-4)


def test_nothing_is_estimated_that_is_not_asked_for(tiny, tmp_path):
    run = tiny.run("adda")
    assert informed(run, None) is run
    unaware = asking(tiny, tmp_path, "mcc")
    assert SETTING == "method.target_prior"
    assert informed(unaware, None) is unaware


def test_without_a_model_nothing_can_be_estimated(tiny, tmp_path):
    with pytest.raises(ConfigError, match="needs a model to start from"):
        informed(replace(asking(tiny, tmp_path), start=None), None)


@pytest.mark.parametrize("words", [["--target-prior", "estimate"], ["--target-prior=estimate"]])
def test_the_command_line_asks_for_it(words):
    run = cli.run("tune", ["adda", *words])
    assert run.data.prior == "estimate"
    assert cli.run("tune", ["adda", "--target-prior", "0.03"]).method.target_prior == 0.03
