"""Pretraining against the formulas of the papers, and what each method must never do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raylens import find, losses, representation
from raylens.cluster import worker
from raylens.config import build
from raylens.data.stream import Resident, Split
from raylens.errors import ConfigError
from raylens.health import COLLAPSED
from raylens.loop import collect
from raylens.methods.byol import momentum
from raylens.methods.mae import patches, standardised
from raylens.models import adapt_batch_norm, batch_norms
from raylens.tasks.pretraining import Task

PRETRAINING = [name for name in find.names("methods") if "pretraining" in find.method(name).tasks]
PAIRS = [name for name in PRETRAINING if "two" in find.method(name).views]


def views(rows=6, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, rows, dim))


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def algorithm_1(one, two, temperature):
    """NT-Xent: Chen et al. 2020."""
    both, rows, total = unit(np.concatenate([one, two])), len(one), 0.0
    similarity = both @ both.T / temperature
    for i in range(2 * rows):
        j = (i + rows) % (2 * rows)
        others = [similarity[i, k] for k in range(2 * rows) if k != i]
        total += np.log(np.exp(others).sum()) - similarity[i, j]
    return total / (2 * rows)


def test_nt_xent_by_algorithm_1():
    one, two = views()
    found = losses.nt_xent(*map(torch.tensor, (one, two)), 0.3)
    assert found.item() == pytest.approx(algorithm_1(one, two, 0.3))


def test_contrast_is_of_the_two_views_projections(tiny):
    method = tiny.method("contrastive", method={"temperature": 0.3})
    batch = tiny.batch(method)
    one, two = projections(method, batch)
    assert method(batch, 0.5).total.item() == pytest.approx(algorithm_1(one, two, 0.3), rel=1e-4)


def projections(method, batch):
    """Of each view by itself, in double precision."""
    with torch.no_grad():
        return [
            method.projector(method.model.encoder(batch["source"].views[view])).double().numpy()
            for view in ("one", "two")
        ]


def test_nt_xent_at_its_ends():
    """seed-systems.md section 8: symmetric, ln(2N - 1) for what is all alike, near 0 for what is far apart."""
    one, two = (torch.tensor(view) for view in views())
    torch.testing.assert_close(losses.nt_xent(one, two, 0.2), losses.nt_xent(two, one, 0.2))
    alike = torch.ones(6, 5)
    assert losses.nt_xent(alike, alike, 0.2).item() == pytest.approx(np.log(11))
    apart = torch.eye(6)
    assert losses.nt_xent(apart, apart, 0.05).item() < 1e-6


def test_cosine_distance_by_eq_2():
    one, two = views()
    expected = np.mean(np.sum((unit(one) - unit(two)) ** 2, axis=1))
    given = torch.tensor(one, requires_grad=True), torch.tensor(two, requires_grad=True)
    found = losses.cosine_distance(*given)
    assert found.item() == pytest.approx(expected)
    found.backward()
    assert given[0].grad is not None
    assert given[1].grad is None  # what is wanted has no gradient
    assert losses.cosine_distance(given[0], -given[0]).item() == pytest.approx(4)


def eqs_1_and_2(one, two, weight):
    """Barlow Twins over the number of dimensions: Zbontar et al. 2021."""
    dims = one.shape[1]
    correlation = np.corrcoef(one.T, two.T)[:dims, dims:]
    total = sum((1 - correlation[i, i]) ** 2 for i in range(dims))
    total += weight * sum(correlation[i, j] ** 2 for i in range(dims) for j in range(dims) if i != j)
    return total / dims


def test_redundancy_by_eq_1_and_2():
    one, two = views(rows=40)
    found = losses.redundancy(*map(torch.tensor, (one, two)), 0.1)
    assert found.item() == pytest.approx(eqs_1_and_2(one, two, 0.1), rel=1e-4)


def test_redundancy_is_of_the_two_views_projections(tiny):
    method = tiny.method("twin", method={"redundancy": 0.1, "projection": 16})
    batch = tiny.batch(method)
    one, two = projections(method, batch)
    assert method(batch, 0.5).total.item() == pytest.approx(eqs_1_and_2(one, two, 0.1), rel=1e-3)


def eq_2(student, teacher, student_temperature, teacher_temperature):
    """DINO's cross-entropy of the teacher's probabilities: Caron et al. 2021."""
    p = np.exp(teacher / teacher_temperature - np.max(teacher / teacher_temperature, 1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    q = np.exp(student / student_temperature)
    q /= q.sum(1, keepdims=True)
    return -np.mean(np.sum(p * np.log(q), axis=1))


def test_distillation_by_eq_2():
    student, teacher = views()
    found = losses.distillation(*map(torch.tensor, (student, teacher)), 0.1, 0.04)
    assert found.item() == pytest.approx(eq_2(student, teacher, 0.1, 0.04))


def test_alignment_and_uniformity_by_their_formulas():
    one, two = views()
    assert losses.alignment(*map(torch.tensor, (one, two))).item() == pytest.approx(
        np.mean(np.sum((unit(one) - unit(two)) ** 2, axis=1))
    )
    pairs = [np.exp(-2 * np.sum((unit(one)[i] - unit(one)[j]) ** 2)) for i in range(6) for j in range(i)]
    assert losses.uniformity(torch.tensor(one)).item() == pytest.approx(np.log(np.mean(pairs)))
    assert losses.uniformity(torch.ones(6, 5)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("base", [0.9, 0.996])
def test_momentum_rises_from_its_base_to_1(base):
    assert momentum(base, 0.0) == pytest.approx(base)
    assert momentum(base, 1.0) == 1
    # section 3.2: 1 - (1 - tau) (cos(pi k / K) + 1) / 2
    assert momentum(base, 0.3) == pytest.approx(1 - (1 - base) * (np.cos(np.pi * 0.3) + 1) / 2)


@pytest.mark.parametrize(
    ("name", "slow", "fast"), [("byol", "target", "model"), ("dino", "teacher", "model")]
)
def test_the_slow_network_starts_as_a_copy_and_follows(tiny, name, slow, fast):
    method = tiny.method(name)
    held, own = getattr(method, slow)[0], getattr(method, fast)
    for a, b in zip(held.parameters(), own.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
    before = [weight.clone() for weight in held.parameters()]
    with torch.no_grad():
        for weight in own.parameters():
            weight.add_(1.0)
    method.after_step(0.0)
    for was, now in zip(before, held.parameters(), strict=True):
        torch.testing.assert_close(now, was + (1 - method.config.momentum))


def test_simsiam_stops_the_gradient_of_what_is_predicted(tiny):
    method = tiny.method("twin", method={"kind": "simsiam"})
    batch = tiny.batch(method)
    one, two = method.two_views(batch["source"])
    z1, z2 = method.projector(one), method.projector(two)
    # section 3: -(cos(p1, sg z2) + cos(p2, sg z1)) / 2, here 2 - 2 cos
    expected = (
        2
        - (
            F.cosine_similarity(method.predictor(z1), z2.detach())
            + F.cosine_similarity(method.predictor(z2), z1.detach())
        ).mean()
    )
    method.zero_grad()
    gradient = torch.autograd.grad(expected, [*method.model.parameters()], retain_graph=True)
    found = method(batch, 0.5).total
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found, [*method.model.parameters()]), gradient, strict=True):
        torch.testing.assert_close(ours, theirs)


def cosine(one, two):
    return ((one * two).sum(1) / (one.norm(dim=1) * two.norm(dim=1))).mean()


def apart_(slow):
    """Moves a slow network away from what it follows."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in slow.parameters():
            weight.add_(0.1 * torch.randn_like(weight))


def test_byol_predicts_of_each_view_what_the_target_makes_of_the_other(tiny):
    method = tiny.method("byol")
    apart_(method.target)
    batch = tiny.batch(method)
    one, two = (batch["source"].views[view] for view in ("one", "two"))
    p1, p2 = (method.predictor(method.projector(method.model.encoder(view))) for view in (one, two))
    with torch.no_grad():
        t1, t2 = (method.target[1](method.target[0].encoder(view)) for view in (one, two))
    # eq. 2 and its reverse
    expected = 2 - 2 * cosine(p1, t2) + 2 - 2 * cosine(p2, t1)
    trained = [weight for part in method.groups() for weight in part["params"]]
    gradient = torch.autograd.grad(expected, trained)
    found = method(batch, 0.5).total
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found, trained), gradient, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dino_says_of_each_view_what_the_teacher_says_of_the_other(tiny):
    temperatures = {"student_temperature": 0.2, "teacher_temperature": 0.05}
    method = tiny.method("dino", method={**temperatures, "prototypes": 8})
    apart_(method.teacher)
    method.centre.copy_(torch.linspace(-0.5, 0.5, 8))
    batch, centre = tiny.batch(method), method.centre.double().numpy().copy()
    one, two = (batch["source"].views[view] for view in ("one", "two"))
    with torch.no_grad():
        s1, s2 = (method.head(method.model.encoder(view)).double().numpy() for view in (one, two))
        t1, t2 = (
            method.teacher[1](method.teacher[0].encoder(view)).double().numpy() - centre
            for view in (one, two)
        )
    # algorithm 1: the centre of before this batch
    expected = (eq_2(s1, t2, 0.2, 0.05) + eq_2(s2, t1, 0.2, 0.05)) / 2
    assert method(batch, 0.5).total.item() == pytest.approx(expected, rel=1e-4)
    assert np.abs(method.centre.numpy() - centre).max() > 0.01, "it has moved since"


@pytest.mark.parametrize(("name", "slow"), [("byol", "target"), ("dino", "teacher")])
def test_the_slow_network_drops_nothing_and_has_the_batchs_statistics(tiny, name, slow):
    method = tiny.method(name, encoder={"dropout": 0.5}).train()
    held, pixels = getattr(method, slow)[0], torch.rand(8, 1, 32, 32)
    assert not torch.equal(method.model.features(pixels), method.model.features(pixels))
    assert torch.equal(held.features(pixels), held.features(pixels))
    before = [layer.running_mean.clone() for layer in batch_norms(held)]
    assert before
    held.features(pixels)
    for was, layer in zip(before, batch_norms(held), strict=True):
        assert layer.training
        assert not torch.equal(was, layer.running_mean)


def test_encoders_drop_nothing_in_pretraining_unless_they_are_told_to():
    for name in PAIRS:
        assert build({"method": name, "encoder": "resnet18"}).encoder.dropout == 0
        assert build({"method": name, "encoder": "resnet18", "encoder.dropout": 0.3}).encoder.dropout == 0.3
        assert not hasattr(build({"method": name, "encoder": "ecnn"}).encoder, "dropout")
    assert build({"method": "supervised", "encoder": "resnet18"}).encoder.dropout == 0.5


def test_dinos_centre_is_the_teachers_mean_and_prototypes_wait(tiny):
    method = tiny.method("dino", method={"frozen": 0.5})
    batch = tiny.batch(method)
    with torch.no_grad():
        wanted = torch.cat(
            [method.teacher[1](view) for view in method.two_views(batch["source"], method.teacher[0])]
        )
    method(batch, 0.1).total.backward()
    torch.testing.assert_close(method.centre, 0.1 * wanted.mean(0), atol=1e-5, rtol=1e-3)
    assert method.head.prototypes.grad.abs().max() == 0
    method.zero_grad()
    method(batch, 0.6).total.backward()
    assert method.head.prototypes.grad.abs().max() > 0


def test_patches_are_cut_in_rows():
    pixels = torch.arange(2 * 3 * 4 * 6, dtype=torch.float).view(2, 3, 4, 6)
    found = patches(pixels, 2)
    assert found.shape == (2, 6, 12)
    torch.testing.assert_close(found[1, 4].view(3, 2, 2), pixels[1, :, 2:4, 2:4])


def test_patches_are_standardised_by_their_deviation():
    """seed-systems.md K4: not by the variance."""
    values = standardised(torch.randn(2, 3, 50) * 7 + 3)
    torch.testing.assert_close(values.mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(-1), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("mask", "ratio", "count"), [("random", 0.75, 12), ("random", 0.5, 8), ("block", 0.5, 9)]
)
def test_the_mask_hides_as_many_as_said(tiny, mask, ratio, count):
    method = tiny.method("mae", method={"mask": mask, "ratio": ratio})
    hidden = method.masked(200, torch.device("cpu"))
    assert hidden.shape == (200, 16)
    assert (hidden.sum(1) == count).all()
    assert (hidden.float().mean(0) > 0.05).all()  # every patch is hidden at times
    if mask == "block":
        square = hidden.view(200, 4, 4)
        assert (square.any(1).sum(1) == 3).all()
        assert (square.any(2).sum(1) == 3).all()


def test_the_masked_patches_are_not_seen_and_the_others_not_counted(tiny):
    method = tiny.method("mae").eval()
    pixels, hidden = torch.rand(3, 1, 32, 32), method.masked(3, torch.device("cpu"))
    covered = pixels.clone()
    side = method.model.encoder.patch
    for row, patch in hidden.nonzero().tolist():
        top, left = side * (patch // 4), side * (patch % 4)
        covered[row, :, top : top + side, left : left + side] = 9.0
    for one, other in zip(
        method.reconstruct(pixels, hidden), method.reconstruct(covered, hidden), strict=True
    ):
        assert torch.equal(one, other)
    # eq. of section 3: the mean squared error of the masked patches alone
    _, painted = method.reconstruct(pixels, hidden)
    error = (painted - patches(pixels, side)).square().mean(-1)
    torch.manual_seed(5)
    hidden = method.masked(3, torch.device("cpu"))
    _, painted = method.reconstruct(pixels, hidden)
    expected = (painted - patches(pixels, side)).square().mean(-1)[hidden].mean()
    torch.manual_seed(5)
    batch = {"source": find_images(pixels)}
    torch.testing.assert_close(method(batch, 0.5).terms["masked"], expected)
    assert error.shape == hidden.shape


def find_images(pixels):
    from raylens.records import Images

    return Images({"view": pixels})


@pytest.mark.parametrize("normalised", [False, True])
def test_visible_patches_count_by_their_weight_and_patches_as_they_are_or_standardised(tiny, normalised):
    method = tiny.method("mae", method={"visible": 0.3, "normalised": normalised})
    batch = tiny.batch(method)
    pixels, side = batch["source"].views["view"], method.model.encoder.patch
    torch.manual_seed(5)
    hidden = method.masked(len(pixels), torch.device("cpu"))
    with torch.no_grad():
        painted = method.reconstruct(pixels, hidden)[1].double().numpy()
    expected = {"masked": [], "visible": []}
    for row, image in enumerate(pixels[:, 0].double().numpy()):
        for patch in range(16):
            down, right = side * (patch // 4), side * (patch % 4)
            wanted = image[down : down + side, right : right + side].ravel()
            if normalised:
                wanted = (wanted - wanted.mean()) / np.sqrt(wanted.var(ddof=1) + 1e-6)
            error = np.mean((painted[row, patch] - wanted) ** 2)
            expected["masked" if hidden[row, patch] else "visible"].append(error)
    torch.manual_seed(5)
    terms = method(batch, 0.5).terms
    assert set(terms) == {"masked", "visible"}
    assert terms["masked"].item() == pytest.approx(np.mean(expected["masked"]), rel=1e-4)
    assert terms["visible"].item() == pytest.approx(0.3 * np.mean(expected["visible"]), rel=1e-4)


def test_the_class_token_is_trained(tiny):
    """seed-systems.md K5."""
    method = tiny.method("mae")
    method(tiny.batch(method), 0.5).total.backward()
    assert method.model.encoder.network.cls_token.grad.abs().max() > 0


def test_mae_needs_an_encoder_of_patches():
    with pytest.raises(ConfigError, match="mae cannot train the encoder 'small'; it can: vit"):
        build({"method": "mae", "encoder": "small"})
    assert build({"method": "mae"}).encoder.name == "vit"


@pytest.mark.parametrize("name", PRETRAINING)
def test_a_label_is_never_looked_at(tiny, name):
    from dataclasses import replace

    method = tiny.method(name)
    batch = tiny.batch(method)
    bare = {stream: replace(images, labels=None) for stream, images in batch.items()}
    totals = []
    for given in (batch, bare):
        torch.manual_seed(0)
        totals.append(tiny.method(name)(given, 0.5).total)
    assert torch.equal(*totals)


@pytest.mark.parametrize("name", PRETRAINING)
def test_a_collapse_is_said_at_once(tiny, name):
    found = tiny.method(name).symptoms({"monitor/spread": 1e-4})
    assert any(warning.startswith(COLLAPSED) for warning in found)


@pytest.mark.parametrize("name", PRETRAINING)
def test_features_on_a_line_are_a_collapse_though_they_are_spread(tiny, name):
    rng = np.random.default_rng(0)
    line, all_over = rng.normal(size=(100, 1)) * rng.normal(size=16), rng.normal(size=(100, 16))
    measured = [Task().metrics(features, None) for features in (line, all_over)]
    assert measured[0]["spread"] > 0.5
    warnings = [
        tiny.method(name).symptoms({f"source/{metric}": value for metric, value in one.items()})
        for one in measured
    ]
    assert warnings == [[f"{COLLAPSED}the features fill one dimension"], []]


@pytest.mark.parametrize("away", [0.0, 1.0])
def test_a_report_says_that_features_fill_one_dimension(tiny, monkeypatch, away):
    """All dimensions of the encoder's last layer are multiples of one, and their line passes 0, or passes it by."""
    build_method, data = worker.build, tiny.resident()

    def flattened(run, facts):
        method = build_method(run, facts)
        _, linear, slope = method.model.encoder.project
        pixels = data.validation["source"].pixels
        adapt_batch_norm(method.model, pixels)
        with torch.no_grad():
            linear.weight.copy_(torch.linspace(-1, 1, 16)[:, None] * linear.weight[:1])
            linear.bias.zero_()
            slope.weight.fill_(1.0)
            features = collect(method.model, pixels, None).features
            aside = torch.where(torch.arange(16) % 2 == 0, 1.0, -1.0) * away * features.std()
            linear.bias.copy_(aside - torch.from_numpy(features.mean(0)))
        for layer in batch_norms(method.model):
            layer.momentum = 0.0  # statistics stay, and so does the average
        return method

    monkeypatch.setattr(worker, "build", flattened)
    run = tiny.run("contrastive", optimizer={"lr": 0.0})
    (*_, last) = worker.work(run, tiny.facts(), data)
    assert last.metrics["source/spread"] > (0.3 if away else 0.5)
    if away:
        assert last.metrics["source/rankme"] > 1.5, "which would not have told"
    else:
        assert last.metrics["source/rankme"] == pytest.approx(1, abs=0.01)
    assert last.metrics["source/dimensions"] == pytest.approx(1, abs=0.01)
    assert f"{COLLAPSED}the features fill one dimension" in last.metrics["warnings"]


@pytest.mark.parametrize("name", PAIRS)
def test_features_that_are_all_alike_have_no_spread(tiny, name):
    method = tiny.method(name)
    for weight in method.model.encoder.project[1].parameters():
        torch.nn.init.zeros_(weight)
    torch.nn.init.ones_(method.model.encoder.project[1].bias)
    monitors = method(tiny.batch(method), 0.5).monitors
    assert monitors["spread"] == pytest.approx(0, abs=1e-5)
    assert monitors["alignment"] == pytest.approx(0, abs=1e-5)
    assert monitors["uniformity"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", PRETRAINING)
def test_half_precision_is_taken(tiny, name):
    method = tiny.method(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = method(tiny.batch(method), 0.5)
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(monitor.isfinite() for monitor in losses.monitors.values())


@pytest.mark.parametrize(
    "loss",
    [
        lambda one, two: losses.nt_xent(one, two, 0.1),
        lambda one, two: losses.redundancy(one, two, 0.1),
        lambda one, two: losses.distillation(one, two, 0.1, 0.04),
        losses.cosine_distance,
    ],
)
def test_similarities_and_correlations_are_of_single_precision_whatever_the_heads_give(loss):
    rng = torch.Generator().manual_seed(0)
    one, two = (torch.randn(64, 16, generator=rng).bfloat16() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(one, two)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(one.float(), two.float()))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("contrastive", {}),
        ("byol", {"momentum": 0.9}),  # so few steps want an average that soon forgets
        ("twin", {"kind": "barlow"}),
        ("twin", {"kind": "simsiam"}),
        ("dino", {"momentum": 0.9}),
    ],
)
def test_features_come_to_tell_classes_that_nobody_named(tiny, name, settings):
    """Rings and blobs under noise: a linear probe of what was trained beats that of a random encoder, on two seeds."""

    def noisy(rows, seed):
        pixels, labels = tiny.domain(rows, 0.5, seed, shifted=True)
        noise = np.random.default_rng(seed).normal(0, 0.6, pixels.shape)
        return Split((pixels + noise).astype(np.float32), labels)

    gained = []
    for seed in (0, 2):
        seen, held = noisy(600, seed + 1), noisy(400, seed + 50)
        run = tiny.run(
            name,
            encoder={"width": 8, "features": 32},
            data={"batch": 64},
            fit={"steps": 150, "report_every": 150},
            optimizer={"lr": 3e-3},
            method=settings,
            seed=seed,
        )
        random = collect(worker.build(run, tiny.facts()).result.eval(), held.pixels, None).features
        data = Resident({"source": Split(seen.pixels)}, {"source": held})
        (report,) = worker.work(run, tiny.facts(), data)
        gained.append(report.metrics["source/probe"] - representation.probe(random, held.labels))
    assert np.mean(gained) > 0.08
