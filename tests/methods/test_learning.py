"""Every adaptation reads a noisy toy target better than the source's model alone."""

import numpy as np
import pytest

from raylens import find, metrics
from raylens.cluster.worker import work
from raylens.data.stream import Resident, Split
from raylens.loop import collect
from raylens.models import adapt_batch_norm

SHARED = {"encoder": {"width": 8, "features": 32}, "data": {"batch": 32, "target_batch": 32}}
BALANCED = {"target_prior": None}  # two images in five are rings, in both domains
SETTINGS = {
    "adabn": {},
    "adda": {"method": BALANCED, "optimizer": {"lr": 3e-4}},
    "adamatch": {"method": {**BALANCED, "decay": 0.95}, "optimizer": {"lr": 1e-3}},
    "cdan": {"method": BALANCED, "optimizer": {"lr": 3e-4}},
    "mcc": {"optimizer": {"lr": 1e-3}},
    "self_ensembling": {"method": {"decay": 0.95}, "optimizer": {"lr": 1e-3}},
    "wdgrl": {"method": BALANCED, "optimizer": {"lr": 1e-3}},
}
ADAPTATIONS = [name for name in find.names("methods") if find.method(name).start]

pytestmark = pytest.mark.usefixtures("one_thread")


def noisy_target(tiny, rows, seed):
    """The shifted toy domain under three times its noise."""
    pixels, labels = tiny.domain(rows, 0.4, seed, shifted=True)
    return (pixels + np.random.default_rng(seed).normal(0, 0.45, pixels.shape)).astype(np.float32), labels


@pytest.fixture(scope="module")
def data(tiny) -> Resident:
    source, target = Split(*tiny.domain(400, 0.4, 1, shifted=False)), Split(noisy_target(tiny, 400, 2)[0])
    return Resident({"source": source, "target": target}, {"source": source, "target": target})


@pytest.fixture(scope="module")
def auroc(tiny):
    test, labels = noisy_target(tiny, 600, 3)

    def measure(model):
        return metrics.binary(metrics.softmax64(collect(model, test, None).logits)[:, 1], labels)["auroc"]

    return measure


@pytest.fixture(scope="module")
def start(tiny, data, tmp_path_factory):
    """The source's model, and what it is worth on the target."""
    folder = tmp_path_factory.mktemp("start")
    (report,) = work(tiny.run(**SHARED, fit={"steps": 150, "report_every": 150}), tiny.facts(), data)
    report.save(folder)
    return folder, report.method.result


def test_all_of_them_are_here():
    assert set(ADAPTATIONS) == set(SETTINGS)


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_it_reads_the_target_better_than_the_source_alone(tiny, data, auroc, start, name):
    folder, source_only = start
    fit = {"steps": 200, "report_every": 200}
    run = tiny.run(name, **SHARED, **SETTINGS[name], fit=fit, start=str(folder))
    (report,) = work(run, tiny.facts(), data)
    assert auroc(report.method.result) > auroc(source_only) + 0.05
    assert report.metrics["warnings"] == ""


def test_adda_does_more_than_batch_norm(tiny, data, auroc, start, tmp_path):
    from raylens import checkpoint

    folder, _ = start
    model = checkpoint.read(folder).model()
    adapt_batch_norm(model, data.train["target"].pixels)
    fit = {"steps": 200, "report_every": 200}
    run = tiny.run("adda", **SHARED, **SETTINGS["adda"], fit=fit, start=str(folder))
    (report,) = work(run, tiny.facts(), data)
    assert auroc(report.method.result) > auroc(model) + 0.02
