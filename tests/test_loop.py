"""The two loops."""

import numpy as np
import pytest
import torch
from torch import nn

from raylens import optim
from raylens.loop import Diverged, collect, fit
from raylens.methods.base import Method
from raylens.models import Model
from raylens.records import Images, Losses


class Line(Method):
    """Two parameters in groups of their own; `act` may do something to the loss of a step."""

    streams, views = ("images",), {"view": "none"}

    def __init__(self, act=None):
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))
        self.register_buffer("steps", torch.tensor(0))
        self.act, self.seen, self.modes = act, [], []

    @property
    def result(self):
        return self

    def groups(self):
        return [
            {"name": "slope", "params": [self.slope]},
            {"name": "offset", "params": [self.offset], "lr": 0.5},
        ]

    def losses(self, images, progress):
        self.seen.append((int(images.ids[0]), progress))
        self.modes.append(self.training)
        terms = {"slope": self.slope.square().sum(), "offset": 100 * self.offset.square().sum()}
        if self.act:
            terms = self.act(len(self.seen) - 1, terms)
        return Losses(terms=terms, monitors={"noise": torch.rand(())})

    def after_step(self, progress):
        self.steps += 1


def batches():
    step = 0
    while True:
        yield {"images": Images({"view": torch.zeros(2, 1, 4, 4)}, ids=torch.full((2,), step))}
        step += 1


def train(tiny, method, *, start=0, **sections):
    run = tiny.run(**sections)
    optimizer = optim.build(run.optimizer, method.groups())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return fit(method, method, batches(), run, optimizer, scaler, start=start)


@pytest.mark.parametrize(
    ("steps", "every", "start", "wanted"),
    [
        (6, 2, 0, [2, 4, 6]),
        (7, 3, 0, [3, 6, 7]),
        (3, 3, 0, [3]),
        (1, 1, 0, [1]),
        (7, 3, 3, [6, 7]),
        (4, 2, 4, []),
    ],
)
def test_reports_come_at_fixed_steps_and_at_the_end(tiny, steps, every, start, wanted):
    method = Line()
    reports = train(tiny, method, start=start, fit={"steps": steps, "report_every": every})
    assert [step for step, _ in reports] == wanted
    assert [round(progress * steps) for _, progress in method.seen] == [*range(start, steps)]
    assert method.steps == steps - start


def test_a_report_has_means_since_the_last_one_under_their_kinds_names(tiny):
    def act(step, terms):
        return {"slope": terms["slope"] * 0 + step, "offset": terms["offset"] * 0}

    reports = dict(train(tiny, Line(act), fit={"steps": 5, "report_every": 2}))
    assert [reports[step]["loss/slope"] for step in (2, 4, 5)] == [0.5, 2.5, 4.0]
    assert reports[2].keys() == {
        "loss/slope",
        "loss/offset",
        "monitor/noise",
        "monitor/weight_change",
        "monitor/lr_slope",
        "monitor/lr_offset",
        "time/step",
        "time/images",
        "time/wait",
    }
    assert all(isinstance(value, float) for value in reports[2].values())
    assert reports[2]["time/wait"] <= reports[2]["time/step"]


def test_rates_in_a_report_are_those_of_the_groups(tiny):
    settings = {"lr": 0.1, "warmup": 0.5}
    reports = dict(train(tiny, Line(), fit={"steps": 4, "report_every": 1}, optimizer=settings))
    assert [reports[step]["monitor/lr_slope"] for step in (1, 2, 3)] == pytest.approx([0.05, 0.1, 0.1])
    assert reports[1]["monitor/lr_offset"] == pytest.approx(0.25)


def test_weight_change_is_relative_and_since_the_last_report(tiny):
    settings = {
        "name": "sgd",
        "lr": 0.0,
        "betas": [0, 0],
        "weight_decay": 0,
        "warmup": 0,
        "schedule": "constant",
    }
    method = Line(lambda step, terms: {"both": method.slope.sum() + method.offset.sum()})
    reports = train(tiny, method, fit={"steps": 2, "report_every": 1}, optimizer=settings)
    assert next(reports)[1]["monitor/weight_change"] == pytest.approx(0.5 / 5)  # |(0, 0.5)| / |(3, 4)|
    assert next(reports)[1]["monitor/weight_change"] == pytest.approx(0.5 / np.hypot(3, 3.5))


def test_a_rate_of_0_and_weights_that_stand_still_are_symptoms(tiny):
    method = Line(lambda step, terms: {"slope": method.slope.sum() + 0 * method.offset.sum()})
    settings = {"lr": 0.0, "weight_decay": 0}
    (_, metrics), *_ = train(tiny, method, fit={"steps": 1, "report_every": 1}, optimizer=settings)
    assert method.symptoms(metrics) == [
        "the weights of the result do not move",
        "the learning rate of the slope is 0",
    ]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_term_and_step(tiny, bad):
    method = Line(lambda step, terms: {**terms, "offset": terms["offset"] * (bad if step == 3 else 1)})
    reports = train(tiny, method, fit={"steps": 8, "report_every": 2})
    assert next(reports)[0] == 2
    with pytest.raises(Diverged, match=r"^not finite at step 3: loss/offset$"):
        next(reports)


def test_each_group_is_clipped_by_itself(tiny):
    method = Line()
    settings = {"name": "sgd", "lr": 1.0, "betas": [0, 0], "weight_decay": 0, "warmup": 0}
    next(train(tiny, method, fit={"steps": 1, "report_every": 1, "clip": 1.0}, optimizer=settings))
    assert method.slope.item() == pytest.approx(3 - 1.0 * 1)  # gradient 6 -> 1, though the offset's is 800
    assert method.offset.item() == pytest.approx(4 - 0.5 * 1)


def test_small_gradients_are_left_alone(tiny):
    method = Line(lambda step, terms: {"both": 0.5 * method.slope.sum() + 0 * method.offset.sum()})
    settings = {"name": "sgd", "lr": 1.0, "betas": [0, 0], "weight_decay": 0, "warmup": 0}
    next(train(tiny, method, fit={"steps": 1, "report_every": 1, "clip": 1.0}, optimizer=settings))
    assert method.slope.item() == pytest.approx(2.5)


def test_random_numbers_of_a_step_depend_on_seed_and_step_alone(tiny):
    def noise(start=0, **settings):
        reports = train(tiny, Line(), start=start, fit={"steps": 4, "report_every": 1}, **settings)
        return [metrics["monitor/noise"] for _, metrics in reports]

    torch.manual_seed(1)
    undisturbed = noise()
    torch.manual_seed(2)
    assert noise() == undisturbed
    assert noise(start=2) == undisturbed[2:]
    assert len({*undisturbed}) == 4
    assert noise(seed=1) != undisturbed


def test_whoever_looks_at_the_model_between_steps_leaves_it_in_training(tiny):
    method = Line()
    for _ in train(tiny, method, fit={"steps": 3, "report_every": 1}):
        method.eval()
    assert method.modes == [True] * 3


def test_batches_are_not_taken_beyond_the_last_step(tiny):
    taken = []

    def counted():
        for step, batch in enumerate(batches()):
            taken.append(step)
            yield batch

    method, run = Line(), tiny.run(fit={"steps": 3, "report_every": 3})
    optimizer = optim.build(run.optimizer, method.groups())
    [*fit(method, method, counted(), run, optimizer, torch.amp.GradScaler("cpu", enabled=False))]
    assert taken == [0, 1, 2]


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in ("supervised", "adda", "cdan", "mcc", "self_ensembling", "wdgrl")),
        ("self_ensembling", {"balance": 0.1}),
        *(("adamatch", {"batch_norm": by}) for by in ("own", "joint")),
    ],
)
def test_the_same_seed_gives_the_same_weights(tiny, name, settings, precision):
    def weights(seed):
        sections = {"encoder": {"dropout": 0.5}, "fit": {"precision": precision, "steps": 2}}
        run = tiny.run(name, seed=seed, method=settings, **sections)
        method = tiny.method(run)
        optimizer = optim.build(run.optimizer, method.groups())
        given = [tiny.batch(method, seed=step) for step in range(2)]
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        ((_, metrics),) = fit(method, method, given, run, optimizer, scaler)
        assert all(np.isfinite(value) for value in metrics.values())
        return torch.cat([weight.flatten() for weight in method.state_dict().values()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


class Sums(nn.Module):
    """Features are sums over the image, and rows are counted."""

    def __init__(self):
        super().__init__()
        self.drop, self.rows = nn.Dropout(0.9), 0

    def forward(self, pixels):
        self.rows += len(pixels)
        return self.drop(pixels.sum((2, 3)))


def test_collect_returns_every_row_once_and_in_order():
    model = Model(Sums(), nn.Linear(1, 2))
    pixels = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1)
    found = collect(model, pixels, np.arange(10) % 2, batch=4)
    assert found.features.ravel().tolist() == [*range(10)]
    assert model.encoder.rows == 10
    assert found.ids.tolist() == [*range(10)]
    assert found.labels.tolist() == [0, 1] * 5
    with torch.no_grad():
        np.testing.assert_allclose(
            found.logits, model.head(torch.from_numpy(found.features)).numpy(), rtol=1e-6
        )


def test_collect_looks_in_evaluation_mode_and_leaves_each_layer_as_it_was():
    model = Model(Sums(), nn.Linear(1, 2))
    model.eval()
    model.encoder.drop.train()
    collect(model, np.ones((3, 1, 2, 2), np.float32), None)
    assert [module.training for module in (model, model.encoder, model.encoder.drop)] == [False, False, True]
    model.train()
    assert collect(model, np.ones((3, 1, 2, 2), np.float32), None).features.tolist() == [[4.0]] * 3
    assert model.training


def test_collect_does_not_touch_batch_norm(tiny):
    model = tiny.method().model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect(model, np.random.default_rng(0).random((5, 1, 32, 32), np.float32), None)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_collect_of_no_rows_is_empty(tiny):
    found = collect(tiny.method().model, np.zeros((0, 1, 32, 32), np.float32), np.zeros(0, np.int64))
    assert (found.features.shape, found.logits.shape) == ((0, 16), (0, 2))


def test_collect_takes_pixels_that_cannot_be_written_to(tiny):
    pixels = np.ones((3, 1, 32, 32), np.float32)
    pixels.flags.writeable = False
    assert collect(tiny.method().model, pixels, None).labels is None
