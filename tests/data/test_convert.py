"""Conversion takes what is fit, says what is not, and splits fairly and repeatably."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raylens.data.__main__ import main
from raylens.data.convert import Shape, convert, counted, shares
from raylens.data.formats import Unreadable
from raylens.data.shards import read_manifest, read_split, verify
from raylens.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray[.]data")  # Ray's own settings
DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"no published samples at {DATA}")
    return DATA


@pytest.fixture
def folder(tmp_path):
    """Twenty lenses, forty others, and one bad file of each kind."""
    rng = np.random.default_rng(0)
    for name, rows in (("lenses", 20), ("nonlenses", 40)):
        (tmp_path / "in" / name).mkdir(parents=True)
        for k in range(rows):
            np.save(tmp_path / "in" / name / f"{k}.npy", rng.random((1, 16, 16)).astype(np.float32))
    bad = {key: rng.random((1, 16, 16)) for key in ("nan", "inf")}
    bad["nan"][0, 3, 3], bad["inf"][0, 3, 3] = np.nan, np.inf
    bad |= {"constant": np.ones((1, 16, 16)), "shape": rng.random((1, 18, 18))}
    for key, pixels in bad.items():
        np.save(tmp_path / "in" / "lenses" / f"{key}.npy", pixels)
    whole = (tmp_path / "in" / "lenses" / "0.npy").read_bytes()
    (tmp_path / "in" / "lenses" / "cut.npy").write_bytes(whole[:-100])
    return tmp_path / "in"


@pytest.mark.usefixtures("ray_cluster")
class TestConvert:
    @pytest.mark.parametrize("again", ["", "/lenses"])
    def test_what_comes_with_two_inputs_is_refused(self, folder, tmp_path, again):
        """Its copies would lie in several splits."""
        with pytest.raises(DataError, match=r"comes with .* and again with .*; give it once"):
            convert([str(folder), f"{folder}{again}"], str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    def test_what_is_fit_is_taken_and_the_rest_counted(self, folder, tmp_path):
        said = []
        manifest = convert([str(folder)], str(tmp_path / "out"), say=said.append)
        assert manifest == read_manifest(tmp_path / "out")
        verify(tmp_path / "out")
        assert manifest.classes == ("nonlens", "lens")
        assert {name: split.labels for name, split in manifest.splits.items()} == {
            "train": {"nonlens": 28, "lens": 14},
            "val": {"nonlens": 6, "lens": 3},
            "test": {"nonlens": 6, "lens": 3},
        }
        assert said[0] == "taken 60 of 65 images"
        for reason in ("truncated", "NaN", "infinite", "constant", "wrong shape"):
            assert f"1 {reason}" in said[1]
        skipped = pd.read_csv(tmp_path / "out" / "skipped.csv")
        assert (
            dict(zip(skipped["id"], skipped["reason"], strict=True))["lenses/shape"]
            == "wrong shape, 1 x 18 x 18"
        )

    def test_one_image_of_other_bands_is_skipped_and_bands_that_none_has_are_refused(self, tmp_path):
        (tmp_path / "in").mkdir()
        for k, bands in enumerate((1, 3, 3, 3)):
            np.save(tmp_path / "in" / f"{k}.npy", np.random.default_rng(k).random((bands, 8, 8), np.float32))
        said = []
        manifest = convert(
            [str(tmp_path / "in")], str(tmp_path / "out"), bands=("g", "r", "i"), say=said.append
        )
        assert manifest.bands == ("g", "r", "i")
        assert "1 wrong shape, 1 x 8 x 8" in said[1]
        with pytest.raises(DataError, match="no band 'x'"):
            convert(
                [str(tmp_path / "in")], str(tmp_path / "no"), bands=("x", "y"), band_names=("g", "r", "i")
            )

    def test_every_image_keeps_its_label_and_id(self, folder, tmp_path):
        manifest = convert([str(folder)], str(tmp_path / "out"))
        for split in manifest.splits:
            rows = read_split(tmp_path / "out", split)
            for pixels, label, id in zip(rows["pixels"], rows["label"], rows["id"], strict=True):
                np.testing.assert_array_equal(pixels, np.load(folder / f"{id}.npy"))
                assert label == id.startswith("lenses")

    def test_a_seed_gives_the_same_files_and_another_seed_others(self, folder, tmp_path):
        made = [convert([str(folder)], str(tmp_path / f"out{k}"), seed=k // 2) for k in range(3)]
        assert made[0].splits == made[1].splits
        assert made[0].splits != made[2].splits

    def test_strict_makes_an_unfit_image_an_error(self, folder, tmp_path, capsys):
        assert main(["convert", str(folder), "--out", str(tmp_path / "out"), "--strict"]) == 2
        error = capsys.readouterr().err
        assert "--strict: 5 of 65 images are unfit" in error
        assert not (tmp_path / "out").exists()

    def test_crop_size_and_scale_follow_each_other(self, folder, tmp_path):
        out = str(tmp_path / "out")
        assert convert([str(folder)], out, crop=12, size=8, arcsec_per_pixel=0.2).size == 8
        assert read_manifest(out).arcsec_per_pixel == pytest.approx(0.3)
        assert read_manifest(out).rows == 61  # the larger image fits as well

    def test_a_table_with_folds_keeps_them(self, folder, tmp_path):
        lines = [f"in/{'lenses' if k % 3 else 'nonlenses'}/{k}.npy,{k % 3 and 1},{k % 5}" for k in range(20)]
        (tmp_path / "t.csv").write_text("\n".join(["path,target,fold", *lines]))
        folds = {"0": "test", **dict.fromkeys("1234", "train")}
        manifest = convert([str(tmp_path / "t.csv")], str(tmp_path / "out"), folds=folds)
        assert {name: split.rows for name, split in manifest.splits.items()} == {"train": 16, "test": 4}
        assert set(read_split(tmp_path / "out", "test", ("fold",))["fold"]) == {0}

    @pytest.mark.parametrize(
        ("targets", "classes"),
        [
            ([0.0, 0.25, 1.0, 1.75, 2.0, ""], ()),
            ([-3, 0, 1, 2, 3, ""], ()),
            ([0, 1, 2, 3, 10**12, ""], ()),
            ([0.0, 1.0, 2.0, 1.0, -1, ""], ("0", "1", "2")),
        ],
        ids=["fractions", "negative", "large", "whole"],
    )
    def test_a_target_is_of_classes_or_of_numbers_as_a_whole(self, tmp_path, targets, classes):
        lines = []
        for k, target in enumerate(targets):
            np.save(tmp_path / f"{k}.npy", np.random.default_rng(k).random((16, 16)))
            lines.append(f"{k}.npy,{target},{k}")
        (tmp_path / "t.csv").write_text("\n".join(["path,target,z", *lines]))
        said = []
        manifest = convert(
            [str(tmp_path / "t.csv")],
            str(tmp_path / "out"),
            splits={"train": 1.0},
            keep_columns=("z",),
            say=said.append,
        )
        assert manifest.classes == classes
        assert manifest.columns == (("z",) if classes else ("z", "target"))
        assert any(line.startswith("labels are numbers") for line in said) == (not classes)
        if not classes:
            rows = read_split(tmp_path / "out", "train", ("target", "id"))
            assert {int(id): number for id, number in zip(rows["id"], rows["target"], strict=True)} == {
                k: pytest.approx(target, nan_ok=True) for k, target in enumerate([*targets[:-1], np.nan])
            }

    def test_numbers_of_one_file_make_numbers_of_all(self, tmp_path):
        (tmp_path / "in").mkdir()
        for name, labels in (("whole", np.arange(20)), ("not", np.arange(20) / 2)):
            images = np.random.default_rng(0).random((20, 16, 16))
            np.savez(tmp_path / "in" / f"{name}.npz", images=images, label=labels)
        manifest = convert([str(tmp_path / "in")], str(tmp_path / "out"), splits={"train": 1.0})
        assert (manifest.classes, manifest.columns) == ((), ("target",))
        rows = read_split(tmp_path / "out", "train", ("target", "id"))
        assert dict(zip(rows["id"], rows["target"], strict=True)) == {
            f"{name}/{k}": k * times for name, times in (("whole", 1), ("not", 0.5)) for k in range(20)
        }

    def test_numbers_that_are_no_classes_cannot_be_given_as_some(self, tmp_path):
        images = np.random.default_rng(0).random((20, 16, 16))
        np.savez(tmp_path / "a.npz", images=images, label=np.arange(20) / 2)
        with pytest.raises(DataError, match=r"--classes was given, and labels are numbers such as \d\.5"):
            convert([str(tmp_path / "a.npz")], str(tmp_path / "out"), classes={"no": "0", "yes": "1"})

    def test_pixels_that_are_nan_are_filled_if_they_are_said_to_be_masked(self, folder, tmp_path, capsys):
        assert main(["convert", str(folder), "--out", str(tmp_path / "out"), "--masked", "nan"]) == 0
        assert "taken 61 of 65 images" in capsys.readouterr().out
        rows = [read_split(tmp_path / "out", split, ("pixels", "id")) for split in ("train", "val", "test")]
        (filled,) = (
            image
            for part in rows
            for image, id in zip(part["pixels"], part["id"], strict=True)
            if id == "lenses/nan"
        )
        before = np.load(folder / "lenses" / "nan.npy")
        assert filled[0, 3, 3] in before[np.isfinite(before)].astype(np.float32)

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"keep_columns": ("z", "mag")}, "has no column 'mag' for --keep-columns; there are z"),
            ({"folds": {"0": "train"}}, "has no column 'fold' for --folds; set --fold-column"),
        ],
    )
    def test_columns_that_a_stack_lacks_are_refused(self, tmp_path, asked, message):
        np.savez(tmp_path / "a.npz", images=np.random.default_rng(0).random((20, 16, 16)), z=np.arange(20))
        with pytest.raises(DataError, match=message):
            convert([str(tmp_path / "a.npz")], str(tmp_path / "out"), **asked)

    def test_folders_named_after_splits_decide(self, tmp_path):
        rng = np.random.default_rng(0)
        for split, rows in (("train", 4), ("test", 2)):
            for name in ("no", "sphere", "vort"):
                (tmp_path / "in" / split / name).mkdir(parents=True)
                for k in range(rows):
                    np.save(tmp_path / "in" / split / name / f"{k}.npy", rng.random((16, 16)))
        manifest = convert([str(tmp_path / "in")], str(tmp_path / "out"))
        assert manifest.classes == ("no", "sphere", "vort")
        assert manifest.splits["test"].labels == {"no": 2, "sphere": 2, "vort": 2}

    def test_bands_are_chosen_by_name_and_columns_kept(self, data, tmp_path):
        out = str(tmp_path / "out")
        manifest = convert([str(data / "cfhtls.npz")], out, bands=("i", "g"), domain="target")
        assert (manifest.bands, manifest.channels, manifest.dtype) == (("i", "g"), 2, "uint8")
        assert manifest.columns == ("source", "index", "note")
        with np.load(data / "cfhtls.npz") as file:
            images, labels = file["images_gri"], file["label"]
        rows = read_split(out, "val", ("pixels", "label", "id"))
        index = [int(id.removeprefix("cfhtls/")) for id in rows["id"]]
        np.testing.assert_array_equal(rows["pixels"], images[index][:, [2, 0]])
        np.testing.assert_array_equal(rows["label"], labels[index])

    def test_unlabelled_images_have_no_classes(self, data, tmp_path):
        manifest = convert([str(data / "hsc_cosmos_unlabelled.npz")], str(tmp_path / "out"), bands=("i",))
        assert manifest.classes == ()
        assert manifest.splits["train"].labels == {"unlabelled": 211}

    def test_fits_bands_and_hdus_become_channels(self, data, tmp_path):
        ground = convert(
            [str(data / "challenge_fits/ground_based")], str(tmp_path / "a"), band_names=tuple("riug")
        )
        assert (ground.bands, ground.rows, ground.classes) == (tuple("riug"), 11, ("nonlens", "lens"))
        from raylens.data.formats import Options

        arcs = convert(
            [str(data / "holismokes_fits")], str(tmp_path / "b"), options=Options(hdu=("1", "3", "5"))
        )
        assert (arcs.channels, arcs.rows) == (3, 16)

    @pytest.mark.parametrize("summed", [True, False], ids=["flux", "brightness"])
    def test_folders_of_two_resolutions_become_pairs_in_the_same_units(self, tmp_path, summed):
        rng = np.random.default_rng(0)
        for folder in ("train/LR", "train/HR", "test/LR", "test/HR"):
            (tmp_path / "in" / folder).mkdir(parents=True)
        for k in range(12):
            high = rng.random((1, 24, 24))
            low = high.reshape(1, 12, 2, 12, 2)
            low = low.sum((2, 4)) if summed else low.mean((2, 4))
            split = "train" if k < 8 else "test"
            np.save(tmp_path / "in" / split / "LR" / f"sample{k}.npy", low)
            if k != 3:
                np.save(tmp_path / "in" / split / "HR" / f"sample{k}.npy", high)
        said = []
        manifest = convert([str(tmp_path / "in")], str(tmp_path / "out"), say=said.append)
        assert (manifest.size, manifest.high, manifest.classes) == (12, 24, ())
        assert {name: split.rows for name, split in manifest.splits.items()} == {"train": 7, "test": 4}
        rows = read_split(tmp_path / "out", "train", ("pixels", "high", "id"))
        mean = rows["high"].reshape(7, 1, 12, 2, 12, 2).mean((3, 5))
        np.testing.assert_allclose(mean, rows["pixels"], rtol=1e-5)
        assert "train/sample3" not in rows["id"]
        told = " ".join(said)
        assert "1 no twin of a higher resolution (such as train/sample3)" in told
        assert ("twins times 4" in told) == summed

    @pytest.mark.parametrize("crop", [8, 9])
    def test_twins_are_cut_where_their_images_are(self, tmp_path, crop):
        rng = np.random.default_rng(0)
        for name in ("LR", "HR"):
            (tmp_path / "in" / name).mkdir(parents=True)
        for k in range(6):
            high = rng.random((1, 30, 30))
            np.save(tmp_path / "in" / "HR" / f"{k}.npy", high)
            np.save(tmp_path / "in" / "LR" / f"{k}.npy", high.reshape(1, 15, 2, 15, 2).mean((2, 4)))
        convert([str(tmp_path / "in")], str(tmp_path / "out"), crop=crop, splits={"train": 1.0})
        rows = read_split(tmp_path / "out", "train", ("pixels", "high"))
        mean = rows["high"].reshape(6, 1, crop, 2, crop, 2).mean((3, 5))
        np.testing.assert_allclose(mean, rows["pixels"], rtol=1e-5)

    def test_stacks_in_another_order_are_no_twins(self, tmp_path):
        rng = np.random.default_rng(0)
        for name, size, order in (("LR", 16, ("lens", "nonlens")), ("HR", 32, ("nonlens", "lens"))):
            (tmp_path / "in" / name).mkdir(parents=True)
            np.savez(tmp_path / "in" / name / "a.npz", **{key: rng.random((20, size, size)) for key in order})
        with pytest.raises(DataError, match="twin of another image"):
            convert([str(tmp_path / "in")], str(tmp_path / "out"))

    def test_twins_that_are_no_whole_number_of_times_finer_are_refused(self, tmp_path):
        for name, size in (("LR", 10), ("HR", 25)):
            (tmp_path / "in" / name).mkdir(parents=True)
            np.save(tmp_path / "in" / name / "a.npy", np.random.default_rng(0).random((size, size)))
        with pytest.raises(DataError, match=r"are 2\.5 times as large as their images"):
            convert([str(tmp_path / "in")], str(tmp_path / "out"))

    @pytest.mark.parametrize("called", ["b.npy", "a.npz"])
    def test_files_that_make_no_pair_are_refused(self, tmp_path, called):
        for name, file in (("LR", "a.npy"), ("HR", called)):
            (tmp_path / "in" / name).mkdir(parents=True)
            (np.save if file.endswith("npy") else np.savez)(tmp_path / "in" / name / file, np.eye(10))
        with pytest.raises(DataError, match=rf"LR/a\.npy and HR/{called} make no pair"):
            convert([str(tmp_path / "in")], str(tmp_path / "out"))

    @pytest.mark.parametrize("names", [("LR", "HR"), ("set_HR.npy", "set_LR.npy")])
    def test_twins_given_apart_are_refused(self, tmp_path, names):
        with pytest.raises(DataError, match="are twins: give the one folder that holds both"):
            convert([f"{tmp_path}/{name}" for name in names], str(tmp_path / "out"))

    def test_a_stack_and_its_twin_are_paired_by_place(self, tmp_path):
        rng = np.random.default_rng(0)
        (tmp_path / "in").mkdir()
        high = rng.random((20, 32, 32))
        np.save(tmp_path / "in" / "train_HR.npy", high)
        np.save(tmp_path / "in" / "train_LR.npy", high.reshape(20, 16, 2, 16, 2).mean((2, 4)))
        convert([str(tmp_path / "in")], str(tmp_path / "out"), splits={"train": 1.0})
        rows = read_split(tmp_path / "out", "train", ("pixels", "high"))
        mean = rows["high"].reshape(20, 1, 16, 2, 16, 2).mean((3, 5))
        np.testing.assert_allclose(mean, rows["pixels"], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such file or folder: nowhere"),
        (["."], "no images in"),
        (["odd.npy"], "set --crop to make them square"),
        (["flat.npy"], "can be read: constant (1)"),
        (["good.npy", "--bands", "g"], "no band 'g'; there are 0 to 1"),
        (["good.npy", "--band-names", "gri"], "2 channels cannot be called g,r,i"),
        (["good.npy", "--size", "0"], "--size 0 is no size"),
        (["good.npy", "--arcsec-per-pixel", "0"], "--arcsec-per-pixel 0 is no scale; give arcsec"),
        (["good.npy", "--arcsec-per-pixel", "-0.2"], "--arcsec-per-pixel -0.2 is no scale"),
        (["good.npy", "--arcsec-per-pixel", "nan"], "--arcsec-per-pixel nan is no scale"),
        (["good.npy", "--labels", "nowhere.npy"], "there is no file nowhere.npy; set --labels"),
        (["good.npy", "--labels", "blank.csv"], "--labels blank.csv cannot be read: "),
        (["good.npy", "--labels", "one.npy"], "--labels one.npy holds no array of labels"),
        (["nan.npy"], "can be read: NaN, which --masked nan fills (1)"),
        (["blank.csv"], "blank.csv is no table of paths: No columns to parse from file"),
        (["cut.csv"], "cut.csv is no table of paths: Error tokenizing data"),
        (
            ["t.csv", "--target-column", "mga"],
            "'mga' (did you mean mag?) for --target-column; there are path",
        ),
        (["t.csv", "--target-column", "target"], "t.csv has no column 'target' for --target-column"),
        (["t.csv", "--fold-column", "cv"], "t.csv has no column 'cv' for --fold-column; there are path, mag"),
        (["t.csv", "--keep-columns", "mag,z"], "t.csv has no column 'z' for --keep-columns; there are day"),
        (["t.csv", "--folds", "0=train"], "t.csv has no column 'fold' for --folds; there are path, mag"),
        (["t.csv", "--target-column", "day"], "column 'day' of t.csv has 12 different words in 12 rows"),
        (
            ["t.csv", "--target-column", "some"],
            "column 'some' of t.csv has numbers, such as 0.5, and words, such as 'x'",
        ),
    ],
)
def test_a_bad_request_is_one_line_and_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    if arguments != ["."]:
        np.save("odd.npy", np.random.default_rng(0).random((2, 16, 20)))
        np.save("flat.npy", np.ones((2, 16, 16)))
        np.save("good.npy", np.random.default_rng(0).random((2, 16, 16)))
        np.save("nan.npy", np.full((2, 16, 16), np.nan))
        np.save("one.npy", 1)
        Path("blank.csv").touch()
        Path("cut.csv").write_text('path,target\n"a,b\n')
        lines = [f"good.npy,{k / 4},day {k},{k / 4 if k % 2 == 0 else 'x'}" for k in range(12)]
        Path("t.csv").write_text("\n".join(["path,mag,day,some", *lines]))
    assert main(["convert", *arguments, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["train=0.7,test=0.7", "train=much"])
def test_splits_must_sum_to_one(text, capsys):
    assert main(["convert", "x", "--out", "y", "--splits", text]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: argument --splits")
    assert text in line


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(100, [70, 15, 15]), (3, [1, 1, 1]), (10, [7, 2, 1]), (1, [1, 0, 0]), (0, [0, 0, 0])],
)
def test_shares_are_near_their_fractions_and_leave_none_out(rows, expected):
    assert shares(rows, [0.7, 0.15, 0.15]) == expected


def test_a_smaller_image_is_averaged_not_sampled():
    noise = np.random.default_rng(0).standard_normal((1, 64, 64))
    small = Shape(size=16).apply(noise)
    assert small.shape == (1, 16, 16)
    assert small.std() < 0.4
    assert Shape(size=16).apply((noise * 20 + 128).astype(np.uint8)).dtype == np.uint8


def test_masked_pixels_take_values_of_their_band():
    pixels = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    masked = pixels.copy()
    masked[1, :4] = 100
    kept = Shape(masked=100).apply(masked)
    assert np.isin(kept[1, :4], pixels[1, 4:]).all()
    assert kept[1, :4].std() == pytest.approx(pixels[1, 4:].std(), rel=0.2)
    np.testing.assert_array_equal(kept[:, 4:], pixels[:, 4:])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_masked_pixels_may_be_no_numbers(value):
    pixels = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    masked = pixels.copy()
    masked[1, :4] = value
    kept = Shape(masked=value).apply(masked)
    assert np.isin(kept[1, :4], pixels[1, 4:]).all()
    assert kept[1, :4].std() == pytest.approx(pixels[1, 4:].std(), rel=0.2)
    np.testing.assert_array_equal(kept[:, 4:], pixels[:, 4:])
    for other in (None, 0.0):
        with pytest.raises(Unreadable, match="NaN" if np.isnan(value) else "infinite"):
            Shape(masked=other).apply(masked)
    with pytest.raises(Unreadable, match="constant"):
        Shape(masked=value).apply(np.full_like(pixels, value))


def test_an_image_smaller_than_the_crop_does_not_fit():
    with pytest.raises(Unreadable, match="wrong shape"):
        Shape(crop=32).apply(np.random.default_rng(0).random((1, 16, 16)))


def test_labels_that_are_no_class_are_named():
    from raylens.data.convert import _label

    with pytest.raises(DataError, match="label 'ring' is none of the classes"):
        _label([{"label": "ring"}, {"label": "hsc"}], {"nonlens": "hsc", "lens": "smooth"})
    rows = [{"label": "hsc"}, {"label": "smooth"}, {"label": None}]
    assert _label(rows, {"nonlens": "hsc", "lens": "smooth"}) == ("nonlens", "lens")
    assert [row["label"] for row in rows] == [0, 1, -1]


def test_inputs_of_one_name_keep_apart():
    from raylens.data.convert import _apart
    from raylens.data.formats import Unit

    def ids(*paths, id="7"):
        return [unit.id for unit in _apart([(path, [Unit(files=(), id=id)]) for path in paths])]

    assert ids("d1/cutouts") == ["7"]
    assert ids("d1/lenses", "d2/others/") == ["lenses/7", "others/7"]
    assert ids("d1/cutouts", "/d2/cutouts") == ["d1/cutouts/7", "d2/cutouts/7"]
    assert ids("d1/a.npy", "d2/a.npy", id="a") == ["d1/a", "d2/a"]


@pytest.mark.parametrize(
    ("labels", "wanted", "numbers"),
    [
        ([0, 1], {"nonlens": "1", "lens": "0"}, [1, 0]),
        ([1, 2], {"nonlens": "2", "lens": "1"}, [1, 0]),
        ([101, 7], {"nonlens": "7", "lens": "101"}, [1, 0]),
        ([0, 1], {"nonlens": "nonlens", "lens": "lens"}, [0, 1]),
    ],
)
def test_numbers_are_the_classes_that_they_are_said_to_be(labels, wanted, numbers):
    from raylens.data.convert import _label

    rows = [{"label": label} for label in labels]
    _label(rows, wanted)
    assert [row["label"] for row in rows] == numbers


def test_many_reasons_are_counted_together():
    told = counted(
        [(str(row), f"wrong shape, 1 x {row} x {row}") for row in range(9)] + [("a", "NaN"), ("b", "NaN")]
    )
    assert told.startswith("2 NaN (such as a); 1 wrong shape, 1 x 0 x 0 (such as 0); ")
    assert told.endswith("; 5 for 5 other reason(s)")
