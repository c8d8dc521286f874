"""Run files parse, and say what they are for."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from raylens import cli, config, grid

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_run_file_is_a_run_and_begins_with_a_question_and_its_command(path):
    held = config.written(path)
    if held.keys() & {*grid.OWN}:
        assert grid.build((held, str(path))).cells()
    else:
        assert config.build((config.read(path), str(path))).method.name
    question, command, *_ = path.read_text().splitlines()
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


def test_the_readme_lists_every_run_file():
    listed = (JOBS / "README.md").read_text()
    assert all(path.name in listed for path in JOBS.glob("*.yaml"))
