import dataclasses
import importlib

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from raylens.errors import DataError
from raylens.find import names, validator
from raylens.records import Outputs
from raylens.validators import dev, information_maximisation, snd

WITHOUT_LABELS = [name for name in names("validators") if name != "oracle"]


def domain(separation, *, rows=400, rate=0.3, shift=0.0, dim=8, seed=0):
    """Two classes `separation` apart along the first feature; the model reads that feature and no other."""
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < rate).astype(int)
    features = random.normal(size=(rows, dim)) + shift
    features[:, 0] += separation * labels
    logits = np.stack([np.zeros(rows), 2 * (features[:, 0] - separation / 2)], axis=1)
    return Outputs(features.astype(np.float32), logits.astype(np.float32), labels, np.arange(rows))


def unlabelled(outputs):
    return dataclasses.replace(outputs, labels=None)


def noise(outputs, seed=5):
    """The same images through a model that knows nothing."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=outputs.logits.shape).astype(np.float32)
    return dataclasses.replace(outputs, logits=logits)


SOURCE, TARGET = domain(5.0), domain(5.0, seed=1)
COLLAPSED = dataclasses.replace(
    TARGET, logits=np.zeros_like(TARGET.logits), features=np.ones_like(TARGET.features)
)
PERFECT = dataclasses.replace(TARGET, logits=(1000 * np.eye(2)[TARGET.labels]).astype(np.float32))
ONE_CLASS = dataclasses.replace(TARGET, logits=np.tile(np.float32([1000, 0]), (400, 1)))


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
    outputs = Outputs(logits, logits, labels, np.arange(200))
    assert np.isfinite(validator(name)(outputs, outputs if name == "oracle" else unlabelled(outputs)))


@pytest.mark.parametrize("name", [name for name in names("validators") if name != "domain_gap"])
def test_a_sensible_model_scores_above_noise(name):
    """`domain_gap` reads no logits, so noise there means nothing to it."""
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


def test_information_maximisation_by_hand():
    logits = np.log(np.array([[0.9, 0.1], [0.2, 0.8]]))
    target = Outputs(np.zeros((2, 1)), logits, None, np.arange(2))
    mean = (np.array([1.1, 0.9]) + 0.5) / 3
    entropy = -np.mean([0.9 * np.log(0.9) + 0.1 * np.log(0.1), 0.2 * np.log(0.2) + 0.8 * np.log(0.8)])
    expected = -np.sum(0.5 * np.log(0.5 / mean)) - entropy
    assert information_maximisation.score(SOURCE, target, prior=(0.5, 0.5)) == pytest.approx(expected)
    assert information_maximisation.score(SOURCE, unlabelled(ONE_CLASS)) < information_maximisation.score(
        SOURCE, unlabelled(TARGET)
    )


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


def test_deep_embedded_validation_is_the_plain_loss_when_no_row_weighs_more(monkeypatch):
    monkeypatch.setattr(
        dev, "target_probability", lambda source, target: np.full(len(source) + len(target), 0.5)
    )
    loss = -log_softmax(SOURCE.logits.astype(float), axis=1)[np.arange(400), SOURCE.labels]
    assert dev.score(SOURCE, TARGET) == pytest.approx(-loss.mean())


def test_the_oracle_without_labels_says_so():
    with pytest.raises(DataError, match="no labels"):
        validator("oracle")(SOURCE, unlabelled(TARGET))
