"""Sets and runs in object storage: the same commands, with an address in place of a folder."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import urllib.request

import numpy as np
import pyarrow.fs
import pytest
from moto.server import ThreadedMotoServer

from raylens import checkpoint, config
from raylens.data import sets
from raylens.data.shards import filesystem, read_manifest, read_split, verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TINY = {"encoder.width": 4, "data.batch": 16, "fit.steps": 20, "fit.report_every": 10, "search.trials": 2}
TINY |= {"search.scheduler": "none"}


@pytest.fixture
def bucket(monkeypatch):
    """The address of a bucket on an S3 server on this machine."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for every request would bury what failed
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    # What earlier servers of this process held lives on.
    urllib.request.urlopen(f"{address}/moto-api/reset", data=b"").close()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    pyarrow.fs.S3FileSystem(endpoint_override=address, allow_bucket_creation=True).create_dir("lenses")
    yield "s3://lenses"
    server.stop()


def test_a_search_lives_in_object_storage(bucket, tmp_path):
    def tune(*words: str) -> str:
        command = [sys.executable, "-m", "raylens.tune", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=tmp_path)
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = read_manifest(f"{bucket}/shards")
    assert manifest.rows == 30
    verify(f"{bucket}/shards")
    assert len(read_split(f"{bucket}/shards", "train")["pixels"]) == manifest.splits["train"].rows
