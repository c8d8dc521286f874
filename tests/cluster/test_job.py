"""A job on a cluster of its own, submitted as a user does, with token authentication on both sides."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import psutil
import pytest

from raylens.cluster.launch import _free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HOME = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class Head:
    """A Ray head started by `ray start`, and the commands that talk to it."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="rl", dir="/tmp")
        self.token = secrets.token_hex(16)
        self.address = f"http://127.0.0.1:{_free_port()}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = inherited | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_metrics_report_interval_ms": "1000",
        }
        port = self.address.rpartition(":")[2]
        command = ["ray", "start", "--head", "--block", f"--port={_free_port()}", f"--dashboard-port={port}"]
        # Another Ray on the machine may have the agent's usual port, and a job needs an agent.
        command += [f"--dashboard-agent-listen-port={_free_port()}"]
        command += ["--num-cpus=2", f"--temp-dir={self.folder}", "--object-store-memory=500000000"]
        self.log = open(f"{self.folder}/head.log", "w")  # noqa: SIM115
        self.process = subprocess.Popen(command, env=self.environment, stdout=self.log, stderr=self.log)
        for _ in range(240):
            try:
                self.get("/api/version")
                return
            except OSError:
                time.sleep(0.5)
        raise RuntimeError(Path(f"{self.folder}/head.log").read_text())

    def get(self, path: str) -> dict:
        asked = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return json.load(answer)

    def job(self, *words: str) -> subprocess.CompletedProcess:
        command = ["ray", "job", words[0], "--address", self.address, *words[1:]]
        for _ in range(60):
            done = subprocess.run(
                command, env=self.environment, cwd=HOME, capture_output=True, text=True, timeout=600
            )
            # The dashboard answers before the node's agent is there.
            if "No available agent" not in done.stderr:
                break
            time.sleep(1)
        return done

    def stop(self) -> None:
        children = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        for child in children:
            try:
                psutil.Process(child.pid).kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Prometheus:
    """Reads the gauges of a head's nodes, as Ray tells where they are."""

    def __init__(self, head: Head) -> None:
        folder = f"{head.folder}/prometheus"
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [
                {
                    "job_name": "ray",
                    "file_sd_configs": [{"files": [f"{head.folder}/prom_metrics_service_discovery.json"]}],
                }
            ],
        }
        Path(folder).mkdir()
        Path(f"{folder}/prometheus.yml").write_text(json.dumps(config))
        self.address = f"127.0.0.1:{_free_port()}"
        command = [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
        ]
        self.process = subprocess.Popen(
            [*command, f"--web.listen-address={self.address}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def read(self, expression: str) -> list[dict]:
        """The series of the last ten minutes."""
        now = time.time()
        query = urllib.parse.urlencode({"query": expression, "start": now - 600, "end": now, "step": "5s"})
        with urllib.request.urlopen(
            f"http://{self.address}/api/v1/query_range?{query}", timeout=10
        ) as answer:
            return json.load(answer)["data"]["result"]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def prometheus(head):
    if shutil.which("prometheus") is None:
        yield None
        return
    started = Prometheus(head)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def head():
    started = Head()
    yield started
    started.stop()


def smoke(storage: Path, name: str, *flags: str) -> list[str]:
    command = ["python", "-m", "raylens.tune", "adda", "--from", "jobs/smoke.yaml"]
    return ["--", *command, "--storage", str(storage), "--name", name, *flags]


def processes(word: str) -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if word in " ".join(one.info["cmdline"] or ())]


def test_a_stopped_job_leaves_no_process_and_a_run_that_another_ends_and_tells_of(head, prometheus, tmp_path):
    flags = ("--fit.steps", "300", "--search.scheduler", "none")
    command = smoke(tmp_path, "stopped", *flags)
    started = head.job("submit", "--no-wait", "--working-dir", ".", "--submission-id", "stopped", *command)
    assert started.returncode == 0, started.stderr
    trials = tmp_path / "stopped" / "trials"
    for _ in range(1200):
        if list(trials.glob("*/checkpoint_000001")):
            break
        time.sleep(0.25)
    assert list(trials.glob("*/checkpoint_*")), head.job("logs", "stopped").stdout[-3000:]
    assert head.job("stop", "stopped").returncode == 0
    for _ in range(120):
        if not processes(str(tmp_path)) and not processes("adda_trial"):
            break
        time.sleep(0.25)
    assert not processes(str(tmp_path))
    assert not processes("adda_trial")
    about = ("--submission-id", "again", "--metadata-json", '{"ticket": "7"}')
    resumed = ("python", "-m", "raylens.tune", "--resume", str(tmp_path / "stopped"))
    again = head.job("submit", "--working-dir", ".", *about, "--", *resumed)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "going on with" in again.stdout
    assert f"{tmp_path}/stopped/best" in again.stdout
    assert (tmp_path / "stopped" / "leaderboard.csv").exists()
    actors = head.get("/api/v0/actors?limit=1000&detail=1")["data"]["result"]["result"]
    assert any("adda_trial" in str(actor.get("repr_name")) for actor in actors)
    (job,) = [job for job in head.get("/api/jobs/") if job["submission_id"] == "again"]
    told = job["metadata"]
    assert (told["method"], told["run"], told["ticket"]) == ("adda", "stopped", "7")
    assert 0 < float(told["best"]) < 2
    assert told["checkpoint"] == f"{tmp_path}/stopped/best"
    assert job["status"] == "SUCCEEDED"
    if prometheus:
        dashboard = json.loads((HOME / "dashboards" / "raylens.json").read_text())
        drawn = {
            panel["title"]: panel["targets"][0]["expr"]
            for panel in dashboard["panels"]
            if panel.get("targets")
        }
        asked = {
            title: text.replace("$SessionName", ".*").replace("$method", ".*")
            for title, text in drawn.items()
        }
        assert [title for title, text in asked.items() if not prometheus.read(text)] == []
