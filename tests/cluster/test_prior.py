"""The share of lenses that methods are told; no Ray is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from raylens import checkpoint, cli, config, find, grid
from raylens.cluster import compare, training
from raylens.cluster.prior import SETTING, asks, informed, remarks
from raylens.data.stream import Split
from raylens.errors import ConfigError
from raylens.priors import Prior, bbse, mlls
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
    (line,) = capsys.readouterr().out.splitlines()
    other = bbse(made["source"], data.validation["source"].labels, made["target"])[1]
    assert f"{wanted:.4f} (MLLS), {other:.4f} (BBSE), between 0.0" in line


@pytest.mark.parametrize(("other", "ends"), [(0.2, "0.0100 and 0.2000"), (0.001, "0.0010 and 0.0300")])
def test_that_bbse_says_otherwise_is_told_and_changes_nothing(
    tiny, here, monkeypatch, tmp_path, capsys, other, ends
):
    shares = (np.array([1 - share, share]) for share in (0.02, 0.01, 0.03))
    monkeypatch.setattr("raylens.cluster.prior._estimate", lambda run, data: (Prior(*shares), other))
    assert informed(asking(tiny, tmp_path), None).method.target_prior == pytest.approx(0.02)
    said, warning = capsys.readouterr().out.splitlines()
    assert said.endswith(f"0.0200 (MLLS), {other:.4f} (BBSE), between {ends}")
    assert warning.startswith(
        f"  warning: BBSE's {other:.4f} lies outside of the interval of MLLS, [0.0100, 0.0300]"
    )
    assert warning.endswith("if you know better, give --target-prior VALUE")


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


BALANCED, IDLE = {"balance": 0.1}, ", since method.balance is 0"


@pytest.mark.parametrize(
    ("method", "sections", "said"),
    [
        (
            "self_ensembling",
            {"method": {"target_prior": 0.05}},
            f"method.target_prior 0.05 changes nothing that self_ensembling learns{IDLE}: give --method.balance 0.1 "
            "with it, or leave it out",
        ),
        (
            "self_ensembling",
            {"data": {"prior": "estimate"}},
            f"data.prior estimate changes nothing that self_ensembling learns{IDLE}, and none is estimated: give "
            "--method.balance 0.1 with it, or leave it out",
        ),
        (
            "mcc",
            {"data": {"prior": "estimate"}},
            "mcc has no method.target_prior, so none is estimated for it (data.prior)",
        ),
        ("self_ensembling", {}, None),
        ("self_ensembling", {"method": {**BALANCED, "target_prior": 0.05}}, None),
        ("self_ensembling", {"method": BALANCED, "data": {"prior": "estimate"}}, None),
        (
            "self_ensembling",
            {
                "method": {"target_prior": 0.05},
                "search": {"space": {"method.balance": {"uniform": [0.0, 0.1]}}},
            },
            None,
        ),
        ("adda", {}, None),
        ("adda", {"data": {"prior": "estimate"}}, None),
        ("mcc", {}, None),
        ("supervised", {"data": {"prior": "estimate"}}, None),
    ],
)
def test_a_prior_that_changes_nothing_is_told_and_not_estimated(tiny, method, sections, said):
    run = tiny.run(method, **sections)
    assert remarks(run) == ([] if said is None else [said])
    if said:
        assert not asks(run)
        assert informed(run, None) is run


def test_an_estimate_that_takes_a_given_shares_place_says_so(tiny):
    run = tiny.run("adda", method={"target_prior": 0.3}, data={"prior": "estimate"})
    assert asks(run)
    assert remarks(run) == ["data.prior estimate takes the place of method.target_prior 0.3"]


def test_a_benchmark_of_priors_estimates_for_all_that_it_asks():
    path = Path(__file__).parents[2] / "jobs" / "priors.yaml"
    runs = grid.build((config.written(path), str(path))).cells()
    assert not [remark for run in runs.values() for remark in remarks(run)]
    assert {cell.method for cell, run in runs.items() if asks(run)} == {
        f"{name}-estimate" for name in ("adda", "adamatch", "cdan", "wdgrl", "self_ensembling")
    }


def test_a_prior_that_changes_nothing_is_told_before_a_run_begins(
    tiny, toy_sets, tmp_path, monkeypatch, capsys
):
    """By raylens.train and raylens.tune, and once by raylens.benchmark; Ray is not there."""
    for module in ("training", "compare"):
        monkeypatch.setattr(f"raylens.cluster.{module}.placed", lambda run: run)
    monkeypatch.setattr("raylens.cluster.launch.connect", lambda **told: None)
    monkeypatch.setattr("raylens.cluster.launch.coordinate", lambda: None)
    monkeypatch.setattr("raylens.data.sets.prepare", lambda run, streams: run)
    given = {**toy_sets, "storage": str(tmp_path), "method.target_prior": 0.05}
    run = tiny.run("self_ensembling").replace(**given)
    training.ready(run, find.method("self_ensembling"), ("source", "target"))
    once = capsys.readouterr().out
    assert once.count("method.target_prior 0.05 changes nothing") == 1
    compare.ready(grid.build(({"methods": ["self_ensembling"], "seeds": [0, 1], **given}, "a test")))
    assert capsys.readouterr().out.count("method.target_prior 0.05 changes nothing") == 1


def test_without_a_model_nothing_can_be_estimated(tiny, tmp_path):
    with pytest.raises(ConfigError, match="needs a model to start from"):
        informed(replace(asking(tiny, tmp_path), start=None), None)


@pytest.mark.parametrize("words", [["--target-prior", "estimate"], ["--target-prior=estimate"]])
def test_the_command_line_asks_for_it(words):
    run = cli.run("tune", ["adda", *words])
    assert run.data.prior == "estimate"
    assert cli.run("tune", ["adda", "--target-prior", "0.03"]).method.target_prior == 0.03


def test_a_share_on_the_command_line_takes_the_place_of_an_estimate_in_a_run_file(tmp_path):
    (tmp_path / "run.yaml").write_text("data: {prior: estimate}")
    asked = ["adda", "--from", str(tmp_path / "run.yaml")]
    assert asks(cli.run("tune", asked))
    told = cli.run("tune", [*asked, "--target-prior", "0.02"])
    assert not asks(told)
    assert told.method.target_prior == 0.02
    assert cli.run("tune", [*asked, "--target-prior", "null"]).data.prior == "given"
