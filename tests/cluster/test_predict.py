"""Predictions over folders and sets by Ray Data, cut off and gone on with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.special import softmax

from raylens import checkpoint, predict, priors
from raylens.cluster import worker
from raylens.cluster.predict import Correction, whole
from raylens.data.convert import Shape
from raylens.data.preprocess import preprocess
from raylens.data.shards import ShardWriter, read_manifest, read_split
from raylens.errors import ConfigError, DataError
from raylens.records import Outputs
from tests.cluster.drivers import killed_once
from tests.conftest import write_toy


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """Two checkpoints of other weights."""
    made = []
    for seed in (0, 1):
        run = tiny.run("supervised", seed=seed)
        folder = str(tmp_path_factory.mktemp(f"model{seed}"))
        checkpoint.save(folder, run, tiny.facts(), worker.build(run, tiny.facts()).result, {})
        made.append(folder)
    return made


@pytest.fixture
def here(ray_cluster, monkeypatch):
    """Images are read and predicted in this process, as Ray Data's would, which take ten seconds to begin."""
    from raylens.cluster import predict as work

    def run(request, reader, pieces, known, **_):
        predictor = work.Predictor(request)
        for number, piece in pieces.items():
            for block in reader.blocks(piece, list(known[number])):
                predictor(work.packed(number, block))

    monkeypatch.setattr(work, "_run", run)
    monkeypatch.setattr("raylens.cluster.launch.quiet", lambda threads: None)


def write_set(out: str, rows: dict[str, int], seed: int = 0) -> str:
    """A set of so many images of noise, 32 x 32, in each split."""
    rng = np.random.default_rng(seed)
    with ShardWriter(out, overwrite=True) as writer:
        for split, count in rows.items():
            pixels = rng.random((count, 1, 32, 32), np.float32)
            writer.add(split, pixels, None, [f"{split}-{row:04d}" for row in range(count)])
    return out


@pytest.fixture
def images(image_folder):
    """A folder of 30 files, of which one is torn."""
    return image_folder(30, torn=11)


def logits(model: str, pixels: np.ndarray) -> np.ndarray:
    """What the model alone says of images."""
    from raylens.loop import collect

    found = checkpoint.read(model)
    return collect(found.model(), preprocess(pixels, found.run.data.transform), None).logits.astype(float)


def said(model: str, pixels: np.ndarray) -> np.ndarray:
    """Probabilities of the last class by the model alone."""
    return softmax(logits(model, pixels), axis=1)[:, 1]


def test_a_folder_of_files_is_predicted_ranked_and_pictured(ray_cluster, models, images, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert (
        predict.predict([models[0], images, "--out", out, "--top", "7", "--features", "--gpus", "0"]) == out
    )
    assert capsys.readouterr().out.startswith(f"predicting 30 file(s) of {images}, in 1 piece(s)\n")
    table = pd.read_parquet(f"{out}/predictions").set_index("id")
    assert sorted(table.index) == [f"{row:02d}" for row in range(30)]
    assert table["failed"].notna().sum() == 1
    assert np.isnan(table.loc["11", "probability"])
    assert table["features"].isna().to_numpy().nonzero()[0].tolist() == [table.index.get_loc("11")]
    for row in ("00", "29"):
        pixels = np.load(f"{images}/{row}.npy")[None, None]
        assert table.loc[row, "probability"] == pytest.approx(said(models[0], pixels)[0], abs=1e-6)
    best = pd.read_csv(f"{out}/candidates.csv", dtype={"id": str})
    assert list(best["rank"]) == [*range(1, 8)]
    assert list(best["id"]) == list(table["probability"].nlargest(7).index)
    assert pd.read_csv(f"{out}/failed.csv", dtype=str).to_dict("records")[0]["id"] == "11"
    assert Image.open(f"{out}/candidates.png").size[0] > 500


def test_what_was_predicted_is_not_predicted_again(here, models, images, tmp_path, capsys):
    out = tmp_path / "out"
    words = [models[0], images, "--out", str(out), "--gpus", "0"]
    predict.predict(words)
    (part,) = (out / "predictions").iterdir()
    written, before = part.stat().st_mtime_ns, pd.read_parquet(part)
    predict.predict(words)
    assert part.stat().st_mtime_ns == written
    assert "has 30 predictions; going on with 0 of 1 pieces" in capsys.readouterr().out
    part.unlink()
    predict.predict(words)
    (part,) = (out / "predictions").iterdir()
    pd.testing.assert_frame_equal(pd.read_parquet(part), before)
    with pytest.raises(ConfigError, match="has predictions with features False, and True was given"):
        predict.predict([*words, "--features"])


def test_files_that_were_added_are_predicted_and_others_are_not_again(here, models, images, tmp_path, capsys):
    out = tmp_path / "out"
    words = [models[0], images, "--out", str(out), "--gpus", "0"]
    predict.predict(words)
    (part,) = (out / "predictions").iterdir()
    written = part.stat().st_mtime_ns
    added = np.random.default_rng(1).random((2, 32, 32)).astype(np.float32)
    for name, pixels in zip(("00b", "40"), added, strict=True):
        np.save(f"{images}/{name}.npy", pixels)
    for _ in range(2):
        predict.predict(words)
        assert part.stat().st_mtime_ns == written
        table = pd.read_parquet(out / "predictions").set_index("id")
        assert len(table) == 32
        assert table["probability"][["00b", "40"]].to_numpy() == pytest.approx(
            said(models[0], added[:, None]), abs=1e-6
        )
    told = capsys.readouterr().out
    assert f"2 file(s) were added to {images} since {out} was begun" in told
    assert "has 30 predictions; going on with 1 of 2 pieces" in told
    assert "has 32 predictions; going on with 0 of 2 pieces" in told

    np.save(f"{images}/00b.npy", added[1])
    Path(f"{images}/20.npy").unlink()
    with pytest.raises(
        ConfigError,
        match=r"has predictions of what .* held before: 1 changed \(such as 00b\) and 1 gone \(such as 20\); name",
    ):
        predict.predict(words)


def test_a_set_of_other_images_at_the_same_place_is_refused(here, models, tmp_path):
    data, out = str(tmp_path / "data"), str(tmp_path / "out")
    words = [models[0], write_set(data, {"test": 20}), "--out", out, "--gpus", "0"]
    predict.predict(words)
    write_set(data, {"test": 20}, seed=1)
    with pytest.raises(ConfigError, match=r"1 changed \(such as test-00000.parquet\); name another folder"):
        predict.predict(words)


def test_a_folder_that_another_process_predicts_into_is_left_alone(here, models, images, tmp_path):
    out = str(tmp_path / "out")
    held = f"from raylens.cluster.folders import hold; hold({out!r}); print('held', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    words = [models[0], images, "--out", out, "--gpus", "0"]
    with pytest.raises(ConfigError, match=r"another process is at work on .*out; .* give another --out"):
        predict.predict(words)
    other.kill()
    other.wait()
    assert predict.predict(words) == out


def test_weights_and_calibrations_that_were_made_again_are_told_in_words(here, models, tmp_path):
    model, labelled = shutil.copytree(models[0], tmp_path / "model"), str(tmp_path / "labelled")
    write_toy(labelled, shifted=False)
    words = [str(model), write_set(str(tmp_path / "data"), {"test": 20}), "--out", str(tmp_path / "out")]
    words += ["--gpus", "0", "--calibrate", labelled]
    predict.predict(words)
    shutil.copy(f"{models[1]}/model.safetensors", model)
    with pytest.raises(ConfigError, match=f"has predictions by what {model} was before it was trained again"):
        predict.predict(words)
    shutil.copy(f"{models[0]}/model.safetensors", model)
    shutil.rmtree(labelled)
    write_toy(labelled, shifted=False, seed=1)
    with pytest.raises(ConfigError, match=f"calibrated on what {labelled} was before it was made again"):
        predict.predict(words)


def test_an_ensemble_gives_the_mean_the_spread_and_each_ones_features(here, models, toy_sets, tmp_path):
    out, data = str(tmp_path / "out"), toy_sets["data.target"]
    words = [models[0], data, "--checkpoint", models[1], "--split", "test", "--features", "--gpus", "0"]
    predict.predict([*words, "--out", out])
    table = pd.read_parquet(f"{out}/predictions").set_index("id")
    held = read_split(data, "test")
    each = np.stack([said(model, held["pixels"]) for model in models])
    assert table.loc[held["id"], "probability"].to_numpy() == pytest.approx(each.mean(0), abs=1e-6)
    assert table.loc[held["id"], "probability_spread"].to_numpy() == pytest.approx(each.std(0), abs=1e-6)
    assert len(table.iloc[0]["features_0"]) == len(table.iloc[0]["features_1"]) == 16
    assert set(pd.read_csv(f"{out}/candidates.csv")["half"]) == {"odd", "even"}


@pytest.fixture(scope="module")
def learned(tiny, toy_sets, tmp_path_factory):
    """Checkpoints that know what they were trained on, by the share of lenses in their batches."""
    facts = replace(tiny.facts(), manifests={"source": asdict(read_manifest(toy_sets["data.source"]))})
    made = {}
    for balance in (None, 0.2):
        run, folder = tiny.run("supervised", data={"balance": balance}), tmp_path_factory.mktemp("learned")
        checkpoint.save(folder, run, facts, worker.build(run, facts).result, {})
        made[balance] = str(folder)
    return made


@pytest.mark.parametrize(
    ("balance", "calibrated", "prior"),
    [
        pytest.param(None, False, 0.01, id="a prior, and the shares of the training images"),
        pytest.param(0.2, False, 0.01, id="a prior, and the share that batches were filled to"),
        pytest.param(None, True, None, id="calibration"),
        pytest.param(0.2, True, 0.01, id="calibration and a prior, and the shares of the labelled rows"),
    ],
)
def test_probabilities_are_calibrated_and_corrected_for_the_prior_by_the_formulas(
    here, learned, toy_sets, tmp_path, balance, calibrated, prior
):
    data, labelled, out = toy_sets["data.target"], toy_sets["data.source"], str(tmp_path / "out")
    words = [learned[balance], data, "--split", "test", "--out", out, "--gpus", "0"]
    words += ["--calibrate", labelled] if calibrated else []
    words += ["--prior", str(prior)] if prior else []
    predict.predict(words)
    table, held = pd.read_parquet(f"{out}/predictions").set_index("id"), read_split(data, "test")

    known = read_split(labelled, "train")["label"]  # whose shares a model learns
    share = known.mean() if balance is None else balance
    scores = logits(learned[balance], held["pixels"])
    if calibrated:  # Alexandari et al. 2020, section 2.3
        rows = read_split(labelled, "val")
        temperature, bias = priors.calibration(logits(learned[balance], rows["pixels"]), rows["label"])
        assert abs(np.log(temperature)) + np.abs(bias).max() > 0.1
        scores, share = scores / temperature + bias, rows["label"].mean()
    odds = np.exp(scores[:, 1] - scores[:, 0])
    if prior:  # Saerens et al. 2002, eq. 2.4
        odds *= (prior / (1 - prior)) / (share / (1 - share))
    assert table.loc[held["id"], "probability"].to_numpy() == pytest.approx(odds / (1 + odds), rel=1e-4)


def test_a_resumed_prediction_keeps_its_corrections_and_refuses_another_prior(
    here, models, toy_sets, tmp_path
):
    words = [models[0], toy_sets["data.target"], "--split", "test", "--out", str(tmp_path), "--gpus", "0"]
    words += ["--calibrate", toy_sets["data.source"]]
    predict.predict([*words, "--prior", "0.01"])
    asked = json.loads((tmp_path / "predict.json").read_text())
    asked["corrections"][0]["temperature"] *= 1 + 1e-6  # as another machine would have found it
    (tmp_path / "predict.json").write_text(json.dumps(asked))
    predict.predict([*words, "--prior", "0.01"])
    with pytest.raises(
        ConfigError, match=r"has predictions with prior \[0.99, 0.01\], and \[0.98, 0.02\] was given"
    ):
        predict.predict([*words, "--prior", "0.02"])


def test_rows_that_two_files_hold_are_counted_once(here, models, tmp_path, capsys):
    data, out = write_set(str(tmp_path / "data"), {"test": 20}), tmp_path / "out"
    words = [models[0], data, "--out", str(out), "--features", "--gpus", "0"]
    predict.predict(words)
    (part,) = (out / "predictions").iterdir()
    whole = pq.read_table(part)
    part.unlink()
    for name, rows in {
        "000000-000000000-12": slice(0, 12),
        "000000-000000008-12-last": slice(8, 20),  # as an actor of a killed driver would have written it
        "000000-000000012-8": slice(12, 20),
        "000000-000000012-8-last": slice(12, 20),
        "000000-000000002-3": slice(2, 5),
    }.items():
        pq.write_table(whole[rows], out / f"predictions/{name}.parquet")
    (out / "predictions/000000-000000000-20-last.parquet.partial").write_bytes(b"PAR1")
    capsys.readouterr()
    predict.predict(words)
    told = capsys.readouterr().out
    assert "has 20 predictions; going on with 0 of 1 pieces" in told
    assert "20 images predicted" in told
    assert {path.name for path in (out / "predictions").iterdir()} == {
        "000000-000000000-12.parquet",
        "000000-000000012-8-last.parquet",
    }
    pd.testing.assert_frame_equal(pd.read_parquet(out / "predictions"), whole.to_pandas())
    assert pd.read_csv(out / "candidates.csv")["id"].is_unique


SLOW = """
import sys, time
from raylens import predict
from raylens.cluster import predict as work
class Slow(work.Predictor):
    def __call__(self, batch):
        time.sleep(1)
        return super().__call__(batch)
work.Predictor = Slow
predict.predict(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_prediction_whose_driver_is_killed_goes_on_where_it_was(ray_cluster, models, tmp_path, capsys):
    data = write_set(str(tmp_path / "data"), dict.fromkeys("abcdefgh", 100))  # each a piece
    out, words = tmp_path / "out", [models[0], data, "--gpus", "0", "--features", "--out"]

    def parts() -> list[Path]:
        return sorted(out.glob("predictions/*.parquet"))

    killed_once(
        [sys.executable, "-c", SLOW, *words, str(out)],
        lambda: len(parts()) >= 3 and parts(),
        tmp_path / "log",
    )
    first, second, *_ = (tmp_path / "log").read_text().splitlines()
    assert (first, second) == (f"predicting 800 images of {data}, in 8 piece(s)", "starting Ray")
    before = {path: path.stat().st_mtime_ns for path in parts()}
    assert 3 <= len(before) < 8
    predict.predict([*words, str(out)])
    told = capsys.readouterr().out
    assert f"has {100 * len(before)} predictions; going on with {8 - len(before)} of 8 pieces" in told
    assert "800 images predicted" in told
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(parts()) == 8
    predict.predict([*words, str(tmp_path / "undisturbed")])
    resumed, undisturbed = (
        pd.read_parquet(tmp_path / name / "predictions") for name in ("out", "undisturbed")
    )
    pd.testing.assert_frame_equal(resumed, undisturbed)
    assert (out / "candidates.csv").read_text() == (tmp_path / "undisturbed/candidates.csv").read_text()


@pytest.mark.parametrize(
    ("parts", "is_whole"),
    [
        ({}, False),
        ({range(0, 5): False}, False),
        ({range(0, 5): False, range(5, 9): True}, True),
        ({range(0, 4): False, range(5, 9): True}, False),
        ({range(0, 5): True, range(5, 9): False}, False),
    ],
)
def test_a_piece_is_whole_when_its_rows_reach_its_last(parts, is_whole):
    assert whole(parts) is is_whole


def test_bad_requests_are_refused_in_a_line(models, images, tmp_path):
    for words, told in (
        (["--prior", "1.5"], "--prior 1.5 is no share"),
        (
            ["--prior", "rare"],
            "--prior rare is no share of each class; give a number, or nonlens=SHARE,lens=SHARE",
        ),
        (["--prior", "lens=0.1,nonlens=0.1"], "those of all classes add up to 1"),
        (["--class", "lense"], r"unknown class 'lense' \(did you mean lens\?\)"),
        (["--batch", "0"], "--batch 0 is too few; give 1 or more"),
        (["--top", "-1"], "--top -1 is too few; give 0 or more"),
        (["--cpus", "-1"], "--cpus -1 is no number of CPUs"),
        (["--bands", "a"], "--bands 'a' is no list of numbers"),
    ):
        with pytest.raises(ConfigError, match=told):
            predict.predict([models[0], images, "--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_shares_are_of_the_last_of_two_or_of_each_by_name():
    assert predict.shares("0.01", ("nonlens", "lens")) == (0.99, 0.01)
    assert predict.shares("b=0.2,c=0.7,a=0.1", ("a", "b", "c")) == (0.1, 0.2, 0.7)
    with pytest.raises(ConfigError, match="give a=SHARE,b=SHARE,c=SHARE"):
        predict.shares("0.1", ("a", "b", "c"))


def test_what_a_file_keeps_where_is_told_and_any_class_has_its_candidates(here, models, tmp_path):
    pixels = np.random.default_rng(0).random((9, 32, 32)).astype(np.float32)
    pixels[:, :4] = -1
    np.savez(tmp_path / "stack.npz", first=pixels[:, None], second=pixels[::-1, None])
    words = [
        models[0],
        str(tmp_path / "stack.npz"),
        "--pixels-key",
        "second",
        "--masked",
        "-1",
        "--gpus",
        "0",
    ]
    out = predict.predict([*words, "--class", "nonlens", "--top", "3", "--out", str(tmp_path / "out")])
    filled = [Shape(masked=-1).apply(image) for image in pixels[::-1, None]]
    expected = said(models[0], np.stack(filled))
    table = pd.read_parquet(f"{out}/predictions").sort_values("row")
    np.testing.assert_allclose(table["probability"], expected, atol=1e-5)
    found = pd.read_csv(f"{out}/candidates.csv")["probability"]
    np.testing.assert_allclose(found, np.sort(expected)[:3], atol=1e-5)
    with pytest.raises(ConfigError, match="has predictions with shape"):
        predict.predict([*words[:4], "--gpus", "0", "--out", str(tmp_path / "out")])


def test_a_prediction_that_is_refused_leaves_its_folder_alone(here, models, images, tmp_path):
    words = [models[0], images, "--out", str(tmp_path / "out")]
    for flags, said in (
        (["--cpus", "nan"], "--cpus nan is no number of CPUs"),
        (["--cpus", "0"], "--cpus 0 is no number of CPUs"),
        (["--gpus", "-1"], "--gpus -1 is no number of GPUs"),
        (["--cpus", "500"], "--cpus is 500, the cluster has"),
        (["--cpus", "2"], r"--cpus is 2, the cluster has 2 and reading takes 0\.5; set it to 1\.5 or less"),
        (["--gpus", "500"], "--gpus is 500, the cluster has"),
    ):
        with pytest.raises(ConfigError, match=said):
            predict.predict([*words, *flags])
        assert not [*(tmp_path / "out").glob("*")]


def test_turned_images_are_averaged_and_others_go_elsewhere(here, models, tmp_path):
    words = [models[0], write_set(f"{tmp_path}/set", {"test": 9}), "--gpus", "0", "--out", f"{tmp_path}/out"]
    predict.predict([*words, "--dihedral"])
    pixels = read_split(f"{tmp_path}/set", "test", ("pixels",))["pixels"]
    sides = (pixels, pixels[..., ::-1])
    expected = [said(models[0], np.rot90(side, k, (2, 3)).copy()) for side in sides for k in range(4)]
    table = pd.read_parquet(tmp_path / "out" / "predictions").sort_values("row")
    np.testing.assert_allclose(table["probability"], np.mean(expected, axis=0), atol=1e-6)
    with pytest.raises(ConfigError, match="has predictions with dihedral True, and False was given"):
        predict.predict(words)


def test_whole_numbers_of_a_table_come_to_the_candidates_as_they_are(here, models, tmp_path):
    """Beside an image without one, and under another name where the list has one of its own."""
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(ord(name)).random((32, 32), np.float32))
    (tmp_path / "t.csv").write_text("path,objid,id\na.npy,1237648720693755918,7\nb.npy,,8\n")
    predict.predict([models[0], f"{tmp_path}/t.csv", "--gpus", "0", "--out", f"{tmp_path}/out"])
    found = pd.read_csv(tmp_path / "out" / "candidates.csv", dtype=str).set_index("id")
    assert found["objid"].fillna("").to_dict() == {"a": "1237648720693755918", "b": ""}
    assert found["id_"].to_dict() == {"a": "7", "b": "8"}


def test_shares_of_three_classes_are_those_that_were_drawn_and_none_is_missing(tiny, tmp_path, monkeypatch):
    run, facts = tiny.run(data={"balance": 0.5}), tiny.facts(("no", "sphere", "vort"))
    checkpoint.save(tmp_path / "three", run, facts, worker.build(run, facts).result, {})
    found = checkpoint.read(tmp_path / "three")
    shift = predict.corrected(found, None, (0.25, 0.25, 0.5)).shift
    np.testing.assert_allclose(shift, 0, atol=1e-12)
    output = Outputs(np.zeros((4, 2)), np.eye(3)[[0, 1, 0, 1]], np.array([0, 1, 0, 1]), np.arange(4))
    monkeypatch.setattr("raylens.measure.outputs", lambda *_, **__: output)
    with pytest.raises(DataError, match="the split 'val' of shards/x has no image of vort"):
        predict.corrected(found, "shards/x", (0.8, 0.1, 0.1))


def test_a_correction_without_anything_is_softmax():
    assert np.allclose(Correction()(np.array([[0.0, np.log(3)]])), [[0.25, 0.75]])
    assert json.loads(json.dumps(Correction().shift)) == []
