"""Images cut into pieces, and what is read of them."""

from __future__ import annotations

import numpy as np
import pytest

from raylens.data import pieces
from raylens.data.convert import Shape
from raylens.data.pieces import Piece, Reader, packed, record, runs
from raylens.data.preprocess import preprocess
from raylens.data.shards import ShardWriter, read_split
from raylens.errors import DataError


@pytest.fixture
def reader(monkeypatch):
    """Of 16 x 16 images, ten at a time."""
    monkeypatch.setattr(pieces, "BYTES", 10 * 4 * 16 * 16)
    return Reader(Shape(expected=(1, 16, 16)), "minmax")


@pytest.fixture
def folder(tmp_path):
    """25 files, of which one is torn and one is too small, and a stack of 25."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for row in range(25):
        np.save(tmp_path / "images" / f"{row:02d}.npy", rng.random((16, 16), np.float32))
    (tmp_path / "images" / "03.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "images" / "07.npy", rng.random((8, 8), np.float32))
    np.save(tmp_path / "stack.npy", rng.random((25, 16, 16), np.float32))
    return tmp_path


def held(tmp_path, more=(), seed: int = 0) -> str:
    """A set of 25 rows to train on and 8 to test on, and splits of 3 rows that are called as `more` says."""
    out, rng = str(tmp_path / "set"), np.random.default_rng(seed)
    with ShardWriter(out, overwrite=True) as writer:
        for split, count in (("train", 25), ("test", 8), *((name, 3) for name in more)):
            pixels = rng.random((count, 1, 16, 16), np.float32)
            names = [f"{split}-{row}" for row in range(count)]
            writer.add(split, pixels, np.zeros(count, int), names, {"ra": np.arange(count, dtype=float)})
    return out


def test_every_file_is_read_once_and_what_is_none_says_why(reader, folder):
    found = reader.pieces(str(folder / "images"))
    assert [len(piece.units) for piece in found] == [10, 10, 5]
    blocks = [block for piece in found for block in reader.blocks(piece)]
    assert [one for block in blocks for one in block.ids] == [f"{row:02d}" for row in range(25)]
    assert {
        one: reason
        for block in blocks
        for one, reason in zip(block.ids, block.reasons, strict=True)
        if reason
    } == {
        "03": "truncated",
        "07": "wrong shape, 1 x 8 x 8",
    }
    assert (blocks[0].pixels[3] == 0).all()
    given = np.load(folder / "images" / "24.npy")[None, None]
    assert np.array_equal(blocks[-1].pixels[-1:], preprocess(given, "minmax"))


def test_a_stack_comes_in_blocks_and_from_any_row_on(reader, folder):
    (piece,) = reader.pieces(str(folder / "stack.npy"))
    blocks = [*reader.blocks(piece)]
    assert [(block.begin, len(block.ids), block.last) for block in blocks] == [
        (0, 10, False),
        (10, 10, False),
        (20, 5, True),
    ]
    again = [*reader.blocks(piece, [range(0, 10), range(14, 20)])]
    assert [(block.begin, len(block.ids), block.last) for block in again] == [(10, 4, False), (20, 5, True)]
    assert np.array_equal(again[1].pixels, blocks[2].pixels)


def test_a_set_is_read_by_row_groups_with_its_columns(reader, tmp_path):
    path = held(tmp_path)
    everything = reader.pieces(path)
    assert len(everything) == 2  # a file each; row groups hold more than is read at a time
    (piece,) = reader.pieces(path, "test")
    (block,) = reader.blocks(piece)
    assert (block.ids, block.columns[3]) == ([f"test-{row}" for row in range(8)], {"ra": 3.0})
    assert np.array_equal(block.pixels, preprocess(read_split(path, "test")["pixels"], "minmax"))


def test_what_does_not_fit_is_refused_in_a_line(reader, tmp_path, folder):
    path = held(tmp_path)
    with pytest.raises(DataError, match=r"has 1 channel.* of 16 x 16, the checkpoint was trained on 3 of 16"):
        Reader(Shape(expected=(3, 16, 16)), "minmax").pieces(path)
    with pytest.raises(DataError, match="is no shard set, and has no split 'test'"):
        reader.pieces(str(folder / "images"), "test")
    with pytest.raises(DataError, match="has no split 'moon'"):
        reader.pieces(path, "moon")


def test_blocks_that_were_joined_come_apart_again(reader, folder):
    (piece,) = reader.pieces(str(folder / "stack.npy"))
    blocks = [packed(number, block) for number in (4, 5) for block in reader.blocks(piece, [range(10, 12)])]
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    found = [(int(joined["piece"][some][0]), joined["row"][some].tolist()) for some in runs(joined)]
    assert found == [(number, [*rows]) for number in (4, 5) for rows in (range(10), range(12, 25))]
    assert joined["last"].sum() == 2


def test_nothing_in_a_piece_is_nothing_read(reader):
    assert [*reader.blocks(Piece())] == []


def test_of_a_group_that_was_cut_the_rest_is_read(reader, tmp_path):
    (piece, *_) = reader.pieces(held(tmp_path))
    everything = [one for block in reader.blocks(piece) for one in block.ids]
    found = [*reader.blocks(piece, [range(3), range(5, 6)])]
    assert [block.begin for block in found] == [3, 6]
    assert [one for block in found for one in block.ids] == everything[3:5] + everything[6:]
    assert [block.last for block in found] == [False, True]


def test_bands_and_crops_of_a_shard_set_are_refused(tmp_path):
    reader = Reader(Shape(expected=(1, 16, 16), bands=(0,)), "minmax")
    with pytest.raises(DataError, match="--bands and --crop are of images that are not yet converted"):
        reader.pieces(held(tmp_path))


def test_images_of_which_none_can_be_read_are_refused_at_once(reader, folder):
    few = Reader(Shape(expected=(3, 16, 16)), "minmax")
    path = str(folder / "images")
    reader.check(path, reader.pieces(path))
    with pytest.raises(
        DataError, match=r"no image of .* as 3 x 16 x 16: 23 wrong shape, 1 x 16 x 16 \(such as 00"
    ):
        few.check(path, few.pieces(path))


def test_bands_in_another_order_than_the_checkpoints_are_refused(tmp_path):
    pixels = np.random.default_rng(0).random((4, 3, 16, 16), np.float32)
    for name in ("gri", "irg", ""):
        with ShardWriter(str(tmp_path / f"set-{name}"), bands=tuple(name)) as writer:
            writer.add("test", pixels, None, list("abcd"))
    reader = Reader(Shape(expected=(3, 16, 16), names=tuple("gri")), "minmax")
    assert reader.pieces(str(tmp_path / "set-gri"))
    with pytest.raises(DataError, match="has the bands i, r, g, the checkpoint g, r, i"):
        reader.pieces(str(tmp_path / "set-irg"))
    assert reader.remark(str(tmp_path / "set-gri")) == ""
    assert "does not say its bands; they are taken for g, r, i" in reader.remark(str(tmp_path / "set-"))
    np.savez(tmp_path / "one.npz", images=pixels)
    assert "taken in the order g, r, i of the checkpoint" in reader.remark(str(tmp_path / "one.npz"))


def ids(found: list[Piece]) -> list[list[str]]:
    return [[unit.id for unit in piece.units] for piece in found]


def test_what_was_added_to_a_folder_makes_pieces_after_those_that_were_there(reader, folder):
    path = str(folder / "images")
    before = reader.pieces(path)
    held = record(before)
    for name in ("00b", "11b", "99"):
        np.save(folder / "images" / f"{name}.npy", np.eye(16, dtype=np.float32))
    found, change = reader.grown(held, reader.pieces(path))
    assert ids(found) == [*ids(before), ["00b", "11b", "99"]]
    assert (change.changed, change.gone, change.added) == ([], [], ["00b", "11b", "99"])
    again, change = reader.grown(record(found), reader.pieces(path))
    assert ids(again) == ids(found)
    assert not change.added


def test_what_was_written_again_or_is_gone_is_named(reader, folder):
    path = str(folder / "images")
    held = record(reader.pieces(path))
    np.save(folder / "images" / "04.npy", np.eye(16, dtype=np.float32))  # of the same size
    (folder / "images" / "12.npy").unlink()
    found, change = reader.grown(held, reader.pieces(path))
    assert (found, change.changed, change.gone, change.added) == ([], ["04"], ["12"], ["04"])


def test_files_that_a_table_lists_are_known_by_their_content_and_their_lines(reader, folder):
    table = folder / "table.csv"
    table.write_text("path,ra\n" + "".join(f"images/{row:02d}.npy,{row}\n" for row in range(25)))
    held = record(reader.pieces(str(table)))
    again, change = reader.grown(held, reader.pieces(str(table)))
    assert sum(map(len, ids(again))) == 25
    assert not change.added
    np.save(folder / "images" / "04.npy", np.eye(16, dtype=np.float32))
    table.write_text(table.read_text().replace("12.npy,12", "12.npy,13") + "images/none.npy,25\n")
    _, change = reader.grown(held, reader.pieces(str(table)))
    assert change.changed == ["images/04", "images/12"]
    assert change.added == ["images/04", "images/12", "images/none"]


def test_a_set_is_known_by_the_hashes_of_its_manifest(reader, tmp_path):
    path = held(tmp_path)
    before = reader.pieces(path)
    begun = record(before)
    held(tmp_path, more=("val",))
    found, change = reader.grown(begun, reader.pieces(path))
    assert found[:2] == before
    assert [piece.rows for piece in found] == [25, 8, 3]
    assert (change.changed, change.gone, change.added) == ([], [], ["val-00000.parquet"])
    held(tmp_path, seed=1)
    found, change = reader.grown(begun, reader.pieces(path))
    assert (found, change.changed) == ([], ["train-00000.parquet", "test-00000.parquet"])
