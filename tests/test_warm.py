"""Processes that are forked from the pool of tests/warm do what those do that start as ever."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cluster.drivers import cold, warm

pytestmark = pytest.mark.slow

POOL = bool(os.environ.get("RAYLENS_TEST_POOL", hasattr(os, "pidfd_open")))
"""Whether there is one: not where Linux is not, and not if it is refused by an empty name."""


def test_workers_of_ray_have_torch_before_they_import_it(ray_cluster):
    @ray_cluster.remote
    def process() -> tuple[bool, int]:
        return "torch" in sys.modules, os.getpriority(os.PRIO_PROCESS, 0)

    imported, nice = ray_cluster.get(process.remote())
    assert imported == POOL
    assert nice == 15, "Ray's own niceness of workers"


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["nonsense"], 2)])
def test_a_command_prints_and_ends_as_one_that_is_not_forked(tmp_path, words, code):
    command = [sys.executable, "-m", "raylens.train", *words]
    forked, started = (
        subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        for environment in (warm(), cold())
    )
    assert forked.returncode == started.returncode == code
    assert (forked.stdout, forked.stderr) == (started.stdout, started.stderr)


def test_the_code_of_a_job_goes_before_that_of_the_pool(tmp_path):
    (tmp_path / "raylens").mkdir()
    (tmp_path / "raylens" / "__init__.py").touch()
    (tmp_path / "raylens" / "train.py").write_text("import sys\nprint('torch' in sys.modules)\n")
    done = subprocess.run(
        [sys.executable, "-m", "raylens.train"],
        env=warm(PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"),
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{POOL}\n", "")
