"""Run files parse, and say what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylens import config

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_run_file_is_a_run_and_begins_with_a_question_and_its_command(path):
    run = config.build((config.read(path), str(path)))
    assert run.method.name
    question, command, *_ = path.read_text().splitlines()
    assert question.startswith("# ")
    assert question.endswith("?")
    assert f"jobs/{path.name}" in command


def test_the_readme_lists_every_run_file():
    listed = (JOBS / "README.md").read_text()
    assert all(path.name in listed for path in JOBS.glob("*.yaml"))
