"""Shards are whole or absent, and say what they hold."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from raylens.data import shards
from raylens.data.shards import Manifest, ShardWriter, made_by, read_manifest, read_split, split_files, verify
from raylens.errors import DataError


def fill(writer, rows=20, channels=2, size=8, split="train", dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    pixels = (rng.random((rows, channels, size, size)) * 200).astype(dtype)
    labels = np.arange(rows) % 3 - 1
    ids = [f"{split}-{i}" for i in range(rows)]
    writer.add(
        split, pixels, labels, ids, {"theta": rng.random(rows), "kind": np.array(["a", "b"])[labels % 2]}
    )
    return pixels, labels, ids


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_what_is_written_is_read(tmp_path, dtype):
    with ShardWriter(tmp_path / "set", domain="source", bands=("g", "r"), arcsec_per_pixel=0.2) as writer:
        pixels, labels, ids = fill(writer, dtype=dtype)
    read = read_split(tmp_path / "set", "train", columns=("pixels", "label", "id", "kind"))
    np.testing.assert_array_equal(read["pixels"], pixels)
    np.testing.assert_array_equal(read["label"], labels)
    assert read["pixels"].dtype == dtype
    assert read["label"].dtype == np.int64
    assert list(read["id"]) == ids
    assert set(read["kind"]) == {"a", "b"}


def test_the_manifest_tells_the_truth(tmp_path):
    with ShardWriter(tmp_path / "set", bands=("g", "r"), made=made_by("test", seed=3)) as writer:
        pixels, labels, _ = fill(writer)
        fill(writer, rows=5, split="test", seed=1)
    manifest = read_manifest(tmp_path / "set")
    assert manifest == writer.manifest == Manifest.from_json(manifest.to_json())
    assert (manifest.name, manifest.size, manifest.channels, manifest.rows) == ("set", 8, 2, 25)
    assert manifest.splits["train"].labels == {
        "nonlens": int((labels == 0).sum()),
        "lens": int((labels == 1).sum()),
        "unlabelled": int((labels == -1).sum()),
    }
    np.testing.assert_allclose(manifest.statistics["mean"], pixels.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(manifest.statistics["std"], pixels.std((0, 2, 3)), rtol=1e-5)
    assert manifest.columns == ("theta", "kind")
    assert manifest.made["seed"] == 3


def test_files_and_row_groups_stay_small(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 10)
    monkeypatch.setattr(shards, "ROWS_PER_FILE", 40)
    with ShardWriter(tmp_path / "set") as writer:
        parts = [fill(writer, rows=rows, seed=rows)[0] for rows in (7, 33, 64, 1)]
    files = split_files(tmp_path / "set", "train")
    assert [pq.ParquetFile(file).metadata.num_rows for file in files] == [40, 40, 25]
    assert pq.ParquetFile(files[0]).metadata.row_group(0).num_rows == 10
    np.testing.assert_array_equal(read_split(tmp_path / "set", "train")["pixels"], np.concatenate(parts))
    verify(tmp_path / "set")


def test_pixels_are_a_standard_arrow_tensor(tmp_path):
    with ShardWriter(tmp_path / "set") as writer:
        fill(writer)
    field = pq.read_schema(split_files(tmp_path / "set", "train")[0]).field("pixels")
    assert field.type.extension_name == "arrow.fixed_shape_tensor"
    assert list(field.type.shape) == [2, 8, 8]


def test_a_set_that_failed_is_not_there(tmp_path):
    with pytest.raises(AttributeError), ShardWriter(tmp_path / "set") as writer:
        writer.add("train", None, None, [])
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_nothing_readable(tmp_path):
    writer = ShardWriter(tmp_path / "set").__enter__()
    fill(writer, rows=1200)
    with pytest.raises(DataError, match="no data set at"):
        read_manifest(tmp_path / "set")
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    for split in writer._splits.values():
        split.close()


def test_nothing_is_overwritten_unasked(tmp_path):
    out = tmp_path / "set"
    with ShardWriter(out) as writer:
        fill(writer)
    with pytest.raises(DataError, match="--overwrite"):
        ShardWriter(out)
    with ShardWriter(out, overwrite=True) as writer:
        fill(writer, rows=3)
    assert read_manifest(out).rows == 3
    assert list(tmp_path.iterdir()) == [out]


def test_foreign_files_are_never_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(DataError, match="holds other files"):
        ShardWriter(tmp_path, overwrite=True)


def test_a_uri_works_like_a_path(tmp_path):
    with ShardWriter(f"file://{tmp_path}/set") as writer:
        pixels, _, _ = fill(writer)
    np.testing.assert_array_equal(read_split(f"file://{tmp_path}/set", "train")["pixels"], pixels)


def test_an_object_store_gets_its_manifest_last(tmp_path, monkeypatch):
    from pyarrow import fs as arrow_fs

    store = arrow_fs.SubTreeFileSystem(str(tmp_path), arrow_fs.LocalFileSystem())
    monkeypatch.setattr(shards, "filesystem", lambda path: (store, str(path).removeprefix("s3://")))
    with ShardWriter("s3://bucket/set") as writer:
        fill(writer)
        with pytest.raises(DataError, match="no data set"):
            read_manifest("s3://bucket/set")
    assert read_manifest("s3://bucket/set").rows == 20
    with ShardWriter("s3://bucket/set", overwrite=True) as writer:
        assert not (tmp_path / "bucket/set/manifest.json").exists()
        fill(writer, rows=4)
    assert len(read_split("s3://bucket/set", "train")["id"]) == 4


def test_changed_bytes_are_found(tmp_path):
    with ShardWriter(tmp_path / "set") as writer:
        fill(writer)
    verify(tmp_path / "set")
    with open(split_files(tmp_path / "set", "train")[0], "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="sha256"):
        verify(tmp_path / "set")


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"name": "x", "bands": []})])
def test_a_broken_manifest_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="make the set again") as error:
        read_manifest(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.zeros((2, 1, 8, 9), np.float32)}, "--size or --crop"),
        ({"labels": np.array([0, 2])}, "do not fit classes"),
        ({"columns": {"label": [1, 2]}}, "cannot be called 'label'"),
        ({"split": "../mine/train"}, "a split cannot be called '../mine/train'"),
        ({"split": ".hidden"}, "a split cannot be called"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, change, message):
    row = {
        "split": "train",
        "pixels": np.zeros((2, 1, 8, 8), np.float32),
        "labels": np.array([0, 1]),
        "ids": ["a", "b"],
    } | change
    with pytest.raises(DataError, match=message), ShardWriter(tmp_path / "set") as writer:
        writer.add(**row)


def test_bands_must_be_as_many_as_channels(tmp_path):
    message = "2 channels do not fit bands g,r,i"
    with pytest.raises(DataError, match=message), ShardWriter(tmp_path / "set", bands="gri") as writer:
        fill(writer)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_split_or_column_names_the_known(tmp_path):
    with ShardWriter(tmp_path / "set") as writer:
        fill(writer)
    with pytest.raises(DataError, match="it has train"):
        split_files(tmp_path / "set", "val")
    with pytest.raises(DataError, match="did you mean train"):
        split_files(tmp_path / "set", "tain")
    with pytest.raises(DataError, match="no column 'mass'"):
        read_split(tmp_path / "set", "train", columns=("mass",))
