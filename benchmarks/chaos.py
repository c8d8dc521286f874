"""Is anything lost when parts of a cluster die? `python benchmarks/chaos.py [--minutes N] [--every S] [--seed K]`.

Searches run one after the other on a Ray of its own: a head without CPUs and two nodes of one, a trial each. At random
times, once the search is at work again after the last time, one of these is killed without a word: the process of a
trial, a node with all that it holds (another comes), the driver (`--resume` goes on), or the head with the whole
cluster (a new one goes on). Every trial must end with the weights of an undisturbed search, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}

import numpy as np
import pandas as pd
import psutil
import safetensors.numpy
from ray.cluster_utils import Cluster

STEPS, EVERY, TRIALS = 400, 20, 2


@dataclass
class Kill:
    """One kill: what died, when, and how many reports each trial had written by then."""

    kind: str
    at: float
    reports: dict[str, int]
    recovered: float | None = None
    """Seconds until every trial that had not ended had reported again, or the search had ended."""


class Machines:
    """A cluster on this machine: a head without CPUs, and a node of one for each trial."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(TRIALS)]

    def workers(self) -> list[psutil.Process]:
        """Ray's processes on the nodes, each titled by what it runs; a trial is an ImplicitFunc."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in self.nodes]
        found = [child for raylet in raylets for child in psutil.Process(raylet).children()]
        return [process for process in found if process.cmdline()]

    def lose_node(self, place: int) -> None:
        """Kill a node; another comes."""
        self.cluster.remove_node(self.nodes[place], allow_graceful=False)
        self.nodes[place] = self.cluster.add_node(num_cpus=1)


@dataclass
class Search:
    """A search in `folder`, which `words` ask for, and its driver."""

    folder: Path
    words: list[str]
    machines: Machines

    def begin(self) -> None:
        """Start the driver, anew or to go on."""
        words = ["--resume", str(self.folder)] if (self.folder / "run.yaml").exists() else self.words
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "raylens.tune", *words],
            env=os.environ | {"RAY_ADDRESS": self.machines.cluster.address},
            stdout=self.folder.with_suffix(".log").open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def reports(self) -> dict[str, list[dict]]:
        """What each trial has reported."""
        found = {}
        for path in sorted(self.folder.glob("trials/*/result.json")):
            lines = path.read_text().splitlines(keepends=True)
            found[path.parent.name] = [json.loads(line) for line in lines if line.endswith("\n")]
        return found

    def ended(self) -> bool:
        """Whether the search has ended; raises RuntimeError when it failed."""
        code = self.driver.poll()
        if code:
            raise RuntimeError(f"the search failed: {self.folder.with_suffix('.log').read_text()[-3000:]}")
        return code == 0

    def kill_trial(self, chance: random.Random) -> bool:
        """A trial's process; whether there was one."""
        there = [process for process in self.machines.workers() if "ImplicitFunc" in process.cmdline()[0]]
        if there:
            chance.choice(there).kill()
        return bool(there)

    def kill_node(self, chance: random.Random) -> bool:
        """A node and what runs on it."""
        self.machines.lose_node(chance.randrange(TRIALS))
        return True

    def kill_driver(self, chance: random.Random) -> bool:
        """The process that a user started, and starts again."""
        self.driver.kill()
        self.driver.wait()
        self.begin()
        return True

    def kill_head(self, chance: random.Random) -> bool:
        """The cluster under the driver, which ends by itself or is ended; the user starts it on a new one."""
        self.machines.cluster.shutdown()
        try:
            self.driver.wait(60)
        except subprocess.TimeoutExpired:
            self.driver.kill()
            self.driver.wait()
        self.machines.begin()
        self.begin()
        return True


KINDS: dict[str, Callable[[Search, random.Random], bool]] = {
    "trial": Search.kill_trial,
    "node": Search.kill_node,
    "driver": Search.kill_driver,
    "head": Search.kill_head,
}


def run(search: Search, until: float, every: float, chance: random.Random) -> list[Kill]:
    """One search from its beginning to its end, struck about `every` seconds until the time `until`."""
    kills: list[Kill] = []
    search.begin()
    strike = time.time() + chance.expovariate(1 / every)
    while not search.ended():
        now, told = time.time(), search.reports()
        pending = kills and kills[-1].recovered is None
        if pending and _at_work_again(kills[-1], told):
            kills[-1].recovered = now - kills[-1].at
            strike = now + chance.expovariate(1 / every)
        elif not pending and strike < now < until and len(told) == TRIALS and _unfinished(told):
            kind = chance.choice([*KINDS])
            kill = Kill(kind, now, {trial: len(lines) for trial, lines in told.items()})
            if KINDS[kind](search, chance):
                kills.append(kill)
        time.sleep(0.1)
    if kills and kills[-1].recovered is None:
        kills[-1].recovered = time.time() - kills[-1].at
    return kills


def _unfinished(told: dict[str, list[dict]]) -> list[str]:
    return [trial for trial, lines in told.items() if not lines or lines[-1]["step"] < STEPS]


def _at_work_again(kill: Kill, told: dict[str, list[dict]]) -> bool:
    return all(len(told[trial]) > kill.reports[trial] for trial in _unfinished(told))


def redone(kills: list[Kill], reports: dict[str, list[dict]]) -> list[int]:
    """Steps that were done again after each kill of a search, by its reports."""
    ends = [*(kill.reports for kill in kills[1:]), {trial: len(lines) for trial, lines in reports.items()}]
    again = []
    for kill, end in zip(kills, ends, strict=False):  # one that was spared has an end alone
        steps = 0
        for trial, lines in reports.items():
            begun = kill.reports.get(trial, 0)
            reached = max((line["step"] for line in lines[:begun]), default=0)
            steps += EVERY * sum(line["step"] <= reached for line in lines[begun : end.get(trial, begun)])
        again.append(steps)
    return again


def lost(calm: Path, struck: Path) -> int:
    """Trials of `struck` that did not end, or not with the weights of the undisturbed search."""
    board = pd.read_csv(struck / "leaderboard.csv")
    ended = int((board["steps"] == STEPS).sum())
    pairs = zip(*(sorted(folder.glob("trials/*/result.json")) for folder in (calm, struck)), strict=True)
    same = sum(_equal(_last(one.parent), _last(other.parent)) for one, other in pairs)
    return TRIALS - min(ended, same)


def _last(trial: Path) -> dict[str, np.ndarray]:
    newest = max(trial.glob("checkpoint_*/model.safetensors"), key=lambda path: path.parent.name)
    return safetensors.numpy.load_file(newest)


def _equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def table(kills: list[Kill], again: list[int]) -> str:
    """Kills by kind: how many, how long until the search was at work again, steps redone."""
    rows = pd.DataFrame(
        {
            "kind": [kill.kind for kill in kills],
            "seconds": [kill.recovered for kill in kills],
            "redone": again,
        }
    )
    shown = rows.groupby("kind").agg(
        kills=("seconds", "size"),
        median_seconds=("seconds", "median"),
        longest_seconds=("seconds", "max"),
        steps_redone=("redone", "sum"),
        most_redone=("redone", "max"),
    )
    return shown.loc[[kind for kind in KINDS if kind in shown.index]].round(1).to_string()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="in which is killed [10]")
    parser.add_argument("--every", type=float, default=10.0, help="seconds of work between kills, mean [10]")
    parser.add_argument("--seed", type=int, default=0, help="of the kills [0]")
    asked = parser.parse_args()
    chance, kills, again, losses = random.Random(asked.seed), [], [], []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        flags = {"data.source_rows": 800, "data.target_rows": 400, "encoder.width": 8, "data.batch": 32}
        flags |= {"fit.steps": STEPS, "fit.report_every": EVERY, "search.retries": 1000}
        flags |= {"search.trials": TRIALS, "search.scheduler": "none", "storage": folder}

        words = ["supervised", *(word for path, value in flags.items() for word in (f"--{path}", str(value)))]
        machines = Machines()
        calm = Search(Path(folder, "calm"), [*words, "--name", "calm"], machines)
        run(calm, until=0.0, every=asked.every, chance=chance)
        end = time.time() + 60 * asked.minutes
        while time.time() < end:
            name = f"struck-{len(losses)}"
            search = Search(Path(folder, name), [*words, "--name", name], machines)
            struck = run(search, end, asked.every, chance)
            kills += struck
            again += redone(struck, search.reports())
            losses.append(lost(calm.folder, search.folder))
            print(f"search {len(losses)}: {len(struck)} kills, {losses[-1]} results lost", flush=True)
        machines.cluster.shutdown()
    print(table(kills, again) if kills else "nothing was killed; give more --minutes")
    print(
        f"{len(losses)} searches of {TRIALS} trials, {len(kills)} kills, {sum(losses)} results lost (goal 0)"
    )
    sys.exit(1 if sum(losses) else 0)


if __name__ == "__main__":
    main()
