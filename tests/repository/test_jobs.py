"""Run files parse, and say what they are for."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from raylens import cli, config, find, grid
from raylens.data import sets

JOBS = Path(__file__).parents[2] / "jobs"
SCRIPTS = [*JOBS.glob("*.sh"), JOBS / "kuberay.yaml"]
"""Of other kinds than a run's."""
RUNS = sorted({*JOBS.glob("*.yaml")} - {*SCRIPTS})


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_file_is_a_run(path):
    held = config.written(path)
    if held.keys() & {*grid.OWN}:
        assert grid.build((held, str(path))).cells()
    else:
        assert config.build((config.read(path), str(path))).method.name


@pytest.mark.parametrize("name", [name for name in find.names("methods") if find.method(name).streams[1:]])
def test_simulated_sets_of_a_search_fit_into_memory(name):
    """Of sets that do not, trials learn from a part, and their weights are not averaged."""
    run = config.build((config.read(JOBS / f"{name}.yaml"), name))
    held = [sets.manifest(run, stream) for stream in ("source", "target")]
    taken = sum(4 * one.splits["train"].rows * one.channels * one.size**2 for one in held)
    assert taken <= 1e9 * run.data.resident_limit


@pytest.mark.parametrize("path", [*RUNS, *SCRIPTS], ids=lambda path: path.name)
def test_a_file_begins_with_a_question_and_its_command(path):
    lines = path.read_text().splitlines()
    question, command, *_ = lines[1:] if lines[0].startswith("#!") else lines
    assert question.startswith("# ")
    assert question.endswith("?")
    assert f"jobs/{path.name}" in command


@pytest.mark.parametrize("readme", ["README.md", "jobs/README.md"])
def test_the_commands_of_a_readme_are_runs(readme, monkeypatch):
    monkeypatch.chdir(JOBS.parent)
    text = Path(readme).read_text().replace("\\\n", " ")
    found = [line.split("raylens.tune ")[1] for line in text.splitlines() if line.count("raylens.tune ") == 1]
    commands = [shlex.split(words.partition("`")[0], comments=True) for words in found]
    commands = [words for words in commands if words[0] != "METHOD" and "--help" not in words]
    assert len(commands) >= 4
    for words in commands:
        assert cli.run("tune", words).method.name == words[0]


def test_every_method_has_a_run_file_at_its_own_defaults():
    """What a file sets of its method would be better set in the method."""
    for name in find.names("methods"):
        run = config.build((config.read(JOBS / f"{name}.yaml"), name))
        assert run.method == config.build({"method.name": name}).method


def test_the_readme_lists_every_run_file():
    listed = (JOBS / "README.md").read_text()
    assert all(path.name in listed for path in (*RUNS, *SCRIPTS))


def test_slurm_starts_ray_on_all_nodes_and_the_verb_on_the_first(tmp_path):
    """With scontrol and srun that say what they were asked."""
    for name, answer in (
        ("scontrol", "echo node7; echo node8"),
        ("srun", 'echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN $@"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    words = ["tune", "adda", "--name", "a b"]
    done = subprocess.run(
        ["bash", JOBS / "slurm.sh", *words],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_JOB_NUM_NODES": "2",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    mode, token, *command = done.stdout.strip().split(" ", 2)
    assert (mode, len(token)) == ("token", 64)
    assert command[0] == (
        "ray symmetric-run --address node7:6379 --min-nodes 2 "
        "-- env RAY_ADDRESS=node7:6379 python -m raylens.tune adda --name a b"
    )
