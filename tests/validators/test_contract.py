import dataclasses
import importlib

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from raylens.errors import DataError
from raylens.find import names, validator
from raylens.records import Outputs
from raylens.validators import FOR_PRETRAINING, dev, information_maximisation, mixval, snd

WITHOUT_LABELS = [name for name in names("validators") if name != "oracle"]


def domain(separation, *, rows=400, rate=0.3, shift=0.0, dim=8, seed=0):
    """Two classes `separation` apart along the first feature; the model reads that feature and no other."""
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < rate).astype(int)
    features = random.normal(size=(rows, dim)) + shift
    features[:, 0] += separation * labels
    logits = np.stack([np.zeros(rows), 2 * (features[:, 0] - separation / 2)], axis=1)
    return mixable(Outputs(features.astype(np.float32), logits.astype(np.float32), labels, np.arange(rows)))


def mixable(outputs):
    """The outputs of a linear model, whose logits mix as images do."""

    def mixed(rows, others, share):
        return share * outputs.logits[rows] + (1 - share) * outputs.logits[others]

    return dataclasses.replace(outputs, mixed=mixed)


def unlabelled(outputs):
    return dataclasses.replace(outputs, labels=None)


def noise(outputs, seed=5):
    """The same images through a model that knows nothing."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=outputs.logits.shape).astype(np.float32)
    return mixable(dataclasses.replace(outputs, logits=logits))


SOURCE, TARGET = domain(5.0), domain(5.0, seed=1)
COLLAPSED = mixable(
    dataclasses.replace(TARGET, logits=np.zeros_like(TARGET.logits), features=np.ones_like(TARGET.features))
)
PERFECT = mixable(dataclasses.replace(TARGET, logits=(1000 * np.eye(2)[TARGET.labels]).astype(np.float32)))
ONE_CLASS = mixable(dataclasses.replace(TARGET, logits=np.tile(np.float32([1000, 0]), (400, 1))))


@pytest.mark.parametrize("name", names("validators"))
@pytest.mark.parametrize("outputs", [TARGET, noise(TARGET), COLLAPSED, PERFECT, ONE_CLASS], ids=range(5))
def test_scores_are_finite_and_repeat(name, outputs):
    target = outputs if name == "oracle" else unlabelled(outputs)
    for source in (SOURCE, dataclasses.replace(outputs, labels=SOURCE.labels)):
        score = validator(name)(source, target)
        assert isinstance(score, float)
        assert np.isfinite(score)
        assert score == validator(name)(source, target)


@pytest.mark.parametrize("name", WITHOUT_LABELS)
def test_target_labels_change_nothing(name):
    assert validator(name)(SOURCE, TARGET) == validator(name)(SOURCE, unlabelled(TARGET))


@pytest.mark.parametrize("name", names("validators"))
def test_three_classes_are_scored(name):
    random = np.random.default_rng(0)
    labels = random.integers(3, size=200)
    logits = (random.normal(size=(200, 3)) + 3 * np.eye(3)[labels]).astype(np.float32)
    outputs = mixable(Outputs(logits, logits, labels, np.arange(200)))
    assert np.isfinite(validator(name)(outputs, outputs if name == "oracle" else unlabelled(outputs)))


@pytest.mark.parametrize("name", sorted({*names("validators")} - {"domain_gap", *FOR_PRETRAINING}))
def test_a_sensible_model_scores_above_noise(name):
    """The others read features and no logits, so noise there means nothing to them."""
    keep = (lambda outputs: outputs) if name == "oracle" else unlabelled
    score = validator(name)
    assert score(SOURCE, keep(TARGET)) > score(noise(SOURCE), keep(noise(TARGET)))


@pytest.mark.parametrize("name", names("validators"))
def test_its_file_says_where_it_comes_from(name):
    assert len(importlib.import_module(f"raylens.validators.{name}").__doc__) > 100


def test_domain_gap_grows_with_the_shift():
    scores = [
        validator("domain_gap")(SOURCE, unlabelled(domain(5.0, shift=shift, seed=1))) for shift in (0, 0.3, 3)
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > -0.6
    assert scores[2] < -0.99


def test_score_separation_sees_rare_lenses_and_invents_none():
    rare, none = domain(6.0, rows=5000, rate=0.02), domain(0.0, rows=5000)
    assert validator("score_separation")(SOURCE, unlabelled(rare)) > 0.95
    assert validator("score_separation")(SOURCE, unlabelled(none)) == 0.5


def test_source_and_entropy_by_hand():
    """The default: three of the source's four pairs in order, and the mean entropy of two target images in nats."""
    said = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]]))
    source = Outputs(np.zeros((4, 1)), said, np.array([0, 0, 1, 1]), np.arange(4))
    target = Outputs(np.zeros((2, 1)), np.log(np.array([[0.9, 0.1], [0.2, 0.8]])), None, np.arange(2))
    mean = -np.mean([0.9 * np.log(0.9) + 0.1 * np.log(0.1), 0.2 * np.log(0.2) + 0.8 * np.log(0.8)])
    assert validator("source_auroc")(source, target) == pytest.approx(0.75)
    assert validator("entropy")(source, target) == pytest.approx(-mean)
    assert validator("source_and_entropy")(source, target) == pytest.approx(0.75 - 0.2 * mean)


def test_information_maximisation_by_hand():
    logits = np.log(np.array([[0.9, 0.1], [0.2, 0.8]]))
    target = Outputs(np.zeros((2, 1)), logits, None, np.arange(2))
    mean = (np.array([1.1, 0.9]) + 0.5) / 3
    entropy = -np.mean([0.9 * np.log(0.9) + 0.1 * np.log(0.1), 0.2 * np.log(0.2) + 0.8 * np.log(0.8)])
    expected = -np.sum(0.5 * np.log(0.5 / mean)) - entropy
    equal = dataclasses.replace(target, prior=np.array([0.5, 0.5]))
    assert information_maximisation.score(SOURCE, equal) == pytest.approx(expected)
    assert information_maximisation.score(SOURCE, unlabelled(ONE_CLASS)) < information_maximisation.score(
        SOURCE, unlabelled(TARGET)
    )


def test_information_maximisation_prefers_the_share_of_lenses_that_is_expected():
    """Two models as sure as each other: one calls 3 in 10 lens, as of the source, the other 1 in 100."""
    many, few = (np.arange(1000) < count for count in (300, 10))
    called = {
        name: Outputs(np.zeros((1000, 1)), 5.0 * np.eye(2)[lenses.astype(int)], None, np.arange(1000))
        for name, lenses in (("many", many), ("few", few))
    }

    def best(prior):
        scores = {
            name: information_maximisation.score(SOURCE, dataclasses.replace(one, prior=prior))
            for name, one in called.items()
        }
        return max(scores, key=scores.__getitem__)

    assert best(None) == "many"
    assert best(np.array([0.99, 0.01])) == "few"


def test_soft_neighbourhood_density_by_the_paper():
    p = softmax(TARGET.logits[:50].astype(float), axis=1)
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    entropies = []
    for row in range(50):  # eq. 1 and 2
        similarity = np.exp([p[row] @ p[other] / 0.05 for other in range(50) if other != row])
        similarity /= similarity.sum()
        entropies.append(-(similarity * np.log(similarity)).sum())
    few = dataclasses.replace(TARGET, logits=TARGET.logits[:50])
    assert snd.score(SOURCE, few) == pytest.approx(np.mean(entropies))


@pytest.mark.parametrize("name", FOR_PRETRAINING)
def test_features_that_tell_more_score_higher(name):
    known = SOURCE
    blank = dataclasses.replace(SOURCE, features=np.ones_like(SOURCE.features))
    assert validator(name)(known, None) > validator(name)(blank, None)


def test_a_probe_without_labels_says_what_to_set():
    with pytest.raises(DataError, match=r"search\.validator to rankme"):
        validator("probe")(unlabelled(SOURCE), None)


def test_mixval_by_hand():
    """Three images on a line, of which the model calls those above 0 a lens: 0.55 of one and 0.45 of another."""
    places, asked = np.array([-1.0, -3.0, 2.0]), []

    def mixed(rows, others, share):
        assert share == 0.55
        asked.append((rows, others))
        at = share * places[rows] + (1 - share) * places[others]
        return np.stack([-at, at], axis=1)

    logits = np.stack([-places, places], axis=1)
    score = mixval.score(SOURCE, Outputs(np.zeros((3, 1)), logits, None, np.arange(3), mixed))
    (same, others), (first, second) = asked
    called = places > 0
    assert (called[same] == called[others]).all()
    assert (called[first] != called[second]).all()
    assert (same != others).all()
    assert set(same) == {0, 1}  # the only lens there is has no other to be mixed with
    assert [called[rows].sum() for rows in (same, first)] == [0, 500]  # else of each class as many
    # -1 goes over to 2 (0.55 * -1 + 0.45 * 2 > 0), -3 does not; 2 stays a lens beside -1 and not beside -3.
    right = np.mean((first == 1) | ((first == 2) & (second == 0)))
    assert score == pytest.approx((1 + right) / 2)
    assert 0.4 < right < 0.6


def test_mixval_without_mixtures_says_so():
    with pytest.raises(ValueError, match="mixtures"):
        mixval.score(SOURCE, dataclasses.replace(TARGET, mixed=None))


def test_deep_embedded_validation_is_the_plain_loss_when_no_row_weighs_more(monkeypatch):
    monkeypatch.setattr(
        dev, "target_probability", lambda source, target: np.full(len(source) + len(target), 0.5)
    )
    loss = -log_softmax(SOURCE.logits.astype(float), axis=1)[np.arange(400), SOURCE.labels]
    assert dev.score(SOURCE, TARGET) == pytest.approx(-loss.mean())


def test_deep_embedded_validation_by_hand(monkeypatch):
    """You et al. 2019, section 3.3: density ratios from a classifier of domains, and the mean ratio as control."""
    target = domain(5.0, rows=300, seed=1)
    guess = np.random.default_rng(0).uniform(0.2, 0.9, 700)
    monkeypatch.setattr(dev, "target_probability", lambda *features: guess)
    weight = [400 / 300 * p / (1 - p) for p in guess[:400]]
    said = log_softmax(SOURCE.logits.astype(float), axis=1)
    weighted = [w * -row[label] for w, row, label in zip(weight, said, SOURCE.labels, strict=True)]
    one, loss = np.mean(weight), np.mean(weighted)
    together = np.mean([(x - loss) * (w - one) for x, w in zip(weighted, weight, strict=True)])
    alone = np.mean([(w - one) ** 2 for w in weight])
    assert abs(one - 1) > 0.5  # else control would not count
    assert dev.score(SOURCE, target) == pytest.approx(-(loss - together / alone * (one - 1)))


def test_the_oracle_without_labels_says_so():
    with pytest.raises(DataError, match="no labels"):
        validator("oracle")(SOURCE, unlabelled(TARGET))


def test_broken_features_have_no_probe():
    """A trial that breaks at a report is the worst, and not one to be tried again."""
    broken = dataclasses.replace(SOURCE, features=np.full_like(SOURCE.features, np.nan))
    assert np.isnan(validator("probe")(broken, None))
