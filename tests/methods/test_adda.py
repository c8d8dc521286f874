"""ADDA against the two problems it stands for, and its practices: batch norm, gate, priors."""

import copy
import math
from contextlib import closing

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raylens.cluster.worker import work
from raylens.methods.adda import distance
from raylens.models import batch_norms
from raylens.records import Images


def adda(tiny, **settings):
    """Its target encoder a little off the source's, as it is after a while."""
    method = tiny.method("adda", method={"gate": 0, "target_prior": None, **settings})
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in method.model.encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return method.train()


def gradients(module, loss):
    found = torch.autograd.grad(loss, [*module.parameters()])
    return dict(zip([name for name, _ in module.named_parameters()], found, strict=True))


def assert_same(module, wanted):
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("batch_norm", ["target", "source"])
def test_one_backward_gives_the_gradients_of_the_two_problems(tiny, batch_norm):
    method = adda(tiny, batch_norm=batch_norm)
    batch, plain = tiny.batch(method), copy.deepcopy(method)
    source, target = batch["source"].views["view"], batch["target"].views["view"]
    method(batch, 0.5).total.backward()

    # Tzeng et al. 2017, eq. 2: the discriminator's problem, both encoders fixed.
    if batch_norm == "target":
        plain.source_encoder.train()  # its own batch's statistics
    with torch.no_grad():
        from_source, from_target = plain.source_encoder(source), plain.model.encoder(target)
    one, zero = torch.ones(len(source)), torch.zeros(len(target))
    loss = F.binary_cross_entropy_with_logits(plain.discriminator(from_source), one)
    loss = loss + F.binary_cross_entropy_with_logits(plain.discriminator(from_target), zero)
    assert_same(method.discriminator, gradients(plain.discriminator, loss))

    # eq. 7: the target encoder's problem with inverted labels, the discriminator fixed.
    fooled = F.binary_cross_entropy_with_logits(plain.discriminator(plain.model.encoder(target)), one)
    assert_same(method.model.encoder, gradients(plain.model.encoder, fooled))


def test_the_terms_are_the_two_losses(tiny):
    method = adda(tiny)
    with torch.no_grad():
        for parameter in method.discriminator.parameters():
            parameter.zero_()
    losses = method(tiny.batch(method), 0.5)
    assert losses.terms.keys() == {"discriminator", "adversary"}
    assert losses.terms["discriminator"].item() == pytest.approx(2 * math.log(2))
    assert losses.terms["adversary"].item() == pytest.approx(math.log(2))


def test_a_closed_gate_holds_the_encoder_and_lets_the_discriminator_learn(tiny):
    method = adda(tiny, gate=1.0)
    with torch.no_grad():
        method.discriminator[-2].bias.fill_(100.0)  # everything is source: half of it is right
    losses = method(tiny.batch(method), 0.5)
    losses.total.backward()
    assert losses.monitors["discriminator_accuracy"] == 0.5
    assert losses.monitors["gate_open"] == 0
    assert losses.terms["adversary"] == 0
    assert all(parameter.grad.count_nonzero() == 0 for parameter in method.model.encoder.parameters())
    assert any(parameter.grad.count_nonzero() for parameter in method.discriminator.parameters())


def test_an_open_gate_lets_it_go(tiny):
    method = adda(tiny, gate=0.0)
    losses = method(tiny.batch(method), 0.5)
    losses.total.backward()
    assert losses.monitors["gate_open"] == 1
    assert losses.terms["adversary"] == losses.monitors["adversary"]
    assert any(parameter.grad.count_nonzero() for parameter in method.model.encoder.parameters())


def statistics(module):
    return {name: value.clone() for name, value in module.named_buffers()}


def different(before, module):
    return {name for name, value in module.named_buffers() if not torch.equal(before[name], value)}


@pytest.mark.parametrize("source_weight", [0.0, 0.3])
@pytest.mark.parametrize("batch_norm", ["target", "source"])
def test_running_statistics_follow_the_target_or_nobody(tiny, batch_norm, source_weight):
    method = adda(tiny, batch_norm=batch_norm, source_weight=source_weight)
    batch, before = tiny.batch(method), statistics(method)
    batch["source"] = Images({"view": 5 + batch["source"].views["view"]}, batch["source"].labels)
    alone = copy.deepcopy(method.model.encoder)
    method(batch, 0.5)
    changed = different(before, method)
    assert not {name for name in changed if name.startswith("source_encoder.")}
    if batch_norm == "source":
        assert not changed
        return
    assert changed == {name for name, _ in method.named_buffers() if name.startswith("model.encoder.")}
    with torch.no_grad():
        alone.train()(batch["target"].views["view"])  # what the target by itself does to them, once
    assert different(statistics(alone), method.model.encoder) == set()


def test_in_mode_source_a_batch_does_not_change_what_is_said_of_an_image(tiny):
    method = adda(tiny, batch_norm="source")
    pixels = torch.rand(6, 1, 32, 32)
    torch.testing.assert_close(method.model.features(pixels)[:2], method.model.features(pixels[:2]))
    assert not any(layer.training for layer in batch_norms(method))


def test_both_encoders_are_in_the_same_mode_and_without_dropout(tiny):
    for mode in ("target", "source"):
        run = tiny.run("adda", method={"batch_norm": mode}, encoder={"dropout": 0.9})
        method = tiny.method(run).train()
        assert torch.equal(method.model.encoder.project[1].weight, method.source_encoder.project[1].weight)
        batch = tiny.batch(method)
        pixels = batch["source"].views["view"]
        assert torch.equal(method._source_features(batch["source"]), method.model.features(pixels).detach())


def test_training_moves_the_target_encoder_and_the_discriminator_and_nothing_else(tiny):
    run = tiny.run("adda", method={"gate": 0, "source_weight": 0.3}, optimizer={"lr": 1e-2})
    before = tiny.method(run).state_dict()
    *_, last = work(run, tiny.facts(), tiny.resident())
    after = last.method.state_dict()
    moved = {name.rpartition(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert not {name for name in moved if name.startswith(("source_encoder", "model.head"))}
    assert {name for name in moved if name.startswith("model.encoder")}
    assert {name for name in moved if name.startswith("discriminator")}


def test_only_views_labels_of_the_source_and_weights_decide(tiny):
    method = adda(tiny)
    batch = tiny.batch(method)
    other = {name: Images(images.views, None) for name, images in batch.items()}
    assert torch.equal(
        adda(tiny)(batch, 0.1).total, adda(tiny)(other, 0.9).total
    )  # the paper needs no labels here


def test_the_source_loss_is_on_the_target_encoder_with_the_batchs_own_statistics(tiny):
    method = adda(tiny, source_weight=0.3)
    plain = copy.deepcopy(method.model)
    batch = tiny.batch(method)
    found = method(batch, 0.5).terms["supervised"]
    source = batch["source"]
    torch.testing.assert_close(
        found, 0.3 * F.cross_entropy(plain.train()(source.views["view"]), source.labels)
    )


def test_a_target_prior_weighs_the_discriminators_source_images(tiny):
    method = adda(tiny, target_prior=0.1)
    plain, batch = copy.deepcopy(method), tiny.batch(method)
    labels = torch.tensor([1, 0, 0, 0, 0, 0, 0, 1])
    batch["source"] = Images(batch["source"].views, labels)
    found = method(batch, 0.5).terms["discriminator"]
    with torch.no_grad():
        from_source = plain.discriminator(plain._source_features(batch["source"])).numpy().astype(float)
        from_target = (
            plain.discriminator(plain.model.features(batch["target"].views["view"])).numpy().astype(float)
        )
    weights = np.where(labels == 1, 0.1 / 0.25, 0.9 / 0.75)
    wanted = (weights * np.log1p(np.exp(-from_source))).mean() + np.log1p(np.exp(from_target)).mean()
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_of_several_classes_the_last_is_the_one_that_has_the_prior(tiny, monkeypatch):
    method = adda(tiny, target_prior=0.1)
    method.task.classes = ("axion", "cdm", "no")
    batch = tiny.batch(method)
    three = Images(batch["source"].views, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))
    two = Images(batch["source"].views, (three.labels == 2).long())
    found = copy.deepcopy(method)({**batch, "source": three}, 0.5).terms["discriminator"]
    method.task.classes = ("nonlens", "lens")
    assert torch.equal(found, method({**batch, "source": two}, 0.5).terms["discriminator"])


HEALTHY = {
    "loss/discriminator": 1.1,
    "monitor/discriminator_accuracy": 0.75,
    "monitor/weight_change": 1e-3,
    "monitor/lr_encoder": 1e-5,
    "monitor/lr_discriminator": 1e-3,
}

AT_CHANCE = {"loss/discriminator": 2 * math.log(2) + 1e-3, "monitor/discriminator_accuracy": 0.5}


@pytest.mark.parametrize(
    ("sick", "said"),
    [
        ({}, []),
        ({"monitor/lr_encoder": 0.0}, ["the learning rate of the encoder is 0"]),
        ({"monitor/lr_discriminator": 0.0}, ["the learning rate of the discriminator is 0"]),
        ({"monitor/weight_change": 0.0}, ["the weights of the result do not move"]),
        (
            {**AT_CHANCE, "monitor/feature_distance": 0.4},
            ["the discriminator stays at ln 2 while the domains' features are apart: it learns nothing"],
        ),
        ({**AT_CHANCE, "monitor/feature_distance": 0.05}, []),  # what adaptation is for
        (
            {"loss/discriminator": 0.01, "monitor/discriminator_accuracy": 0.995},
            ["the discriminator is always right: the encoder cannot follow it"],
        ),
    ],
)
def test_what_is_wrong_is_said(tiny, sick, said):
    assert tiny.method("adda").symptoms(HEALTHY | sick) == said


def test_a_rate_of_0_is_said_in_the_report_of_a_run(tiny):
    run = tiny.run("adda", optimizer={"lr": 0.0}, fit={"steps": 1, "report_every": 1})
    with closing(work(run, tiny.facts(), tiny.resident())) as reports:
        assert "the learning rate of the encoder is 0" in next(reports).metrics["warnings"]


@pytest.mark.parametrize(
    ("name", "settings", "broken"),
    [
        ("self_ensembling", {}, "self_ensembling.follow_"),
        ("adamatch", {}, "adamatch.follow_"),
        ("adda", {"gate": 0}, "adda.judge"),
    ],
)
def test_a_result_that_never_moves_is_said_though_others_do(tiny, monkeypatch, name, settings, broken):
    """A teacher whose average is forgotten, an encoder that its discriminator has no gradient for."""
    run = tiny.run(
        name,
        method=settings,
        optimizer={"weight_decay": 0.0, "warmup": 0},
        fit={"steps": 2, "report_every": 2},
    )

    def said() -> str:
        with closing(work(run, tiny.facts(), tiny.resident())) as reports:
            return next(reports).metrics["warnings"]

    assert "do not move" not in said()
    monkeypatch.setattr(
        f"raylens.methods.{broken}", lambda *given: given[0](given[1]).detach() if "judge" in broken else None
    )
    assert "the weights of the result do not move" in said()


def test_feature_distance_is_free_of_the_chance_of_small_batches():
    generator = torch.Generator().manual_seed(0)

    def mean_distance(shift: float, rows: int) -> float:
        found = []
        for _ in range(200):
            source, target = torch.randn(2, rows, 16, generator=generator)
            found.append(distance(source, target + shift, torch.ones(rows)).item() ** 2)
        return float(np.mean(found)) ** 0.5

    assert mean_distance(0.5, 16) == pytest.approx(0.5, rel=0.1)
    assert mean_distance(0.5, 128) == pytest.approx(0.5, rel=0.05)
    assert mean_distance(0.0, 16) < 0.2


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_feature_distance_of_half_precision_is_that_of_single(half):
    """Features of a deviation of 1e-4, whose variance half precision does not hold."""
    random = torch.Generator().manual_seed(0)
    source, target = (1e-4 * (torch.randn(64, 8, generator=random) + shift) for shift in (0, 0.5))
    source, target = source.to(half), target.to(half)
    wanted = distance(source.float(), target.float(), torch.ones(64))
    torch.testing.assert_close(distance(source, target, torch.ones(64)), wanted)
    assert wanted > 0.1
