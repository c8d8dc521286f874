"""What `--dihedral` is worth, and costs: models with and without the average over an image's turns and mirrors.

    python benchmarks/dihedral.py SET CHECKPOINT...

Checkpoints whose paths differ in their seed alone count as seeds of one model: a line each, with AUROC on the test
split of SET, its paired gain, intervals that draw seeds and rows, and how many times as long it takes.
"""

import argparse
import re
import time
from collections import defaultdict

from raylens import checkpoint, metrics
from raylens.measure import outputs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="shard set with labels")
    parser.add_argument("checkpoints", nargs="+")
    asked = parser.parse_args()
    models = defaultdict(list)
    for path in asked.checkpoints:
        models[re.sub(r"seed\d+", "seeds", path)].append(checkpoint.read(path))
    print("| model | seeds | as images lie | --dihedral | gain | time |\n|---|---|---|---|---|---|")
    for name, found in models.items():
        once, turned, times = [], [], []
        for one in found:
            begun = time.perf_counter()
            plain = outputs(one, asked.data, "test")
            between = time.perf_counter()
            averaged = outputs(one, asked.data, "test", dihedral=True)
            times.append((time.perf_counter() - between) / (between - begun))
            scores = one.facts.task(one.run.task).scores
            once.append((scores(plain.logits), plain.labels))
            turned.append((scores(averaged.logits), averaged.labels))
        pairs = [(a, b, labels) for (a, labels), (b, _) in zip(turned, once, strict=True)]
        told = [metrics.over_runs(once), metrics.over_runs(turned), metrics.paired_over_runs(pairs)]
        cells = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in told]
        print(
            f"| {name} | {len(found)} | {' | '.join(cells)} | {sum(times) / len(times):.1f} x |", flush=True
        )


if __name__ == "__main__":
    main()
