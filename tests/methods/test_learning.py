"""Every adaptation reads a noisy toy target better than the source's model alone, with every seed."""

from dataclasses import dataclass

import numpy as np
import pytest

from raylens import checkpoint, find, metrics
from raylens.cluster.worker import work
from raylens.data.stream import Resident, Split
from raylens.loop import collect
from raylens.models import adapt_batch_norm

SHARED = {"encoder": {"width": 8, "features": 32}, "data": {"batch": 32, "target_batch": 32}}
BALANCED = {"target_prior": None}  # two images in five are rings, in both domains
SETTINGS = {
    "adabn": {},
    "adda": {"method": BALANCED, "optimizer": {"lr": 3e-4}},
    "adamatch": {"method": {**BALANCED, "decay": 0.95}, "optimizer": {"lr": 3e-4}},
    "cdan": {"method": BALANCED, "optimizer": {"lr": 3e-4}},
    "mcc": {"optimizer": {"lr": 1e-3}},
    "self_ensembling": {"method": {"decay": 0.95}, "optimizer": {"lr": 1e-3}},
    "wdgrl": {"method": BALANCED, "optimizer": {"lr": 3e-4}},
}
SEEDS = (0, 1, 2)
ADAPTATIONS = [name for name in find.names("methods") if find.method(name).start]

pytestmark = pytest.mark.usefixtures("one_thread")


def noisy_target(tiny, rows, seed):
    """The shifted toy domain under three times its noise."""
    pixels, labels = tiny.domain(rows, 0.4, seed, shifted=True)
    return (pixels + np.random.default_rng(seed).normal(0, 0.45, pixels.shape)).astype(np.float32), labels


@dataclass
class Toy:
    """Two domains, the source's model in a folder, and what any model is worth on the target."""

    data: Resident
    test: tuple[np.ndarray, np.ndarray]
    start: str
    source_only: float = 0.0

    def auroc(self, model) -> float:
        pixels, labels = self.test
        return metrics.binary(metrics.softmax64(collect(model, pixels, None).logits)[:, 1], labels)["auroc"]


@pytest.fixture(scope="module")
def toys(tiny, tmp_path_factory) -> list[Toy]:
    made = []
    for seed in SEEDS:
        source = Split(*tiny.domain(400, 0.4, 10 * seed + 1, shifted=False))
        target = Split(noisy_target(tiny, 400, 10 * seed + 2)[0])
        domains = {"source": source, "target": target}
        folder = str(tmp_path_factory.mktemp("start"))
        toy = Toy(Resident(domains, domains), noisy_target(tiny, 600, 10 * seed + 3), folder)
        run = tiny.run(**SHARED, seed=seed, fit={"steps": 150, "report_every": 150})
        (report,) = work(run, tiny.facts(), toy.data)
        report.save(folder)
        toy.source_only = toy.auroc(report.method.result)
        made.append(toy)
    return made


def adapted(tiny, toy: Toy, seed: int, name: str) -> float:
    """AUROC of a method's result on the target."""
    fit = {"steps": 200, "report_every": 200}
    run = tiny.run(name, **SHARED, **SETTINGS[name], seed=seed, fit=fit, start=toy.start)
    (report,) = work(run, tiny.facts(), toy.data)
    assert report.metrics["warnings"] == ""
    return toy.auroc(report.method.result)


def test_all_of_them_are_here():
    assert set(ADAPTATIONS) == set(SETTINGS)


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_it_reads_the_target_better_than_the_source_alone(tiny, toys, name):
    gains = [adapted(tiny, toy, seed, name) - toy.source_only for seed, toy in zip(SEEDS, toys, strict=True)]
    assert np.mean(gains) > 0.05, gains
    assert min(gains) > 0, gains


def test_adda_does_more_than_batch_norm(tiny, toys):
    gains = []
    for seed, toy in zip(SEEDS, toys, strict=True):
        model = checkpoint.read(toy.start).model()
        adapt_batch_norm(model, toy.data.train["target"].pixels)
        gains.append(adapted(tiny, toy, seed, "adda") - toy.auroc(model))
    assert np.mean(gains) > 0.02, gains
    assert min(gains) > 0, gains
