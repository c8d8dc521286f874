"""Pretraining without labels and finetuning with some, with real Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raylens import checkpoint, config, pictures
from raylens.cluster import choice
from raylens.cluster.finetune import Plan, Said, Start, _settings, compared, entries
from raylens.cluster.search import search
from raylens.cluster.training import check, fits, started, training
from raylens.cluster.worker import validate, work
from raylens.config import Run
from raylens.data import sets
from raylens.data.shards import LENS_CLASSES, ShardWriter
from raylens.data.simulate import simulate_substructure
from raylens.errors import ConfigError, DataError
from raylens.evaluate import evaluate
from raylens.finetune import amount, starts
from raylens.finetune import finetune as verb
from raylens.health import COLLAPSED
from raylens.pretrain import pretrain
from raylens.tasks.classification import Task as Classification
from tests.conftest import toy_domain, write_toy

TINY = {"encoder.width": 8, "encoder.features": 16, "data.batch": 16, "scale.gpus": 0}
TINY |= {"fit.steps": 20, "fit.report_every": 10}


def write(out: Path, *, labelled: bool = True, rows: int = 160) -> str:
    """A toy domain; lenses have a number, the logarithm of their light."""
    pixels, labels = toy_domain(rows, 0.5, 3, shifted=False)
    number = np.where(labels == 1, np.log10(pixels.clip(0).sum((1, 2, 3))), np.nan)
    edges = [0, int(0.6 * rows), int(0.8 * rows), rows]
    with ShardWriter(str(out), bands=("i",), classes=LENS_CLASSES) as writer:
        for split, begin, end in zip(("train", "val", "test"), edges, edges[1:], strict=False):
            ids = [f"{split}{row}" for row in range(begin, end)]
            given = labels[begin:end] if labelled else None
            writer.add(split, pixels[begin:end], given, ids, {"log10_mass": number[begin:end]})
    return str(out)


def trained(run: Run) -> str:
    """As `training` does, in this process: another takes seconds to begin."""
    facts, data = sets.facts(run, ("source",)), sets.reside(run, ("source",), ("source",))
    *_, report = work(run, facts, data)
    report.save(out := f"{run.storage}/{run.name}/last")
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("foundation")


@pytest.fixture(scope="module")
def sky(folder) -> str:
    return write(folder / "sky")


@pytest.fixture(scope="module")
def pretrained(folder, sky) -> str:
    """A short contrastive pretraining on the set of the finetuning."""
    run = config.build(
        {"method.name": "contrastive", "data.source": sky, "storage": str(folder), "name": "pretrained"}, TINY
    )
    return trained(run)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "train"), [("resident", trained), ("streaming", training)])
def test_no_label_is_needed_to_pretrain(ray_cluster, folder, mode, train):
    bare = write(folder / f"bare-{mode}", labelled=False)
    run = config.build(
        {"method.name": "twin", "data.source": bare, "storage": str(folder), "name": f"bare-{mode}"},
        {"data.mode": mode, "data.cpus": 0.25},
        TINY,
    )
    metrics = checkpoint.read(train(run)).metrics
    assert metrics["objective"] == metrics["source/rankme"] >= 1
    assert "source/probe" not in metrics
    probing, found = (
        run.replace(**{"search.validator": "probe"}),
        checkpoint.read(f"{folder}/bare-{mode}/last"),
    )
    data = sets.reside(probing, ("source",))
    with pytest.raises(DataError, match="needs labels of the source's validation split"):
        validate(probing, found.facts, found.model(), data)


@pytest.mark.slow
def test_a_search_of_pretraining_ranks_by_features_and_measures_no_labels(ray_cluster, folder, sky, capsys):
    run = config.build(
        {"method.name": "byol", "data.source": sky, "storage": str(folder), "name": "search"},
        {"search.trials": 2, "search.scheduler": "none"},
        TINY,
    )
    best = search(run)
    board = pd.read_csv(folder / "search" / "leaderboard.csv")
    assert board["objective"].is_monotonic_decreasing
    assert (board["objective"] == board["source/rankme"]).all()
    assert board["source/probe"].between(0, 1).all()
    assert not any(column.startswith("target/") for column in board)
    assert "chosen by rankme, without labels" in capsys.readouterr().out
    assert checkpoint.read(best).run.task.name == "pretraining"


@pytest.mark.slow
def test_an_encoder_is_finetuned_on_few_labels_and_many(ray_cluster, folder, sky, pretrained, capsys):
    words = [pretrained, "classification", "--labels", "20%", "100%", "--seeds", "0", "1", "--frozen"]
    words += ["--fit.steps", "10", "--fit.report_every", "10", "--storage", str(folder), "--name", "fine"]
    words += ["--data.batch", "16", "--scale.gpus", "0"]
    best = verb(words)
    table = pd.read_csv(folder / "fine" / "finetuned.csv")
    assert table["labels"].tolist() == ["20%"] * 3 + ["all"] * 3
    assert table["encoder"].tolist() == ["finetuned", "frozen", "from scratch"] * 2
    assert table["images"].tolist() == [19] * 3 + [96] * 3 or table["images"].tolist() == [20] * 3 + [96] * 3
    assert (table["auroc_low"] <= table["auroc"]).all()
    assert table["over"].notna().tolist() == [True, True, False] * 2
    shown = capsys.readouterr().out
    assert "minus from scratch" in shown
    assert (folder / "fine" / "finetuned.png").read_bytes().startswith(b"\x89PNG")
    reports = json.loads((folder / "fine" / "test.json").read_text())
    assert reports.pop("best") in reports.values()
    assert len(reports) == 12
    assert reports["finetuned-20pc-seed0"]["rows"] == 32
    held = checkpoint.read(best)
    assert held.run.start == pretrained
    assert held.run.data.labels is None
    first = checkpoint.read(f"{folder}/fine/probes/frozen-all-seed1").model().encoder.state_dict()
    for name, value in checkpoint.read(pretrained).model().encoder.state_dict().items():
        assert value.equal(first[name]), "a frozen encoder stays as it was"

    written = {path: path.stat().st_mtime for path in (folder / "fine" / "trials").glob("*/checkpoint_*/*")}
    assert verb(words) == best
    assert written == {path: path.stat().st_mtime for path in written}, "nothing is trained twice"
    with pytest.raises(ConfigError, match="or with other --labels"):
        verb([word if word != "20%" else "30%" for word in words])
    out = evaluate([best, "--data", sky, "--resamples", "50"])
    assert (Path(out) / "confusion.png").exists()


@pytest.mark.slow
def test_a_number_is_regressed_where_there_is_one(ray_cluster, folder, sky, pretrained):
    words = [pretrained, "regression", "--labels", "30", "100%", "--frozen", "--storage", str(folder)]
    words += ["--fit.steps", "10", "--fit.report_every", "10", "--name", "number", "--data.batch", "16"]
    best = verb([*words, "--scale.gpus", "0"])
    table = pd.read_csv(folder / "number" / "finetuned.csv")
    lenses = table["images"].iloc[-1]
    assert 40 <= lenses <= 60, "rows without a number are left out"
    assert table["images"].tolist() == [30] * 3 + [lenses] * 3
    held = checkpoint.read(best)
    assert held.facts.scale[1] > 0
    out = Path(evaluate([best, "--data", sky, "--resamples", "50"]))
    assert (out / "scatter.png").exists()
    measured = json.loads((out / "metrics.json").read_text())["metrics"]
    reported = json.loads((folder / "number" / "test.json").read_text())["finetuned-all-seed0"]["metrics"]
    assert measured["mae"]["value"] == pytest.approx(reported["mae"]["value"], rel=1e-5)


@pytest.mark.slow
def test_images_are_painted_finer_and_compared_with_bicubic(ray_cluster, folder, capsys):
    sky = simulate_substructure("sr-pairs", rows=120, seed=1, out=str(folder / "pairs"), size=32)
    first = config.build(
        {"method.name": "contrastive", "data.source": sky, "storage": str(folder), "name": "for-pairs"}, TINY
    )
    start = trained(first)
    words = [start, "super-resolution", "--labels", "50%", "100%", "--seeds", "0", "1", "--task.width", "8"]
    words += ["--task.blocks", "1", "--fit.steps", "40", "--fit.report_every", "20", "--optimizer.lr", "3e-3"]
    words += ["--data.batch", "16", "--scale.gpus", "0", "--storage", str(folder), "--name", "finer"]
    best = verb(words)
    table = pd.read_csv(folder / "finer" / "finetuned.csv")
    assert table["encoder"].tolist() == ["bicubic", *["finetuned", "from scratch"] * 2]
    assert table["images"].tolist() == [0, 48, 48, 96, 96]
    gain = table["psnr"] - table["psnr"][0]
    np.testing.assert_allclose(gain[1:], table["psnr_gain"][1:])
    assert (gain[1:] > 0).all(), "better than bicubic"
    assert "minus bicubic" in capsys.readouterr().out
    held = checkpoint.read(best)
    assert (held.facts.factor, held.run.task.width) == (2, 8)
    out = Path(evaluate([best, "--data", sky, "--resamples", "50"]))
    assert (out / "images.png").exists()
    measured = json.loads((out / "metrics.json").read_text())["metrics"]
    reported = json.loads((folder / "finer" / "test.json").read_text())["finetuned-all-seed0"]["metrics"]
    other = json.loads((folder / "finer" / "test.json").read_text())["finetuned-all-seed1"]["metrics"]
    assert measured["psnr"]["value"] in (
        pytest.approx(reported["psnr"]["value"], rel=1e-5),
        pytest.approx(other["psnr"]["value"], rel=1e-5),
    )
    coarse = simulate_substructure("model-i", rows=30, seed=1, out=str(folder / "alone"), size=32)
    with pytest.raises(DataError, match="has no twins of 64 pixels, which the checkpoint paints"):
        evaluate([best, "--data", coarse])
    again = [*words[:-1], "refused"]
    for more, refusal in (
        (["--frozen"], "--frozen fits a linear head"),
        (["--data.source", coarse], "has no twins of a higher resolution"),
        (["--data.views", "strong"], "is of one image, and super-resolution has pairs"),
        (["--data.balance", "0.5"], r"data\.balance is of classes"),
    ):
        with pytest.raises((ConfigError, DataError), match=refusal):
            verb([*again, *more])


@pytest.mark.slow
def test_super_resolution_is_searched_and_learned_by_two_workers(ray_cluster, folder, capsys):
    sky = simulate_substructure("sr-pairs", rows=60, seed=2, out=str(folder / "few-pairs"), size=16)
    run = config.build(
        {"method.name": "supervised", "task.name": "super-resolution", "data.source": sky, "name": "painted"},
        {"storage": str(folder), "search.trials": 2, "search.scheduler": "none", "task.width": 8},
        TINY,
    )
    best = search(run)
    board = pd.read_csv(folder / "painted" / "leaderboard.csv")
    assert board["target/psnr"].notna().all()
    assert (board["objective"] == board["source/psnr"]).all()
    assert "test PSNR" in capsys.readouterr().out
    pair = run.replace(**{"scale.workers": 2, "name": "by-two", "data.batch": 8, "scale.cpus": 0.5})
    assert checkpoint.read(training(pair)).metrics["source/psnr"] > 0
    assert checkpoint.read(best).run.task.name == "super_resolution"


@pytest.mark.slow
def test_a_regression_is_searched_on_the_sources_own_test_split(ray_cluster, folder, sky, capsys):
    run = config.build(
        {"method.name": "supervised", "task.name": "regression", "data.source": sky, "name": "dex"},
        {"storage": str(folder), "search.trials": 2, "search.scheduler": "none"},
        TINY,
    )
    search(run)
    board = pd.read_csv(folder / "dex" / "leaderboard.csv")
    assert board["target/mae"].notna().all()
    assert (board["objective"] == board["source/r2"]).all()
    shown = capsys.readouterr().out
    assert "chosen by r2, on the source's validation split" in shown
    assert "test MAE" in shown


@pytest.mark.slow
def test_a_search_may_start_from_a_pretrained_encoder(ray_cluster, folder, sky, pretrained):
    run = config.build(
        {"method.name": "supervised", "data.source": sky, "start": pretrained, "name": "searched"},
        {"storage": str(folder), "search.trials": 2, "search.scheduler": "none"},
        TINY,
    )
    best = search(run)
    board = pd.read_csv(folder / "searched" / "leaderboard.csv")
    assert board["trial"].str.startswith("supervised").all(), "an encoder says nothing to compare with"
    assert board["target/auroc"].notna().all()
    assert checkpoint.read(best).run.start == pretrained


def test_an_adaptation_does_not_start_from_an_encoder_that_says_nothing(tiny, pretrained):
    run = started(tiny.run("adda", start=pretrained))
    with pytest.raises(ConfigError, match=r"is of pretraining, and adda adapts .*finetune it first"):
        fits(run, tiny.facts())


def test_a_start_of_other_channels_is_refused_by_name(tiny, tmp_path):
    """And not by the tensors that do not fit under a new head."""
    run, other = tiny.run("supervised"), replace(tiny.facts(("no", "sphere", "vort")), channels=3)
    checkpoint.save(tmp_path, run, other, checkpoint.build_model(run, other), {})
    with pytest.raises(ConfigError, match=r"knows 3 channel\(s\) of 32 x 32 .* the data has 1 of 32 x 32"):
        fits(tiny.run("supervised", start=str(tmp_path)), tiny.facts())


def test_the_table_compares_the_same_images_and_seeds(tiny):
    """Scores by hand: pretrained ranks all lenses first, from scratch ranks none."""
    labels = np.arange(40) % 2
    said = {}
    for seed in (0, 1):
        for kind, scores in (("finetuned", labels * 0.9), ("from-scratch", 0.9 - labels * 0.9)):
            said[f"{kind}-10pc-seed{seed}"] = Said(scores, labels, {})
    plan = Plan(tiny.run(), [Start("", "", {}, ["runs/a/last"])], [0.1], [0, 1], False, True)
    table = compared(plan, {0.1: 9}, Classification, said)
    assert table["auroc"].tolist() == [1.0, 0.0]
    assert table["over"].iloc[0] == table["over_low"].iloc[0] == 1.0
    assert table["images"].tolist() == [9, 9]


def test_a_row_of_which_a_training_failed_has_no_figures_and_the_others_do(tiny):
    """Of two seeds one diverged, finetuned on a tenth of the labels and from scratch on all."""
    labels = np.arange(40) % 2
    kinds = [
        f"{kind}-{part}-seed{seed}"
        for kind in ("finetuned", "from-scratch")
        for part in ("10pc", "all")
        for seed in (0, 1)
    ]
    lost = {"finetuned-10pc-seed1", "from-scratch-all-seed0"}
    said = {name: Said(labels * 0.9, labels, {}) for name in kinds if name not in lost}
    plan = Plan(tiny.run(), [Start("", "", {}, ["runs/a/last"])], [0.1, None], [0, 1], False, True)
    table = compared(plan, {0.1: 9, None: 90}, Classification, said)
    assert table["failed"].tolist() == [1, 0, 0, 1]
    assert table["auroc"].notna().tolist() == [False, True, True, False]
    assert "over" not in table
    assert pictures.finetuned(table, "auroc").startswith(b"\x89PNG")


def test_pretrainings_are_compared_with_the_network_of_theirs_from_scratch(tiny):
    """Two networks, of which the one has two pretrainings, one of them by two seeds."""
    labels = np.arange(40) % 2
    right, wrong, even = labels * 0.9, 0.9 - labels * 0.9, np.full(40, 0.5)
    said = {
        "small-byol-finetuned-all-seed3-start0": right,
        "small-byol-finetuned-all-seed3-start1": wrong,
        "small-twin-finetuned-all-seed3": right,
        "small-from-scratch-all-seed3": even,
        "vit-mae-finetuned-all-seed3": right,
        "vit-from-scratch-all-seed3": wrong,
    }
    starts = [
        Start("small", "small byol", {}, ["runs/a/last", "runs/b/last"]),
        Start("small", "small twin", {}, ["runs/c/last"]),
        Start("vit", "vit mae", {}, ["runs/d/last"]),
    ]
    plan = Plan(tiny.run(), starts, [None], [3], False, True)
    heard = {name: Said(scores, labels, {}) for name, scores in said.items()}
    table = compared(plan, {None: 90}, Classification, heard)
    ours, vits = ["small byol", "small twin"], ["vit mae"]
    assert table["encoder"].tolist() == [
        *(f"{name} finetuned" for name in ours),
        "small from scratch",
        *(f"{name} finetuned" for name in vits),
        "vit from scratch",
    ]
    assert table["trainings"].tolist() == [2, 1, 1, 1, 1]
    np.testing.assert_allclose(table["over"], [0.0, 0.5, np.nan, 1.0, np.nan])
    assert table["over_low"][0] == -0.5, "two seeds that differ"


def test_words_tell_pretrainings_apart(tiny, monkeypatch):
    monkeypatch.setattr(checkpoint.Checkpoint, "weights", property(lambda held: held.address.strip("/")))

    def held(address, by="twin", transform="minmax", **settings):
        run = tiny.run(by, data={"transform": transform}, **settings)
        return checkpoint.Checkpoint(Path(address), address, run, tiny.facts(), {})

    def words(*found):
        return [(start.network, start.word, [*start.checkpoints]) for start in starts(found)]

    first = held("/a")
    wide = held("/c", encoder={"name": "small", "width": 8})
    assert words(first) == [("", "", ["/a"])]
    aside = {"fit": {"report_every": 1}, "scale": {"cpus": 0.5}}
    assert words(first, held("/b", seed=4, **aside)) == [("", "", ["/a", "/b"])], (
        "they differ in their seed alone"
    )
    assert words(first, held("/b", "byol")) == [("", "twin", ["/a"]), ("", "byol", ["/b"])]
    simsiam = held("/b", method={"kind": "simsiam"})
    assert [word for _, word, _ in words(first, simsiam)] == ["twin (kind barlow)", "twin (kind simsiam)"]
    batches = held("/b", scale={"workers": 2}), held("/e", optimizer={"lr": 0.00123456})
    assert [word for _, word, _ in words(*batches)] == [
        "twin (lr 0.001, workers 2)",
        "twin (lr 0.00123, workers 1)",
    ]
    width = first.run.encoder.width
    told = words(first, wide, held("/d", "byol"))
    assert [word for _, word, _ in told] == [
        f"small (width {width}) twin",
        "small (width 8) twin",
        f"small (width {width}) byol",
    ]
    tuned = held("/d", encoder={"name": "small", "width": 8}, optimizer={"lr": 2e-3})
    assert [word for _, word, _ in words(first, tuned)] == [
        f"small (width {width}) twin",
        "small (width 8) twin",
    ]
    for others, said in (
        ([held("/b", transform="asinh")], r"pretrained on images by asinh.*one by one"),
        ([held("/a/")], "/a and /a/ are the same encoder"),
        ([held("/b")], "/a and /b were pretrained alike, both with the seed"),
    ):
        with pytest.raises(ConfigError, match=said):
            starts([first, *others])


def test_a_network_from_scratch_has_no_weights_of_imagenet(tiny):
    start = Start("", "", {"encoder.name": "resnet18", "encoder.pretrained": True}, ["/a"])
    finetuned, scratch = entries(Plan(tiny.run(), [start], [None], [0], False, True))
    assert finetuned.encoder["encoder.pretrained"] is True
    bare = {"encoder.name": "resnet18", "encoder.pretrained": False}
    assert scratch.encoder == {**bare, "method.encoder_rate": 1.0}


def test_what_is_pretrained_may_learn_more_slowly_and_what_is_not_does_not(tiny):
    run = tiny.run(method={"encoder_rate": 0.1})
    start = Start("", "", {"encoder.name": "small", "encoder.width": 4}, ["/a"])
    finetuned, scratch = entries(Plan(run, [start], [None], [0], False, True))
    rates = [_settings(run, entry, None, None, 0).method.encoder_rate for entry in (finetuned, scratch)]
    assert rates == [0.1, 1.0]


@pytest.mark.slow
def test_a_search_of_pretrainings_that_all_collapsed_releases_none_and_says_so(
    ray_cluster, folder, sky, monkeypatch
):
    ordered = choice.ordered

    def collapsed(run, found, *more):
        warned = {"warnings": f"{COLLAPSED}all images have the same features"}
        return ordered(run, [replace(one, metrics={**one.metrics, **warned}) for one in found], *more)

    monkeypatch.setattr(choice, "ordered", collapsed)
    run = config.build(
        {"method.name": "byol", "data.source": sky, "storage": str(folder), "name": "collapsed"},
        {"search.trials": 2, "search.scheduler": "none"},
        TINY,
    )
    with pytest.raises(RuntimeError, match=r"no trial of 2 is released.*2 of 2 trials collapsed: all images"):
        search(run)
    assert not (folder / "collapsed" / "best").exists()
    board = pd.read_csv(folder / "collapsed" / "leaderboard.csv")
    assert board["warnings"].str.contains("not released: it collapsed").all()


@pytest.mark.slow
def test_several_pretrainings_share_one_table(ray_cluster, folder, sky, pretrained, monkeypatch):
    monkeypatch.chdir(folder)  # of relative paths too: trainings run in folders of their own
    run = config.build(
        {"method.name": "twin", "data.source": sky, "storage": str(folder), "name": "beside"}, TINY
    )
    other, again = trained(run), trained(run.replace(name="beside-again", seed=1))
    asked = ["classification", "--labels", "30", "--seeds", "0", "1", "--frozen"]
    asked += ["--fit.steps", "10", "--fit.report_every", "10", "--storage", str(folder), "--name", "table"]
    asked += ["--data.batch", "16", "--scale.gpus", "0"]
    best = verb(["pretrained/last", other, again, *asked])
    table = pd.read_csv(folder / "table" / "finetuned.csv")
    assert table["encoder"].tolist() == [
        "contrastive finetuned",
        "contrastive frozen",
        "twin finetuned",
        "twin frozen",
        "from scratch",
    ]
    assert table["trainings"].tolist() == [2, 2, 4, 4, 2]
    assert checkpoint.read(best).run.start in (pretrained, other, again)
    starts_of = {
        path.name: checkpoint.read(found[-1]).run.start
        for path in (folder / "table" / "trials").iterdir()
        if (found := sorted(path.glob("checkpoint_*")))
    }
    assert starts_of["twin-finetuned-30-seed1-start1"] == again
    assert starts_of["from-scratch-30-seed1"] is None
    assert verb([pretrained, other, again, *asked]) == best
    with pytest.raises(ConfigError, match="is a finetuning of other checkpoints"):
        verb([pretrained, other, *asked])
    half = simulate_substructure("model-i", rows=60, seed=3, out=str(folder / "coarse-sky"), size=16)
    coarse = trained(run.replace(**{"data.source": half, "name": "coarse"}))
    misfit = ["classification", "--data.source", sky, "--storage", str(folder), "--name", "misfit"]
    with pytest.raises(ConfigError, match=r"knows 1 channel\(s\) of 16 x 16"):
        verb([pretrained, coarse, *misfit])
    with pytest.raises(ConfigError, match=r"was pretrained on .* set data\.source"):
        verb([pretrained, coarse, "classification", "--storage", str(folder)])
    assert not (folder / "misfit").exists()


@pytest.mark.parametrize(("text", "found"), [("1%", 0.01), ("10%", 0.1), ("100%", None), ("300", 300.0)])
def test_amounts_of_labels(text, found):
    assert amount(text) == found


@pytest.mark.parametrize("text", ["0%", "101%", "1", "2.5", "some", "-3", "nan", "nan%", "inf", "inf%"])
def test_amounts_that_are_none(text):
    with pytest.raises(ConfigError, match="is no amount"):
        amount(text)


def test_what_cannot_be_finetuned_is_refused(pretrained, sky, folder):
    """Before anything is trained, and before the plan of it is written."""
    bare, numberless = (
        write(folder / "unlabelled", labelled=False),
        write_toy(f"{folder}/numberless", shifted=False),
    )
    for words, said in (
        ([pretrained, "segmentation"], "unknown task 'segmentation'"),
        ([f"{folder}/nowhere", "classification"], "is no checkpoint"),
        ([pretrained, "classification", "--data.labels", "0.1"], "use --seeds and --labels"),
        ([pretrained, "classification", "--labels", "10%", "10%"], "must differ"),
        ([pretrained, "classification", "--seed", "7"], "use --seeds"),
        ([pretrained, "classification", "--data.mode", "streaming"], "keeps its images in memory"),
        ([pretrained, "regression", "--task.target", "redshift"], "no column 'redshift' of numbers"),
        ([pretrained, "classification", "--seeds", "-1"], "--seeds -1 is no seed"),
        ([pretrained, "classification", "--labels", "97"], "has 96 images with labels .* 97 were asked for"),
        ([pretrained, "classification", "--encoder.width", "16"], "encoder.width 16 was given, .* has 8"),
        ([pretrained, "classification", "--start", sky], "start .* leave it out"),
        ([pretrained, "classification", "--data.transform", "asinh"], "has minmax; leave it out"),
        ([pretrained, "classification", "--task", "regression"], "task.name regression was given"),
        ([pretrained, "classification", "--data.test", bare], "no image of the test split of .* has a label"),
        ([pretrained, "regression", "--data.test", numberless], "no column 'log10_mass' to measure on"),
    ):
        with pytest.raises((ConfigError, DataError), match=said):
            verb([*words, "--storage", str(folder), "--name", "refused"])
    assert not (folder / "refused" / "plan.json").exists()


def test_a_pretrained_encoder_has_nothing_to_measure(pretrained, sky):
    with pytest.raises(ConfigError, match="finetune it first"):
        evaluate([pretrained, "--data", sky])


def test_adaptations_learn_no_number(tiny):
    with pytest.raises(ConfigError, match="adda cannot learn the task 'regression'; it can: classification"):
        tiny.run("adda", task={"name": "regression"})


def test_a_regression_adapts_to_no_target(tiny):
    run = tiny.run(task={"name": "regression"}, data={"target": "shards/survey"})
    with pytest.raises(ConfigError, match=r"adapts to none; give data\.test"):
        check(run)
    with pytest.raises(ConfigError, match=r"data\.balance is of classes"):
        check(tiny.run(task={"name": "regression"}, data={"balance": 0.5}))


def test_pretraining_refuses_what_compares_domains_and_what_needs_labels(tiny):
    with pytest.raises(ConfigError, match="compares domains, and byol has one; set it to rankme or probe"):
        check(tiny.run("byol", search={"validator": "snd"}))
    with pytest.raises(ConfigError, match="--oracle reads labels of a target"):
        check(tiny.run("byol", search={"oracle": True}))
    with pytest.raises(ConfigError, match=r"data\.batch is 1, .* set it to 2 at least"):
        check(tiny.run("byol", data={"batch": 1}))
    for given in ({"balance": 0.5}, {"target": "shards/survey"}, {"labels": 0.1}, {"prior": "estimate"}):
        with pytest.raises(ConfigError, match=r"learns from data\.source alone"):
            check(tiny.run("byol", data=given))
    with pytest.raises(
        ConfigError, match=r"supervised needs labels: use raylens\.train; without labels: byol"
    ):
        pretrain(["supervised"])


def test_a_start_of_another_task_gives_its_encoder(tiny, pretrained):
    found = checkpoint.read(pretrained)
    run = config.build(
        {"method.name": "supervised", "start": pretrained}, {"encoder.width": 8, "encoder.features": 16}
    )
    model = checkpoint.start_model(run, found.facts)
    before = found.model().encoder.state_dict()
    assert all(value.equal(before[name]) for name, value in model.encoder.state_dict().items())
    assert model.head.weight.shape == (2, 16)
