"""Files at paths and addresses; object storage itself is in cluster/test_storage.py."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as arrow_fs

from raylens import storage
from raylens.errors import DataError


def test_what_is_written_is_read_and_the_folders_above_it_are_made(tmp_path):
    storage.write(f"{tmp_path}/a/b/one.txt", "für")
    storage.write(f"{tmp_path}/a/b/two", b"\x00")
    assert storage.read(f"{tmp_path}/a/b/one.txt").decode() == "für"
    assert storage.listed(f"{tmp_path}/a/b") == ["one.txt", "two"]
    storage.delete(f"{tmp_path}/a/b/two")
    assert not storage.exists(f"{tmp_path}/a/b/two")


def test_a_folder_that_is_not_there_lists_nothing(tmp_path):
    assert storage.listed(f"{tmp_path}/none") == []


def test_a_file_that_cannot_be_written_to_its_end_stays_what_it_was(tmp_path, monkeypatch):
    path = f"{tmp_path}/leaderboard.csv"
    storage.write(path, "whole")

    class Full(arrow_fs.LocalFileSystem):
        def open_output_stream(self, *args, **kwargs):
            stream = super().open_output_stream(*args, **kwargs)
            stream.write(b"half")
            raise OSError("No space left on device")

    monkeypatch.setattr(storage, "patient", lambda path: (Full(), path))
    with pytest.raises(OSError, match="No space left"):
        storage.write(path, "another")
    assert storage.read(path) == b"whole"


def test_a_link_stays_one_and_what_is_no_file_is_written_to(tmp_path):
    storage.write(f"{tmp_path}/real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    storage.write(f"{tmp_path}/link", "new")
    assert (tmp_path / "link").is_symlink()
    assert storage.read(f"{tmp_path}/real") == b"new"
    storage.write("/dev/null", "nothing")
    assert not storage.exists("/dev/null.partial")


def test_a_copy_takes_the_place_of_what_was_there(tmp_path):
    storage.write(f"{tmp_path}/new/file", "new")
    storage.write(f"{tmp_path}/old/left", "old")
    storage.copy(f"{tmp_path}/new", f"{tmp_path}/old")
    assert storage.listed(f"{tmp_path}/old") == ["file"]
    assert storage.listed(f"{tmp_path}") == ["new", "old"]


def test_a_table_is_read_in_part(tmp_path):
    pq.write_table(pa.table({"a": np.arange(6), "b": np.arange(6)}), tmp_path / "t.parquet", row_group_size=2)
    with storage.parquet(f"{tmp_path}/t.parquet") as held:
        assert held.num_row_groups == 3
        assert held.read_row_group(1, columns=["b"]).to_pydict() == {"b": [2, 3]}


def test_an_address_of_no_known_kind_is_refused_in_one_line():
    with pytest.raises(DataError, match=r"cannot open ftp://host/set: .*; give a local path, s3:// or gs://"):
        storage.filesystem("ftp://host/set")


def test_patience_outlives_a_pickle(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    asked = []
    strategy = arrow_fs.AwsStandardS3RetryStrategy
    monkeypatch.setattr(
        storage.arrow_fs,
        "AwsStandardS3RetryStrategy",
        lambda max_attempts: asked.append(max_attempts) or strategy(max_attempts=max_attempts),
    )
    fs = storage.waiting(arrow_fs.S3FileSystem(anonymous=True, region="eu-west-1"))
    # As Ray sends it to workers; what is loaded was dumped here.
    again = pickle.loads(pickle.dumps(fs))
    assert isinstance(again, storage.Patient)
    assert again.region == "eu-west-1"
    assert asked == [storage.ATTEMPTS] * 2
