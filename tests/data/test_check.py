"""The same image in two places is found, and different images are not taken for the same."""

from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from raylens.data import check as checks
from raylens.data.__main__ import main
from raylens.data.check import check, near, phash, small
from raylens.data.shards import ShardWriter

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def sky(rows, seed=0, size=64):
    """A galaxy of random size and tilt on a noisy sky with neighbours."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    images = rng.standard_normal((rows, 1, size, size))
    for image in images[:, 0]:
        for flux, spread in ((60, 0), (20, 20), (10, 25)):
            dx, dy = rng.uniform(-1, 1, 2) * spread
            width = rng.uniform(2, 6)
            tilt = rng.uniform(-0.6, 0.6)
            image += flux * np.exp(
                -((x - dx) ** 2 + (y - dy) ** 2 + tilt * (x - dx) * (y - dy)) / (2 * width**2)
            )
    return images.astype(np.float32)


def write(path, **splits):
    with ShardWriter(path) as writer:
        for split, pixels in splits.items():
            labels = np.arange(len(pixels)) % 2
            writer.add(split, pixels, labels, [f"{split}{k}" for k in range(len(pixels))])
    return str(path)


def test_different_images_are_clean(tmp_path, capsys):
    pixels = sky(60)
    one = write(tmp_path / "one", train=pixels[:20], test=pixels[20:40])
    other = write(tmp_path / "other", train=pixels[40:])
    assert check([one, other]).matches == []
    assert main(["check", one, other]) == 0
    assert "clean" in capsys.readouterr().out


def test_every_leak_of_an_image_that_is_in_three_places_is_listed(tmp_path):
    pixels = sky(12)
    one = write(tmp_path / "one", train=pixels[:4])
    other = write(tmp_path / "other", train=pixels[[0, 5, 5, 6]], test=pixels[[0, 5, 7, 8]])
    found = check([one, other])
    assert {(match.one, match.other) for match in found.leaks} == {
        ((one, "train", "train0"), (other, "train", "train0")),
        ((one, "train", "train0"), (other, "test", "test0")),
        ((other, "train", "train0"), (other, "test", "test0")),
        ((other, "train", "train1"), (other, "test", "test1")),
    }
    assert [match.other for match in found.matches if not match.leaks] == [(other, "train", "train2")]


def test_images_too_small_to_be_told_apart_are_refused(tmp_path, capsys):
    assert main(["check", write(tmp_path / "tiny", train=np.zeros((2, 1, 7, 7), np.float32))]) == 2
    told = capsys.readouterr().err
    assert "images of 7 x 7 are too small to tell copies; convert it with --size 8 or more" in told


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (["--similarity", "95"], "--similarity 95 is no correlation"),
        (["--similarity", "nan"], "--similarity nan is no correlation"),
        (["--distance", "-1"], "--distance -1 is no number of the hash's 64 bits"),
    ],
)
def test_limits_within_which_nothing_can_be_found_are_refused(tmp_path, capsys, limit, said):
    assert main(["check", write(tmp_path / "one", train=sky(3)), *limit]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_an_exact_copy_in_another_set_is_a_leak(tmp_path, capsys):
    pixels = sky(30)
    one = write(tmp_path / "one", train=pixels[:20])
    other = write(tmp_path / "other", test=np.concatenate([pixels[3:4], pixels[20:]]))
    (match,) = check([one, other]).leaks
    assert match.exact
    assert {match.one[2], match.other[2]} == {"train3", "test0"}
    assert main(["check", one, other, "--out", f"{tmp_path}/pairs.csv"]) == 1
    said = capsys.readouterr().out
    assert "LEAK" in said
    assert "one train: train3" in said
    (pair,) = pd.read_csv(tmp_path / "pairs.csv").to_dict("records")
    assert (pair["one_id"], pair["other_set"], pair["leaks"]) == ("train3", other, True)


def test_a_copy_in_another_split_is_a_leak_and_in_the_same_split_is_not(tmp_path):
    pixels = sky(20)
    split = write(tmp_path / "split", train=pixels[:10], test=pixels[9:])
    assert len(check([split]).leaks) == 1
    same = write(tmp_path / "same", train=np.concatenate([pixels, pixels[:1]]))
    assert len(check([same]).matches) == 1
    assert check([same]).leaks == []


CHANGES = {
    "scaled": lambda x: 7 * x - 3,
    "8 bit": lambda x: np.clip(np.rint(x * 2 + 20), 0, 255),
    "noisier": lambda x: x + 0.3 * np.random.default_rng(9).standard_normal(x.shape),
    "flipped": lambda x: x[..., ::-1],
    "turned": lambda x: np.rot90(x, 1, (2, 3)),
    "transposed": lambda x: x.swapaxes(2, 3),
    "shifted": lambda x: np.roll(x, (1, -2), (2, 3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(tmp_path, change):
    pixels = sky(40)
    changed = np.ascontiguousarray(CHANGES[change](pixels[:5]), np.float32)
    one = write(tmp_path / "one", train=pixels)
    other = write(tmp_path / "other", train=np.concatenate([changed, sky(10, seed=5)]))
    found = {(match.one[2], match.other[2]) for match in check([one, other]).leaks}
    assert found == {(f"train{k}", f"train{k}") for k in range(5)}


def test_blank_sky_and_stars_are_not_all_the_same(tmp_path):
    rng = np.random.default_rng(0)
    blank = rng.standard_normal((150, 1, 64, 64))
    star = np.zeros((64, 64))
    star[32, 32] = 4000
    stars = gaussian_filter(star, 1.7) + rng.standard_normal((150, 1, 64, 64))
    assert near(small(np.concatenate([blank, stars]).astype(np.float32))) == {}


def test_the_hash_is_that_of_imagehash():
    images = np.clip(small(sky(20), 32) * 255, 0, 255).astype(np.uint8)
    ours = phash(images.astype(np.float32))
    for image, hash in zip(images, ours, strict=True):
        theirs = np.packbits(imagehash.phash(Image.fromarray(image), hash_size=8).hash.ravel()).view(
            np.uint64
        )[0]
        assert np.bitwise_count(theirs ^ hash) <= 1


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.5, 2])
def test_copies_of_another_size_are_found(tmp_path, scale):
    pixels = sky(12, size=64)
    one = write(tmp_path / "one", train=pixels)
    copies = zoom(pixels[:3], (1, 1, scale, scale), order=1)
    other = write(tmp_path / "other", train=copies, test=sky(3, 7, copies.shape[-1]))
    found = {(match.one[2], match.other[2]) for match in check([one, other]).leaks}
    assert found == {("train0", "train0"), ("train1", "train1"), ("train2", "train2")}


def test_a_split_without_a_class_is_told(tmp_path, capsys):
    pixels = sky(12)
    with ShardWriter(tmp_path / "set") as writer:
        writer.add("train", pixels[:6], np.arange(6) % 2, list("abcdef"))
        writer.add("test", pixels[6:], np.zeros(6), list("ghijkl"))
    main(["check", str(tmp_path / "set")])
    assert "no lens in test" in capsys.readouterr().out


def test_other_rates_of_a_class_are_told_whatever_has_no_labels(tmp_path, capsys):
    with ShardWriter(tmp_path / "set") as writer:
        for number, (split, share) in enumerate({"train": None, "val": 0.5, "test": 0.2}.items()):
            held = sky(60, seed=number, size=16)
            labels = None if share is None else (np.arange(60) < 60 * share).astype(int)
            writer.add(split, held, labels, [f"{split}{row}" for row in range(60)])
    main(["check", str(tmp_path / "set")])
    assert "the rate of lens differs: val 50.0%, test 20.0%" in capsys.readouterr().out


def test_published_samples_hold_the_copies_they_hold():
    if not DATA.is_dir():
        pytest.skip(f"no published samples at {DATA}")
    with np.load(DATA / "cfhtls.npz") as file:
        images, source = file["images_gri"], file["source"]
    pairs = near(small(images))
    assert len(pairs) >= 25  # the gallery repeats graded systems, moved by a pixel or three
    assert sum(source[i] != source[j] for i, j in pairs) >= 24
    with np.load(DATA / "hsc_cosmos_unlabelled.npz") as file:
        assert near(small(file["images_gri"])) == {}
    with np.load(DATA / "deeplense_substructure.npz") as file:
        assert near(small(file["sub"][:600, None])) == {}


def test_blocks_of_hashes_miss_no_pair():
    hashes = np.random.default_rng(0).integers(0, 1 << 62, 300).astype(np.uint64)
    hashes[250] = hashes[7]
    pairs = np.concatenate(list(checks._alike(hashes, hashes, 24)), axis=1)
    expected = np.argwhere(np.triu(np.bitwise_count(hashes[:, None] ^ hashes) <= 24, 1))
    np.testing.assert_array_equal(sorted(map(tuple, pairs.T)), sorted(map(tuple, expected)))
