"""Which trial is released; no Ray is started."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raylens import checkpoint
from raylens.cluster import choice
from raylens.cluster.choice import Gate, ordered, with_whole
from raylens.cluster.search import Found
from raylens.cluster.worker import WORST, work
from raylens.data.stream import Split
from raylens.loop import collect
from raylens.models import adapt_batch_norm


def trial(name: str, steps: int = 600, objective: float = 0.9, source: float = 0.99, **fields) -> Found:
    metrics = {"source/auroc": source}
    made = Found(name, None, objective, steps, metrics, checkpoint=f"/runs/{name}", error=None)
    return replace(made, **fields)


@pytest.fixture
def said():
    """Logits that trials say of the target; noise about one truth."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(300, 2))
    noise = {"near": 0.1, "far": 1.0, "middle": 0.4, "short": 0.0, "ruined": 0.0}
    made = {name: truth + size * rng.normal(size=truth.shape) for name, size in noise.items()}
    return lambda found: [made[one.trial] for one in found]


def names(found: list[Found]) -> list[str]:
    return [one.trial for one in found]


def test_whole_trials_come_first_by_agreement_then_the_others_by_their_objective(tiny, said):
    trials = [
        trial("far", objective=0.95),
        trial("short", steps=200, objective=0.99),
        trial("near", objective=0.91),
        trial("middle", objective=0.93),
        trial("stopped", steps=100, objective=0.97),
        trial("failed", checkpoint=None, objective=0.98),
        trial("diverged", objective=WORST),
    ]
    found = ordered(tiny.run("adda", scale={"gpus": 0}), trials, None, said)
    assert names(found)[:5] == ["near", "middle", "far", "short", "stopped"]
    assert set(names(found)[5:]) == {"failed", "diverged"}
    assert [one.agreement is None for one in found] == [False] * 3 + [True] * 4


def test_a_model_that_lost_the_source_is_not_released_and_not_asked(tiny, said):
    trials = [
        trial("ruined", source=0.90, objective=0.99),
        trial("near", source=0.951),
        trial("middle", source=0.96),
        trial("far", source=0.99),
    ]
    found = ordered(tiny.run("adda", scale={"gpus": 0}), trials, Gate(start=1.0, may_lose=0.05), said)
    assert names(found) == ["near", "middle", "far", "ruined"]
    assert found[3].refused == "not released: source AUROC 0.900, 1.000 before it was trained"
    assert found[3].agreement is None
    assert not any(one.refused for one in found[:3])


@pytest.mark.parametrize(
    ("lost", "wanted"),
    [
        (None, ["whole", "next", "part", "ruined", "failed"]),
        ("ruin", ["next", "whole", "part", "ruined", "failed"]),
    ],
)
def test_the_whole_training_stands_for_its_trial_which_is_not_released_beside_it(lost, wanted):
    trials = [trial("part"), trial("next"), trial("ruined", refused="ruin"), trial("failed", checkpoint=None)]
    found = with_whole(trials, trial("whole", refused=lost))
    assert names(found) == wanted
    assert next(one for one in found if one.trial == "part").refused


def test_what_the_targets_batch_norm_costs_by_itself_is_no_loss(tiny, tmp_path):
    first, data = tiny.run(), tiny.resident(rows=200)
    method = tiny.method(first)
    *_, last = work(first.replace(**{"fit.steps": 30, "fit.report_every": 30}), tiny.facts(), data)
    checkpoint.save(tmp_path, first, tiny.facts(), last.method.result, {})
    noise = Split(np.random.default_rng(0).normal(0, 10, (200, 1, 32, 32)).astype(np.float32))
    data = replace(data, train={**data.train, "target": noise})
    task, held = method.task, data.validation["source"]

    def auroc(model):
        return task.metrics(collect(model, held.pixels, None).logits, held.labels)["auroc"]

    alone = auroc(checkpoint.read(tmp_path).model())
    adapted = checkpoint.read(tmp_path).model()
    adapt_batch_norm(adapted, data.train["target"].pixels)
    assert auroc(adapted) < alone, "or the test shows nothing"
    assert choice._source_auroc(tiny.run("adda", start=str(tmp_path)), data) == auroc(adapted)
    assert choice._source_auroc(tiny.run(start=str(tmp_path)), data) == alone


def test_two_agree_alike_and_are_told_apart_by_their_objective(tiny, said):
    trials = [trial("near", objective=0.8), trial("far"), trial("short", steps=200, objective=0.99)]
    found = ordered(tiny.run("adda", scale={"gpus": 0}), trials, None, said)
    assert names(found) == ["far", "near", "short"]
    assert all(one.agreement is None for one in found)


@pytest.mark.parametrize(
    ("method", "search"),
    [("adda", {"choice": "objective"}), ("adda", {"oracle": True}), ("supervised", {})],
)
def test_the_objective_decides_where_agreement_is_not_asked(tiny, said, method, search):
    trials = [trial("near"), trial("far", objective=0.95), trial("short", steps=200, objective=0.99)]
    found = ordered(tiny.run(method, search=search, scale={"gpus": 0}), trials, None, said)
    assert names(found) == ["short", "far", "near"]
    assert all(one.agreement is None for one in found)


@pytest.mark.parametrize(
    ("settings", "start"),
    [({}, None), ({"search": {"may_lose": None}}, "x"), ({"search": {"oracle": True}}, "x")],
)
def test_there_is_no_gate_without_a_start_or_a_limit_or_by_the_oracle(tiny, settings, start):
    assert choice.gate(tiny.run("adda", **settings, start=start), None) is None
