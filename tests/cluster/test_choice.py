"""Which trial is released; no Ray is started."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raylens import checkpoint, find
from raylens.cluster import choice, launch
from raylens.cluster.choice import Averaging, Gate, averaging, ordered, with_average, with_whole
from raylens.cluster.found import Found
from raylens.cluster.search import _start, _whole
from raylens.cluster.training import trained_start
from raylens.cluster.worker import WORST, work
from raylens.data.stream import Split
from raylens.health import COLLAPSED
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
        trial("failed after a checkpoint", steps=200, objective=0.99, error="CUDA out of memory"),
        trial("diverged", objective=WORST),
    ]
    found = ordered(tiny.run("adda", scale={"gpus": 0}), trials, None, said)
    assert names(found)[:5] == ["near", "middle", "far", "short", "stopped"]
    assert set(names(found)[5:]) == {"failed", "failed after a checkpoint", "diverged"}
    assert [one.agreement is None for one in found] == [False] * 3 + [True] * 5


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


def test_a_model_that_collapsed_is_not_released_whatever_it_keeps_of_the_source(tiny, said):
    trials = [
        trial("far", objective=0.99, metrics={"source/auroc": 1.0, "warnings": COLLAPSED + "all alike"}),
        trial("near", objective=0.9),
        trial("middle", objective=0.8),
    ]
    found = ordered(tiny.run("adda", scale={"gpus": 0}), trials, Gate(start=1.0, may_lose=1.0), said)
    assert names(found) == ["near", "middle", "far"]
    assert [one.refused for one in found] == [None, None, "not released: it collapsed"]


def test_a_model_that_lost_what_batch_norm_costs_is_released_with_a_warning():
    gate = Gate(start=0.98, may_lose=0.05, adapted=0.66)
    kept, ruined, fine = (
        gate.checked(trial(name, source=held)) for name, held in (("a", 0.67), ("b", 0.6), ("c", 0.95))
    )
    lost = "source AUROC 0.670, 0.980 before it was trained, 0.660 by batch norm alone"
    assert (kept.refused, kept.metrics["warnings"]) == (None, lost)
    assert ruined.refused == "not released: " + lost.replace("0.670", "0.600")
    assert (fine.refused, fine.metrics.get("warnings")) == (None, None)


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


def test_a_whole_training_that_diverges_leaves_the_next_one(tiny, monkeypatch, capsys):
    def diverges(*_):
        raise launch.TrainingDiverged("the training diverged: not finite at step 3: loss/supervised")

    monkeypatch.setattr(launch, "train", diverges)
    monkeypatch.setattr("raylens.cluster.search.loaded", lambda *_: None)
    run = tiny.run("adda")
    whole = _whole(trial("part", run=run), tiny.facts(), find.method("adda"), "/runs/x")
    assert names(with_whole([trial("part", run=run), trial("next")], whole)) == ["next", "part", "whole-part"]
    assert "warning: whole-part: the training diverged" in capsys.readouterr().out


def test_a_start_that_diverges_says_what_takes_another_rate(tiny, monkeypatch, tmp_path):
    """optimizer.lr of the run is not the start's."""

    def diverges(*_):
        raise launch.TrainingDiverged(
            "the training diverged: not finite at step 3; a lower optimizer.lr may do"
        )

    monkeypatch.setattr(launch, "train", diverges)
    with pytest.raises(
        launch.TrainingDiverged, match=r"start from .* python -m raylens.train supervised takes one"
    ):
        trained_start(tiny.run("adda"), tiny.facts(), "supervised", str(tmp_path), object())


def test_a_start_that_failed_half_way_is_none(tiny, monkeypatch, tmp_path):
    """It has a checkpoint of a part of its steps, and all trials would be compared with that."""
    half = trial("start", steps=200, error="out of memory")
    monkeypatch.setattr("raylens.cluster.search.tune", lambda *_: [half])
    with pytest.raises(RuntimeError, match="to start from was not trained: out of memory"):
        _start(tiny.run("adda"), tiny.facts(), object(), "supervised", str(tmp_path))
    assert not [*tmp_path.iterdir()]


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
    assert choice._source_aurocs(tiny.run("adda", start=str(tmp_path)), data) == (alone, auroc(adapted))
    assert choice._source_aurocs(tiny.run(start=str(tmp_path)), data) == (alone, None)


def test_the_average_is_a_checkpoint_with_the_mean_of_the_weights(tiny, tmp_path):
    run, data, models = tiny.run(), tiny.resident(rows=200), []
    for number in (1, 2):
        *_, last = work(run.replace(**{"seed": number, "fit.steps": 4}), tiny.facts(), data)
        checkpoint.save(tmp_path / str(number), run, tiny.facts(), last.method.result, {}, step=4)
        models.append(last.method.result.state_dict())
    held = [(f"trial-{number}", str(tmp_path / str(number))) for number in (1, 2)]
    metrics = choice._average(held, tiny.facts(), data, str(tmp_path / "out"))
    found = checkpoint.read(tmp_path / "out")
    for name, value in found.model().state_dict().items():
        if value.is_floating_point():
            wanted = (models[0][name] + models[1][name]) / 2
            np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-7)
    assert found.metrics["averaged"] == "trial-1, trial-2"
    assert found.metrics["step"] == 4
    assert found.metrics["source/auroc"] == metrics["source/auroc"]
    assert found.metrics["objective"] == metrics["objective"]


@pytest.fixture
def fake_ray(monkeypatch):
    """Tasks that answer with what they were given."""
    monkeypatch.setattr("ray.get", lambda found: found)
    monkeypatch.setattr(
        "ray.remote", lambda **_: lambda task: type("Task", (), {"remote": lambda self, *given: given})()
    )


@pytest.mark.parametrize(
    ("given", "search", "start", "wanted"),
    [
        (["near", "far", "short"], {}, "x", ["near", "far"]),
        (["near", "ruined", "far"], {}, "x", ["near", "far"]),
        (["near", "short"], {}, "x", None),
        (["near", "far"], {"choice": "agreement"}, "x", None),
        (["near", "far"], {"oracle": True}, "x", None),
        (["near", "far"], {}, None, None),
    ],
)
def test_all_that_took_the_most_steps_and_may_be_released_are_averaged(
    tiny, fake_ray, given, search, start, wanted
):
    kinds = {"short": {"steps": 200}, "ruined": {"refused": "ruin"}}
    trials = [trial(name, **kinds.get(name, {})) for name in given]
    run = tiny.run("adda", search=search, scale={"gpus": 0}, start=start)
    begun = averaging(run, trials, "facts", "data", "/runs/x/")
    if wanted is None:
        assert begun is None
    else:
        held = [(name, f"/runs/{name}") for name in wanted]
        assert begun.pending == (held, "facts", "data", "/runs/x/average-of-2")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [(0.97, ["average-of-2", "near", "far", "ruined"]), (0.9, ["near", "far", "average-of-2", "ruined"])],
)
def test_the_average_comes_before_all_trials_unless_it_lost_the_source(fake_ray, source, wanted):
    trials = [trial("near", agreement=0.9), trial("far", agreement=0.8), trial("ruined", refused="ruin")]
    metrics = {"objective": 0.5, "source/auroc": source}
    begun = Averaging(trials[:2], "/runs/x/average-of-2", metrics)
    found = with_average(trials, begun, Gate(start=1.0, may_lose=0.05))
    assert names(found) == wanted
    made = found[wanted.index("average-of-2")]
    assert (made.averaged, made.objective, made.agreement, made.steps) == (2, 0.5, None, 600)
    assert with_average(trials, None, None) == trials


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


def test_a_collapsed_pretraining_is_not_released(tiny):
    run = tiny.run("dino", scale={"gpus": 0})
    gate = choice.gate(run, None)
    best = trial("near", objective=40.0, metrics={"warnings": COLLAPSED + "all alike"})
    found = ordered(run, [best, trial("far", objective=3.0, metrics={})], gate, None)
    assert names(found) == ["far", "near"]
    assert found[1].refused == "not released: it collapsed"
