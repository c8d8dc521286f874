import json
import time

import numpy as np
import pytest
from sklearn import metrics as reference

from raylens.errors import ConfigError, DataError
from raylens.metrics import (
    FORMULAS,
    METRICS,
    binary,
    classification,
    confusion,
    draws,
    evaluate_outputs,
    explain,
    interval,
    multiclass,
    over_runs,
    paired,
    paired_over_runs,
    scarce,
    softmax64,
)
from raylens.records import Outputs


def gaussians(rows=2000, rate=0.2, separation=1.5, seed=0):
    random = np.random.default_rng(seed)
    labels = (np.arange(rows) < rate * rows).astype(int)
    return 1 / (1 + np.exp(-(random.normal(size=rows) + separation * labels))), labels


@pytest.mark.parametrize("decimals", [12, 1], ids=["distinct", "tied"])
def test_binary_metrics_equal_scikit_learns(decimals):
    scores, labels = gaussians()
    scores = scores.round(decimals)
    ours = binary(scores, labels, threshold=0.7)
    assert ours["auroc"] == pytest.approx(reference.roc_auc_score(labels, scores))
    assert ours["auprc"] == pytest.approx(reference.average_precision_score(labels, scores))
    assert ours["brier"] == pytest.approx(reference.brier_score_loss(labels, scores))
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(labels, scores >= 0.7))
    assert [ours[name] for name in ("tn", "fp", "fn", "tp")] == [
        *reference.confusion_matrix(labels, scores >= 0.7).ravel()
    ]
    fpr, tpr, _ = reference.roc_curve(labels, scores, drop_intermediate=False)
    assert ours["tpr_at_fpr_1e-2"] == pytest.approx(tpr[fpr <= 1e-2].max())
    assert ours["tpr_at_fpr_1e-3"] == pytest.approx(tpr[fpr <= 1e-3].max())


def test_recall_before_false_positives_by_hand():
    #         lens  lens  not  lens  not
    scores = [0.9, 0.8, 0.7, 0.6, 0.5]
    assert binary(scores, [1, 1, 0, 1, 0])["tpr0"] == pytest.approx(2 / 3)
    assert binary(scores, [1, 1, 0, 1, 0])["tpr10"] == 1  # there is no tenth
    many = np.linspace(1, 0, 24)
    labels = [1, 1] + [0] * 9 + [1] + [0] + [1] + [0] * 10  # one lens between the ninth and the tenth
    assert binary(many, labels)["tpr10"] == pytest.approx(3 / 4)


def test_a_false_positive_counts_before_the_lenses_it_is_tied_with():
    assert binary([0.9, 0.8, 0.8, 0.8, 0.1], [1, 1, 1, 0, 0])["tpr0"] == pytest.approx(1 / 3)
    assert binary([0.9, 0.9, 0.9], [1, 1, 0])["tpr0"] == 0


def test_calibration_error_over_equal_mass_bins():
    scores, labels = gaussians(rows=1500)
    bins = np.argsort(scores).reshape(15, 100)
    expected = np.mean(np.abs(scores[bins].mean(1) - labels[bins].mean(1)))
    assert binary(scores, labels)["ece"] == pytest.approx(expected)
    assert binary([0.25] * 4 + [0.75] * 4, [1, 0, 0, 0, 1, 1, 1, 0])["ece"] == pytest.approx(0)
    assert binary([0.5] * 4, [1, 0, 0, 0])["ece"] == pytest.approx(0.25)  # all tied: one bin


def test_multiclass_metrics_equal_scikit_learns():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=600)
    probabilities = softmax64(random.normal(size=(600, 3)) + 1.5 * np.eye(3)[labels])
    ours = multiclass(probabilities, labels)
    assert ours["auroc"] == pytest.approx(reference.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert ours["auroc_2"] == pytest.approx(reference.roc_auc_score(labels == 2, probabilities[:, 2]))
    assert ours["accuracy"] == pytest.approx((probabilities.argmax(1) == labels).mean())
    table = confusion(probabilities, labels)
    assert np.array_equal(table, reference.confusion_matrix(labels, probabilities.argmax(1)))
    assert classification(probabilities, labels) == ours


def test_two_classes_are_judged_by_the_probability_of_the_second():
    scores, labels = gaussians()
    assert classification(np.stack([1 - scores, scores], 1), labels) == binary(scores, labels)


def test_interval_agrees_with_hanley_and_mcneil():
    scores, labels = gaussians(rows=2000, rate=0.5)  # balanced, where their exponential scores do little harm
    low, high = interval(scores, labels)
    auroc, lenses, others = binary(scores, labels)["auroc"], labels.sum(), (1 - labels).sum()
    one, two = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    spread = (lenses - 1) * (one - auroc**2) + (others - 1) * (two - auroc**2)
    error = np.sqrt((auroc * (1 - auroc) + spread) / (lenses * others))
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.12)
    assert low < auroc < high


def test_interval_of_rare_lenses_agrees_with_delong():
    scores, labels = gaussians(rows=3000, rate=0.05)
    low, high = interval(scores, labels)
    above = scores[labels == 1][:, None] > scores[labels == 0]
    error = np.sqrt(above.mean(1).var(ddof=1) / len(above) + above.mean(0).var(ddof=1) / above.shape[1])
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.12)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    truth = 0.8555778168267576  # Phi(1.5 / sqrt 2)
    inside = 0
    for seed in range(100):
        low, high = interval(*gaussians(rows=300, rate=0.3, seed=seed), resamples=300)
        inside += low <= truth <= high
    assert 88 <= inside <= 100


@pytest.mark.parametrize("metric", FORMULAS)
def test_every_metric_has_an_interval_that_repeats(metric):
    scores, labels = gaussians(rows=500)
    low, high = interval(scores, labels, metric, resamples=50, seed=3)
    assert (low, high) == interval(scores, labels, metric, resamples=50, seed=3)
    assert np.isfinite([low, high]).all()
    assert low <= high


def test_resamples_hold_as_many_rows_of_each_class_as_the_split():
    labels = np.array([0] * 50 + [1] * 2)
    for rows in draws(labels, 20, seed=0):
        assert (labels[rows].sum(1) == 2).all()
        assert rows.shape[1] == 52


def test_a_thousand_resamples_of_ten_thousand_rows_take_less_than_two_seconds():
    scores, labels = gaussians(rows=10_000, rate=0.01)
    start = time.thread_time()
    interval(scores, labels, resamples=1000)
    assert time.thread_time() - start < 2


def test_a_paired_difference_is_narrower_than_two_intervals():
    scores, labels = gaussians(rows=1000)
    noisy = scores + 0.02 * np.random.default_rng(1).normal(size=1000)
    difference, low, high = paired(scores, noisy, labels)
    widths = np.array([np.subtract(*interval(one, labels)[::-1]) for one in (scores, noisy)])
    assert low <= difference <= high
    assert high - low < 0.5 * np.hypot(*widths)
    assert paired(scores, scores, labels) == (0, 0, 0)


def test_the_mean_over_runs_has_an_interval_that_knows_their_scatter():
    scores, labels = gaussians(rows=1000)
    random = np.random.default_rng(1)
    noisy = [scores + size * random.normal(size=1000) for size in (0.05, 0.1, 0.5)]
    alone = [paired(scores, one, labels)[0] for one in noisy]
    mean, low, high = paired_over_runs([(scores, one, labels) for one in noisy])
    assert mean == pytest.approx(np.mean(alone))
    assert min(alone) <= low < mean < high <= max(alone) + 0.05
    same, *narrow = paired_over_runs([(scores, noisy[0], labels)] * 3)
    assert same == pytest.approx(alone[0])
    assert narrow[1] - narrow[0] < 0.2 * (high - low)
    _, *limits = paired_over_runs([(scores, noisy[1], labels)])
    np.testing.assert_allclose(limits, paired(scores, noisy[1], labels)[1:], atol=0.01)


def test_runs_that_share_a_pretraining_are_drawn_together():
    scores, labels = gaussians(rows=1000)
    random = np.random.default_rng(1)
    good, bad = ([scores + size * random.normal(size=1000) for _ in range(8)] for size in (0.01, 1.0))
    runs = [(scores, one, labels) for one in (*good, *bad)]
    mean, low, high = paired_over_runs(runs)
    grouped, *limits = paired_over_runs(runs, groups=2)
    assert grouped == mean
    assert limits[1] - limits[0] > 1.5 * (high - low), "two pretrainings that differ say less than sixteen"
    alone = [np.mean([paired(*run)[0] for run in part]) for part in (runs[:8], runs[8:])]
    assert limits[0] == pytest.approx(min(alone), abs=0.03)
    assert limits[1] == pytest.approx(max(alone), abs=0.03)
    few = runs[:2] + runs[8:9]
    _, *once = paired_over_runs(few)
    _, *again = paired_over_runs(few * 4, groups=4)
    np.testing.assert_allclose(again, once, atol=0.03, err_msg="seeds that all of them share are drawn once")


def test_the_same_rows_in_all_runs_do_not_make_an_interval_narrower():
    scores, labels = gaussians(rows=300)
    shuffled = np.random.default_rng(0).permutation(300)
    alone = interval(scores, labels)
    value, *same = over_runs([(scores, labels)] * 4)
    assert value == pytest.approx(binary(scores, labels)["auroc"])
    np.testing.assert_allclose(same, alone, atol=0.01)
    _, low, high = over_runs([(scores, labels), (scores[shuffled], labels[shuffled])] * 2)
    assert high - low < 0.8 * (alone[1] - alone[0]), "other labels are other rows"


@pytest.mark.parametrize(
    ("scores", "labels", "said"),
    [
        ([0.2, 0.3], [0, 0], "labels 0 alone"),
        ([0.2, 0.3], [0, 2], "labels 0, 2 alone"),
        ([], [], "0 rows"),
        ([0.2, 0.3], [0, 1, 1], "3 labels"),
        ([0.2, np.nan], [0, 1], "1 of 2 scores are NaN"),
        ([0.2, 3.0], [0, 1], "need probabilities"),
        ([0.2, 0.3], None, "no labels"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(scores, labels, said):
    with pytest.raises(DataError, match=said) as refusal:
        binary(scores, labels)
    assert "\n" not in str(refusal.value)


def test_logits_may_be_ranked_though_they_are_no_probabilities():
    assert interval([-3, 2, 1, 5], [0, 0, 1, 1], resamples=10)
    with pytest.raises(ConfigError, match="known here: auroc"):
        interval([-3, 2, 1, 5], [0, 0, 1, 1], "auc")


def test_every_reported_name_is_explained():
    scores, labels = gaussians(rows=100)
    names = [*binary(scores, labels), *multiclass(np.eye(3)[[0, 1, 2]], [0, 1, 2])]
    assert all(explain(f"{domain}/{name}").meaning for name in names for domain in ("source", "target"))
    assert explain("loss/supervised") is METRICS["loss/<term>"]
    with pytest.raises(ConfigError, match="unknown metric 'target/auc'"):
        explain("target/auc")


@pytest.mark.parametrize("classes", [("non-lens", "lens"), ("no_sub", "axion", "cdm")])
def test_an_evaluation_is_ready_for_json(classes):
    random = np.random.default_rng(0)
    labels = random.integers(len(classes), size=300)
    logits = (random.normal(size=(300, len(classes))) + 2 * np.eye(len(classes))[labels]).astype(np.float32)
    outputs = Outputs(np.zeros((300, 2)), logits, labels, np.arange(300))
    report = json.loads(json.dumps(evaluate_outputs(outputs, classes, resamples=100)))
    assert report["rows"] == sum(report["classes"].values()) == np.sum(report["confusion"]) == 300
    assert [sum(row) for row in report["confusion"]] == [*report["classes"].values()]
    auroc = report["metrics"]["auroc"]
    assert auroc["value"] == pytest.approx(classification(softmax64(logits), labels)["auroc"])
    assert auroc["low"] < auroc["value"] < auroc["high"]


def test_sure_lenses_are_not_tied_by_rounding():
    assert np.unique(softmax64(np.array([[0, 20], [0, 25], [0, 30]], dtype=np.float32))[:, 1]).size == 3


def test_few_images_of_a_class_are_told():
    assert scarce({"nonlens": 50, "lens": 10}) == ""
    assert scarce({"nonlens": 50, "lens": 6}).startswith("only 6 lens: its intervals are rough")
