"""Sets and runs in object storage: the same commands, with an address in place of a folder."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pandas as pd
import pyarrow.fs
import pytest
from moto.server import ThreadedMotoServer

from raylens import checkpoint, config
from raylens.cluster import tensorboard
from raylens.cluster.launch import _free_port
from raylens.data import formats, sets
from raylens.data.formats import Options, Unit, Unreached, Unreadable
from raylens.data.shards import read_manifest, read_split, verify
from raylens.data.stream import Resident
from raylens.storage import filesystem
from tests.cluster.drivers import cold, warm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TINY = {"encoder.width": 4, "data.batch": 16, "fit.steps": 20, "fit.report_every": 10, "search.trials": 2}
TINY |= {"search.scheduler": "none"}


class Server:
    """S3 on this machine, which may be stopped and started again with what it holds."""

    def __init__(self) -> None:
        self.port = _free_port()
        self.start()

    def start(self) -> None:
        self.moto = ThreadedMotoServer("127.0.0.1", port=self.port, verbose=False)
        self.moto.start()

    def stop(self) -> None:
        self.moto.stop()


@pytest.fixture
def server():
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for every request would bury what failed
    started = Server()
    yield started
    started.stop()


@pytest.fixture
def bucket(server, monkeypatch):
    """The address of a bucket on that server."""
    address = f"http://127.0.0.1:{server.port}"
    # What earlier servers of this process held lives on.
    urllib.request.urlopen(f"{address}/moto-api/reset", data=b"").close()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    pyarrow.fs.S3FileSystem(endpoint_override=address, allow_bucket_creation=True).create_dir("lenses")
    return "s3://lenses"


def test_a_search_lives_in_object_storage(bucket, tmp_path):
    def tune(*words: str) -> str:
        command = [sys.executable, "-m", "raylens.tune", *words]
        done = subprocess.run(command, env=warm(), capture_output=True, text=True, timeout=500, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.strip().splitlines()[-1] == f"{bucket}/runs/far/best"
        assert list(tmp_path.iterdir()) == []
        return done.stdout

    flags = {**TINY, "storage": f"{bucket}/runs", "name": "far"}
    flags |= {"data.source_rows": 200, "data.target_rows": 300, "data.target_lenses": 0.3}
    assert "simulating source" in tune(
        "supervised", *(word for path, value in flags.items() for word in (f"--{path}", str(value)))
    )
    source = sets.simulated(config.build({"method.name": "supervised"}, flags), "source")
    assert source.startswith(f"{bucket}/runs/data/")
    verify(source)
    assert len(read_split(source, "train")["pixels"]) == read_manifest(source).splits["train"].rows == 160
    assert checkpoint.read(f"{bucket}/runs/far/best").metrics["step"] == 20
    assert "going on with" in tune("--resume", f"{bucket}/runs/far")


def test_curves_in_object_storage_are_there_once(bucket, tiny, tmp_path):
    run, out = tiny.run(), f"{bucket}/runs/near/tensorboard"
    checkpoint.save(tmp_path / "model", run, tiny.facts(), tiny.method(run).result, {}, step=2)
    (tmp_path / "reports.jsonl").write_text('{"loss/supervised": 0.5, "step": 2}\n')
    fs, inner = filesystem(out)
    for _ in range(2):
        data = Resident({}, tiny.resident().validation)
        tensorboard._write(str(tmp_path / "model"), data, out, str(tmp_path / "reports.jsonl"))
        held = fs.get_file_info(pyarrow.fs.FileSelector(inner))
        assert sum("tfevents" in info.base_name for info in held) == 1


def test_files_in_object_storage_are_converted(bucket):
    fs, root = filesystem(f"{bucket}/images")
    lines = ["path,target"]
    for row in range(30):
        held = io.BytesIO()
        np.save(held, np.random.default_rng(row).random((16, 16), np.float32))
        with fs.open_output_stream(f"{root}/{row}.npy") as stream:
            stream.write(held.getvalue())
        lines.append(f"{row}.npy,{row % 2}" if row % 3 else f"{bucket}/images/{row}.npy,{row % 2}")
    with fs.open_output_stream(f"{root}/table.csv") as stream:
        stream.write("\n".join(lines).encode())
    command = [
        sys.executable,
        "-m",
        "raylens.data",
        "convert",
        f"{bucket}/images/table.csv",
        "--out",
        f"{bucket}/shards",
    ]
    done = subprocess.run(command, env=warm(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = read_manifest(f"{bucket}/shards")
    assert manifest.rows == 30
    verify(f"{bucket}/shards")
    assert len(read_split(f"{bucket}/shards", "train")["pixels"]) == manifest.splits["train"].rows


def test_a_store_that_does_not_answer_is_no_broken_image(server, bucket, monkeypatch):
    monkeypatch.setattr("raylens.storage.ATTEMPTS", 2)
    fs, root = filesystem(f"{bucket}/images")
    with fs.open_output_stream(f"{root}/torn.npy") as stream:
        stream.write(b"no image")

    def read(name: str) -> None:
        list(formats.rows(Unit(files=(f"{bucket}/images/{name}.npy",), id=name), Options()))

    for name in ("torn", "missing"):
        with pytest.raises(Unreadable):
            read(name)
    server.stop()
    with pytest.raises(Unreached, match=r"torn.npy could not be fetched: .*; the same command tries again"):
        read("torn")


def test_a_search_waits_for_storage_that_is_gone_for_a_while(server, bucket, toy_sets, tmp_path):
    """For 20 seconds, of which pyarrow's own S3 would wait six."""
    flags = {**TINY, **toy_sets, "fit.steps": 400, "fit.report_every": 20, "search.retries": 0}
    words = [word for path, value in flags.items() for word in (f"--{path}", str(value))]
    with (tmp_path / "log").open("w") as log:
        search = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "raylens.tune",
                "supervised",
                *words,
                "--storage",
                bucket,
                "--name",
                "gone",
            ],
            env=warm(),
            stdout=log,
            stderr=log,
        )
    fs, root = filesystem(bucket)
    trials = pyarrow.fs.FileSelector(f"{root}/gone/trials", recursive=True, allow_not_found=True)
    while search.poll() is None and not any("checkpoint_" in info.path for info in fs.get_file_info(trials)):
        time.sleep(0.2)
    server.stop()
    time.sleep(20)
    server.start()
    assert search.wait(600) == 0, (tmp_path / "log").read_text()
    told = (tmp_path / "log").read_text()
    assert "failed" not in told
    assert checkpoint.read(f"{bucket}/gone/best").metrics["step"] == 400


def test_a_file_of_a_store_that_is_written_again_is_known_by_its_stamp(bucket):
    fs, root = filesystem(f"{bucket}/images")

    def write(name: str, content: bytes) -> None:
        with fs.open_output_stream(f"{root}/{name}") as stream:
            stream.write(content)

    def stamps(place: str) -> dict[str, str]:
        units = formats.units(f"{bucket}/images{place}", Options())
        return dict(zip((unit.id for unit in units), formats.stamps(units), strict=True))

    for size, name in enumerate(("a.npy", "b.npy", "alone/c.npy"), 1):
        write(name, b"." * size)
    write("table.csv", b"path\na.npy\nb.npy\nalone/c.npy\nnone.npy\n")
    folder, table = stamps(""), stamps("/table.csv")
    assert len(set(folder.values())) == 3
    assert {name: table[name] for name in folder} == folder
    write("a.npy", b"after that")
    write("alone/c.npy", b"after that")
    again = stamps("/table.csv")
    assert {name for name in table if again[name] != table[name]} == {"a", "alone/c"}


@pytest.mark.parametrize("place", ["s3://nobodys/runs", "s3://lenses/runs"])
def test_a_bucket_that_may_not_be_written_is_refused_at_once(bucket, toy_sets, monkeypatch, place):
    if place.startswith(bucket):
        monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from now on it knows nobody
    words = [word for path, value in {**TINY, **toy_sets}.items() for word in (f"--{path}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "raylens.tune", "supervised", *words, "--storage", place],
        env=warm(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith(f"error: storage '{place}' cannot be written: ")
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_told_and_costs_nothing_that_was_written(toy_sets, tmp_path):
    """A disk of its own for the runs, with room for four checkpoints, and for all of them after that."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount anything")
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    flags = {**TINY, **toy_sets, "encoder.width": 16, "fit.steps": 60, "fit.report_every": 5}
    words = " ".join(f"--{path} {value}" for path, value in flags.items())
    tune = f"{sys.executable} -m raylens.tune"
    script = f"""
        mount -t tmpfs -o size=24m none {disk}
        {tune} supervised {words} --storage {disk} --name full > {log} 2>&1; echo $?
        mount -o remount,size=500m {disk}
        {tune} --resume {disk}/full > {log}.again 2>&1; echo $?
        cat {disk}/full/leaderboard.csv
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], env=cold(), capture_output=True, text=True, timeout=800
    )
    full, resumed, *board = done.stdout.splitlines()
    told, again = log.read_text(), (tmp_path / "log.again").read_text()
    assert full == "1", told
    assert "No space left on device" in told.splitlines()[-1], told
    assert "Trial task failed" not in told  # a trace for each trial
    assert resumed == "0", again
    assert "going on with" in again
    steps = pd.read_csv(io.StringIO("\n".join(board)))["steps"].dropna()
    assert list(steps) == [60] * len(steps)
    assert len(steps) >= 2
