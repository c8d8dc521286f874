"""Every format gives the same image back, and no file can make the reader run anything."""

import errno
import os
import pickle
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from astropy.io import fits
from PIL import Image

from raylens.data import formats
from raylens.data.formats import Options, Unit, Unreadable, place, units

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"no published samples at {DATA}")
    return DATA


def image(channels=3, size=16, dtype=np.float32, seed=0):
    return (np.random.default_rng(seed).random((channels, size, size)) * 200).astype(dtype)


def read(path, options=None, **unit):
    return list(formats.rows(Unit(files=(str(path),), id=Path(path).stem, **unit), options or Options()))


@pytest.mark.parametrize("suffix", sorted(formats.formats()))
def test_a_file_of_rubbish_is_unreadable_and_no_more(tmp_path, suffix):
    if suffix == ".csv":
        pytest.skip("any text is a table")
    (tmp_path / f"rubbish{suffix}").write_bytes(b"not an image at all" * 9)
    with pytest.raises(Unreadable):
        read(tmp_path / f"rubbish{suffix}")
    (tmp_path / f"empty{suffix}").write_bytes(b"")
    with pytest.raises(Unreadable):
        read(tmp_path / f"empty{suffix}")


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.fits", "a.tif", "a.png"])
def test_every_format_gives_the_image_back(tmp_path, name):
    path, pixels = tmp_path / name, image(dtype=np.uint8)
    match path.suffix:
        case ".npy":
            np.save(path, pixels)
        case ".npz":
            np.savez(path, image=pixels)
        case ".h5":
            with h5py.File(path, "w") as file:
                file["group/image"] = pixels
        case ".fits":
            fits.writeto(path, pixels)
        case ".tif":
            tifffile.imwrite(path, pixels, photometric="minisblack")
        case ".png":
            Image.fromarray(np.moveaxis(pixels, 0, -1)).save(path)
    (row,) = read(path)
    np.testing.assert_array_equal(row.pixels, pixels)
    assert row.id == "a"
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) * 2 // 3)
    with pytest.raises(Unreadable):
        read(path)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_stack_brings_labels_and_columns(tmp_path, suffix):
    arrays = {
        "images_gri": np.stack([image(seed=k) for k in range(20)]),
        "label": np.arange(20) % 3 - 1,
        "redshift": np.linspace(0, 1, 20),
        "survey": np.array([b"one", b"two"] * 10),
    }
    path = tmp_path / f"stack{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    rows = read(path)
    assert len(rows) == 20
    assert rows[4].label == 0
    assert rows[4].bands == ("g", "r", "i")
    assert rows[4].columns == {"redshift": arrays["redshift"][4], "survey": "one"}
    assert rows[4].id == "stack/4"
    np.testing.assert_array_equal(rows[4].pixels, arrays["images_gri"][4])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0.0, 1.0, np.nan, -1.0], [0, 1, None, -1]),
        ([0.0, 1.5, np.nan, -1.0], [0.0, 1.5, None, -1.0]),
        ([0, 1, 2, 100], [0.0, 1.0, 2.0, 100.0]),
        ([True, False, None], [1, 0, None]),
        (["lens", None, np.nan], ["lens", None, None]),
    ],
)
def test_labels_are_classes_or_quantities_as_a_whole(labels, expected):
    found = formats.settled(labels)
    assert found == expected
    assert [type(label) for label in found] == [type(label) for label in expected]


def test_arrays_named_after_classes_are_classes(tmp_path):
    np.savez(tmp_path / "a.npz", sub=np.ones((20, 16, 16)), no_sub=np.ones((30, 16, 16)))
    labels = [row.label for row in read(tmp_path / "a.npz")]
    assert labels.count("sub") == 20
    assert labels.count("no_sub") == 30


def test_a_stack_takes_its_labels_from_another_file(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((20, 16, 16, 1)))
    np.save(tmp_path / "y.npy", np.eye(4)[np.arange(20) % 4])
    rows = read(tmp_path / "x.npy", Options(labels=str(tmp_path / "y.npy")))
    assert [row.label for row in rows] == [k % 4 for k in range(20)]
    assert rows[0].pixels.shape == (1, 16, 16)


def pickled(path, objects):
    array = np.empty(len(objects), object)
    array[:] = objects
    np.save(path, array, allow_pickle=True)


@pytest.mark.parametrize("mass", [4.34e-23, np.float64(4.34e-23), np.array([4.34e-23])])
@pytest.mark.parametrize("dtype", [np.float64, np.int16, ">f4"])
def test_a_pickled_image_and_mass_are_read(tmp_path, mass, dtype):
    pixels = image(1)[0].astype(dtype)
    pickled(tmp_path / "a.npy", [pixels, mass])
    (row,) = read(tmp_path / "a.npy")
    np.testing.assert_array_equal(row.pixels[0], pixels)
    assert row.columns == {"log10_mass": pytest.approx(np.log10(4.34e-23))}


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


class EvilDType:
    def __reduce__(self):
        return np.dtype, ("f8", False, True), (3, "|", None, None, None, -1, -1, 63)


@pytest.mark.parametrize("objects", [[Evil(), 1.0], [np.ones((4, 4)), Evil()], [EvilDType(), Evil()]])
def test_anything_else_pickled_is_refused_by_name(tmp_path, monkeypatch, objects):
    monkeypatch.chdir(tmp_path)
    pickled("a.npy", objects)
    with pytest.raises(Unreadable, match=r"pickled (posix|nt)\.system"):
        read("a.npy")
    assert not Path("evil").exists()


@pytest.mark.parametrize("objects", [["word", 1.0], [np.ones((4, 4))], [np.array(["a"]), 1.0, 2.0]])
def test_harmless_objects_that_are_no_image_are_refused(tmp_path, objects):
    pickled(tmp_path / "a.npy", objects)
    with pytest.raises(Unreadable):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_is_refused(tmp_path, protocol):
    (tmp_path / "a.npy").write_bytes(pickle.dumps(Evil(), protocol))
    with pytest.raises(Unreadable, match=r"^pickled$"):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_what_is_no_file_of_numpy_is_said(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"<html>not found</html>")
    with pytest.raises(Unreadable, match=rf"no \{suffix} file"):
        read(tmp_path / f"a{suffix}")


def test_objects_in_an_npz_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}, 1], object))
    with pytest.raises(Unreadable, match="pickled"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("stem", "folders", "expected"),
    [
        ("7", ["no"], (None, "no")),
        ("7", ["train_lenses"], ("train", "lenses")),
        ("7", ["test_nonlenses"], ("test", "nonlenses")),
        ("7", ["val", "sphere"], ("val", "sphere")),
        ("7", ["ground_based", "nolens"], (None, "nolens")),
        ("axion", ["model_64px"], (None, "axion")),
        ("7", ["surveys", "spiral"], (None, "spiral")),
        ("7", ["whatever"], (None, None)),
        ("7", ["lens", "unlabelled"], (None, None)),
    ],
)
def test_folders_tell_split_and_class(stem, folders, expected):
    assert place(stem, folders) == expected


def test_band_folders_make_one_image_of_an_object(tmp_path):
    for band, letter in enumerate("RIG", start=1):
        for name in ("lens", "nolens"):
            folder = tmp_path / name / f"Band{band}"
            folder.mkdir(parents=True)
            fits.writeto(folder / f"image_{letter}-77.fits", image(1, seed=band)[0])
    (tmp_path / "lens/Band2/image_I-77.fits").unlink()
    (whole,) = (unit for unit in units(str(tmp_path), Options()) if unit.label == "nolens")
    (row,) = formats.rows(whole, Options())
    assert row.pixels.shape == (3, 16, 16)
    np.testing.assert_array_equal(row.pixels[1], image(1, seed=2)[0])
    (cut,) = (unit for unit in units(str(tmp_path), Options()) if unit.label == "lens")
    with pytest.raises(Unreadable, match="no file in Band2"):
        list(formats.rows(cut, Options()))


@pytest.mark.parametrize("name", ["obj{:03d}_64px", "J{:04d}-0056", "cutout_{}.1234_2.3456"])
def test_objects_of_one_name_in_all_bands_stay_together_where_one_is_missing(tmp_path, name):
    for band in ("Band1", "Band2"):
        (tmp_path / band).mkdir()
        for number in range(4):
            np.save(tmp_path / band / f"{name.format(number)}.npy", np.full((4, 4), number))
    (tmp_path / "Band2" / f"{name.format(1)}.npy").unlink()
    found = {unit.id: unit for unit in units(str(tmp_path), Options())}
    assert [*found] == [name.format(number) for number in range(4)]
    assert found[name.format(1)].missing == "no file in Band2"
    for number in (0, 2, 3):
        (row,) = formats.rows(found[name.format(number)], Options())
        assert np.unique(row.pixels).tolist() == [number]


def test_files_that_nothing_pairs_are_refused(tmp_path):
    """Names differ from band to band, and two of one band have one number."""
    for band in ("g", "r"):
        (tmp_path / f"band_{band}").mkdir()
        for number in ("J0012", "J1234"):
            np.save(tmp_path / f"band_{band}" / f"{band}_{number}-0056.npy", np.zeros((4, 4)))
    with pytest.raises(
        formats.DataError, match=r"J1234-0056.npy have one number, 0056, and no name is in two"
    ):
        units(str(tmp_path), Options())


def test_bands_of_several_types_keep_their_values(tmp_path):
    planes = [np.arange(16, dtype=np.int16).reshape(4, 4), np.linspace(0, 1, 16, dtype=">f4").reshape(4, 4)]
    fits.HDUList([fits.PrimaryHDU(), *map(fits.ImageHDU, planes)]).writeto(tmp_path / "a.fits")
    (row,) = read(tmp_path / "a.fits")
    np.testing.assert_allclose(row.pixels, np.stack(planes))
    assert row.pixels.dtype.isnative


def test_compressed_fits_are_read_beside_others(tmp_path):
    fits.writeto(tmp_path / "a.fits.gz", image(1)[0])
    fits.writeto(tmp_path / "b.fits", image(1)[0])
    found = units(str(tmp_path), Options())
    assert [unit.id for unit in found] == ["a", "b"]
    for unit in found:
        (row,) = formats.rows(unit, Options())
        np.testing.assert_array_equal(row.pixels, image(1))


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_labels_of_any_shape_are_read_and_of_another_number_refused(tmp_path, suffix):
    def written(labels):
        arrays = {"images": image(3)[:, None].repeat(2, 0), "is_lens": labels}
        if suffix == ".npz":
            np.savez(tmp_path / "a.npz", **arrays)
        else:
            with h5py.File(tmp_path / "a.h5", "w") as file:
                for name, values in arrays.items():
                    file[name] = values
        return [row.label for row in read(tmp_path / f"a{suffix}", Options(label_key="is_lens"))]

    classes = np.arange(6) % 2
    assert written(classes) == written(classes[:, None]) == written(np.eye(2)[classes]) == classes.tolist()
    with pytest.raises(formats.DataError, match="'is_lens', 5, is no label of each of 6 images"):
        written(classes[:5])
    with pytest.raises(formats.DataError, match="'is_lens', 6 x 2, is no label"):
        written(np.arange(12.0).reshape(6, 2))


def test_an_array_that_is_only_called_like_labels_is_left(tmp_path):
    np.savez(tmp_path / "a.npz", images=image(3)[:, None].repeat(2, 0), y=np.linspace(0, 1, 16))
    assert [row.label for row in read(tmp_path / "a.npz")] == [None] * 6


def test_words_in_hdf5_are_labels_and_columns(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"], file["label"], file["name"] = image(2)[:, None], ["lens", "ring"], ["a", "b"]
    found = read(tmp_path / "a.h5", Options())
    assert [row.label for row in found] == ["lens", "ring"]
    assert [row.columns for row in found] == [{"name": "a"}, {"name": "b"}]


def test_a_colour_png_of_16_bits_is_refused_as_its_reader_keeps_8(tmp_path):
    height, width = 4, 5
    lines = (1000 + np.arange(height * width * 3)).astype(">u2").reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", data),
        (b"IEND", b""),
    ]
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(Unreadable, match="16 bits a colour"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.EIO])
def test_a_fault_of_the_machine_is_none_of_the_file(tmp_path, monkeypatch, number):
    np.save(tmp_path / "a.npy", image(1))

    def fails(path):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("raylens.data.formats.npy.opened", fails)
    with pytest.raises(formats.Unreached, match=r"a\.npy.*the same command tries again"):
        read(tmp_path / "a.npy")


def test_hdus_are_chosen_by_number_or_name(tmp_path):
    hdus = [fits.ImageHDU(image(1, seed=k)[0], name=name) for k, name in enumerate("GRI")]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "a.fits")
    (row,) = read(tmp_path / "a.fits", Options(hdu=("3", "g")))
    np.testing.assert_array_equal(row.pixels, np.concatenate([image(1, seed=2), image(1, seed=0)]))
    with pytest.raises(formats.DataError, match="no image HDU 'z'"):
        read(tmp_path / "a.fits", Options(hdu=("z",)))


def test_a_table_lists_files(tmp_path):
    for k in range(3):
        np.save(tmp_path / f"{k}.npy", image(1))
    (tmp_path / "t.csv").write_text("file,kind,fold,z\n0.npy,1.0,0,0.5\n1.npy,0.0,1,\n2.npy,,1,0.7\n")
    found = units(str(tmp_path / "t.csv"), Options(path_column="file", target_column="kind"))
    assert [unit.label for unit in found] == [1, 0, None]
    assert found[1].columns == {"fold": 1, "z": None}
    assert len(list(formats.rows(found[0], Options()))) == 1
    with pytest.raises(formats.DataError, match="--path-column"):
        units(str(tmp_path / "t.csv"), Options())


def test_a_tables_whole_numbers_stay_whole_beside_an_empty_cell(tmp_path):
    """A survey's ids have 19 digits, of which a float keeps 16."""
    (tmp_path / "t.csv").write_text("path,target,objid\na.npy,lens,1237648720693755918\nb.npy,ring,\n")
    one, other = units(str(tmp_path / "t.csv"), Options())
    assert (one.columns, other.columns) == ({"objid": 1237648720693755918}, {"objid": None})
    assert (one.label, other.label) == ("lens", "ring")


@pytest.mark.parametrize("word", ["None", "NA"])
def test_a_class_that_pandas_takes_for_nothing_is_refused(tmp_path, word):
    (tmp_path / "t.csv").write_text(f"path,target\na.npy,lens\nb.npy,{word}\n")
    with pytest.raises(formats.DataError, match=f"has the word '{word}'"):
        units(str(tmp_path / "t.csv"), Options())


def test_a_table_without_lines_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("path,target\n")
    with pytest.raises(formats.DataError, match="has no line of an image"):
        units(str(tmp_path / "t.csv"), Options())


PUBLISHED = {
    "cfhtls.npz": (376, (3, 64, 64)),
    "hsc_cosmos_unlabelled.npz": (301, (3, 64, 64)),
    "des_red_galaxies.npz": (46, (5, 91, 91)),
    "deeplense_substructure.npz": (5000, (1, 150, 150)),
    "hsc_lensfinding": (20, (3, 64, 64)),
    "deeplense_common/no": (10, (1, 150, 150)),
    "deeplense_common/sphere": (10, (1, 150, 150)),
    "deeplense_common/vort": (10, (1, 150, 150)),
    "deeplense_common/model_64px": (3, (1, 64, 64)),
    "holismokes_fits": (16, (8, 64, 64)),
    "challenge_fits/space_based": (16, (1, 101, 101)),
    "challenge_fits/ground_based": (11, (4, 101, 101)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_samples_are_read(data, name):
    rows, shape = PUBLISHED[name]
    found = []
    for unit in units(str(data / name), Options()):
        if unit.missing:  # one object of the ground-based sample lacks two bands
            assert (name, unit.id) == ("challenge_fits/ground_based", "nolens/100013")
            continue
        found += [row.pixels.shape for row in formats.rows(unit, Options())]
    assert found == [shape] * rows


def test_published_class_folders_are_known(data):
    labels = {unit.label for unit in units(str(data / "deeplense_common" / "model_64px"), Options())}
    assert labels == {"axion", "cdm", "nosub"}
    assert {unit.label for unit in units(str(data / "challenge_fits"), Options())} == {"lens", "nolens"}


def test_a_jpeg_is_read_as_it_looks(tmp_path):
    y, x = np.mgrid[:16, :16]
    pixels = np.stack([16 * x, 16 * y, 8 * (x + y)]).astype(np.uint8)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    (row,) = read(tmp_path / "a.jpg")
    assert row.pixels.shape == (3, 16, 16)
    assert np.abs(row.pixels.astype(int) - pixels).max() <= 6


def test_a_table_may_hold_addresses(tmp_path):
    (tmp_path / "t.csv").write_text("path,target\ns3://bucket/a.npy,1\nb.npy,0\n")
    files = [unit.files[0] for unit in units(str(tmp_path / "t.csv"), Options())]
    assert files == ["s3://bucket/a.npy", f"{tmp_path}/b.npy"]
