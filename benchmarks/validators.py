"""How much target AUROC each validator gives away: `python benchmarks/validators.py runs --seeds 0 1`.

`runs` is where the main job kept its runs and the sets that it simulated for these seeds. For each seed ADDA is
trained with a few settings, some of which ruin it; with `--all` the other methods too, with their defaults and at three
times their learning rate. Each validator chooses one by the last checkpoints, without target labels, and its regret is
the best target AUROC minus that of its choice. `agreement` is with the ensemble of all (raylens/ensemble.py).
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
import torch

from raylens import checkpoint, config, find, metrics
from raylens.checkpoint import Facts
from raylens.cluster.worker import work
from raylens.data import sets
from raylens.data.preprocess import preprocess
from raylens.data.shards import LENS_CLASSES, read_split
from raylens.data.stream import Resident, Split
from raylens.ensemble import agreement
from raylens.loop import collect
from raylens.models import adapt_batch_norm

SETTINGS = {
    "default": {},
    "slow": {"optimizer.lr": 1e-5},
    "fast": {"optimizer.lr": 1e-4},
    "faster": {"optimizer.lr": 3e-4},
    "anchored": {"method.source_weight": 0.3},
    "no prior": {"method.target_prior": None},
}
AGREEMENT = "agreement"
OTHERS = ("self_ensembling", "adamatch", "mcc", "cdan", "wdgrl")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("storage")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--transform", default="minmax")
    parser.add_argument("--all", action="store_true", help="the other methods too")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    validators = [name for name in find.names("validators") if name != "oracle"]
    regrets = {name: [] for name in [*validators, AGREEMENT]}
    for seed in asked.seeds:
        truth, scores = candidates(asked, seed, validators)
        print(
            f"seed {seed}: " + ", ".join(f"{name} {auroc:.4f}" for name, auroc in truth.items()), flush=True
        )
        adapted = [name for name in truth if name not in ("source only", "batch norm only")]
        for name in regrets:
            chosen = max(adapted, key=lambda trial: scores[trial][name])
            regrets[name].append(max(truth[trial] for trial in adapted) - truth[chosen])
    for name, found in sorted(regrets.items(), key=lambda pair: np.mean(pair[1])):
        print(f"{name:<26} mean regret {np.mean(found):.4f}, worst {np.max(found):.4f}")


def candidates(asked: argparse.Namespace, seed: int, validators: list[str]) -> tuple[dict, dict]:
    """Target test AUROC of source-only, of batch norm only and of each setting, and what the validators say."""
    main_job = config.build({"method.name": "adda", "seed": seed, "storage": asked.storage})
    paths = {stream: sets.simulated(main_job, stream) for stream in ("source", "target")}

    def split(stream: str, part: str, labels: bool) -> Split:
        held = read_split(paths[stream], part)
        return Split(preprocess(held["pixels"], asked.transform), held["label"] if labels else None)

    data = Resident(
        {stream: split(stream, "train", stream == "source") for stream in paths},
        {stream: split(stream, "val", stream == "source") for stream in paths},
    )
    test, facts = (
        split("target", "test", True),
        Facts(LENS_CLASSES, 1, data.train["source"].pixels.shape[-1], {}),
    )
    truth, scores, logits = {}, {}, {}

    def judge(name: str, model: checkpoint.Model) -> None:
        said = collect(model, test.pixels, test.labels)
        truth[name] = metrics.binary(metrics.softmax64(said.logits)[:, 1], test.labels)["auroc"]
        held = {stream: collect(model, part.pixels, part.labels) for stream, part in data.validation.items()}
        scores[name] = {name: find.validator(name)(held["source"], held["target"]) for name in validators}
        logits[name] = held["target"].logits

    def train(**settings: object) -> checkpoint.Model:
        steps = settings.pop("steps")
        shared = {
            "seed": seed,
            "data.transform": asked.transform,
            "fit.steps": steps,
            "fit.report_every": steps,
        }
        (report,) = work(config.build(shared, settings), facts, data)
        if settings["method.name"] == "supervised":
            report.save(folder)
        return report.method.result

    with tempfile.TemporaryDirectory() as folder:
        judge("source only", train(steps=1000, **{"method.name": "supervised"}))
        model = checkpoint.read(folder).model()
        adapt_batch_norm(model, data.train["target"].pixels)
        judge("batch norm only", model)
        for name, settings in SETTINGS.items():
            judge(name, train(steps=asked.steps, start=folder, **{"method.name": "adda"}, **settings))
        for method in OTHERS if asked.all else ():
            for factor in (1, 3):
                rate = factor * find.method(method).suggests["optimizer.lr"]
                settings = {"method.name": method, "optimizer.lr": rate}
                judge(f"{method} x{factor}", train(steps=asked.steps, start=folder, **settings))
    for name, score in zip(logits, agreement([*logits.values()]), strict=True):
        scores[name][AGREEMENT] = score
    return truth, scores


if __name__ == "__main__":
    main()
