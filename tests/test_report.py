"""A page on runs: whole, by itself, and honest about what was lost."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from raylens import checkpoint, config, optim
from raylens.cluster import worker
from raylens.data import sets
from raylens.data.shards import ShardWriter
from raylens.errors import ConfigError
from raylens.report import report

SECTIONS = (
    "What was run",
    "Leaderboard",
    "How it went",
    "What mattered",
    "Measured on the test split",
    "Scores",
    "Features",
    "Likeliest lens",
    "Nearest to an error: nonlens",
    "Worst errors: lens taken for nonlens",
)


def test_a_page_has_all_of_it_and_needs_no_network(searched, tmp_path):
    page = report([searched, "--out", f"{tmp_path}/page", "--top", "4"])
    assert page == f"{tmp_path}/page/report.html"
    text = Path(page).read_text()
    for title in SECTIONS:
        assert f">{title}</h3>" in text, title
    body = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", body)
    assert "AUROC 0.800 [0.750, 0.850]" in body
    assert "That is not clearly above the model that was never adapted." in body


def test_the_markdown_has_its_pictures_beside_it(searched, tmp_path):
    report([searched, "--out", str(tmp_path), "--top", "4", "--title", "Lenses"])
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# Lenses\n")
    named = re.findall(r"\]\((pictures/[^)]+)\)", text)
    assert len(named) == 19  # of the evaluation seven, and three galleries
    assert len(set(named)) == 19
    assert all((tmp_path / name).is_file() for name in named)


def test_a_run_whose_images_have_gone_is_still_told(searched, toy_sets, tmp_path):
    copied = shutil.copytree(searched, tmp_path / "found")
    for name in ("run.yaml", "best/run.yaml", "start/run.yaml"):
        text = (copied / name).read_text()
        (copied / name).write_text(text.replace(toy_sets["data.target"], f"{tmp_path}/gone"))
    text = Path(report([str(copied), "--out", f"{tmp_path}/page"])).read_text()
    assert "gone" in text
    assert ">Leaderboard</h3>" in text
    assert ">Worst errors" not in text


@pytest.mark.parametrize("there", [True, False])
def test_a_start_that_was_given_is_told_while_it_is_there(searched, tmp_path, there):
    copied = shutil.copytree(searched, tmp_path / "found")
    start = shutil.move(copied / "start", tmp_path / "given")
    run = checkpoint.read(copied / "best").run.replace(start=str(start))
    (copied / "best" / "run.yaml").write_text(config.dump(run))
    if not there:
        shutil.rmtree(start)
    text = Path(report([str(copied), "--out", f"{tmp_path}/page", "--top", "1"])).read_text()
    assert ("before adaptation" in text) == there
    assert ">Worst errors" in text


def test_a_gallery_that_cannot_be_drawn_leaves_the_rest(searched, tmp_path, monkeypatch):
    def maps(*_, **__):
        raise ConfigError("encoder 'xcit' pools tokens, not maps")

    monkeypatch.setattr("raylens.saliency.maps", maps)
    text = Path(report([searched, "--out", f"{tmp_path}/page", "--top", "1"])).read_text()
    assert ">Features</h3>" in text
    assert "pools tokens" in text


def test_what_is_no_run_leaves_no_page(tmp_path):
    with pytest.raises(ConfigError, match="is no run"):
        report([str(tmp_path), "--out", f"{tmp_path}/page"])
    assert not (tmp_path / "page").exists()
    with pytest.raises(ConfigError, match="--top 0 shows no images"):
        report([str(tmp_path), "--out", f"{tmp_path}/page", "--top", "0"])


CLASSES = ("no_sub", "cdm", "axion")
REPORTED = {
    "supervised": {"objective": 0.9, "source/auroc": 0.9},
    "mae": {"objective": 3.0, "source/rankme": 3.0, "source/probe": 0.6, "source/spread": 0.5},
}


@pytest.fixture(scope="module")
def sky(tmp_path_factory) -> str:
    """A set of three classes, whose images have a mass and a twin of twice the resolution."""
    out, rng = str(tmp_path_factory.mktemp("sky") / "sky"), np.random.default_rng(0)
    with ShardWriter(out, name="sky", bands=("i",), classes=CLASSES, made={"command": "make sky"}) as writer:
        for split, rows in (("train", 24), ("val", 12), ("test", 18)):
            high = gaussian_filter(rng.random((rows, 1, 64, 64)), (0, 0, 2, 2)).astype(np.float32)
            columns = {"log10_mass": rng.uniform(-24, -22, rows), "high": high}
            ids = [f"{split}-{row}" for row in range(rows)]
            writer.add(split, high[..., ::2, ::2], np.arange(rows) % 3, ids, columns)
    return out


@pytest.fixture
def trained(tiny, sky, tmp_path):
    """Writes the folder of a training as if it had run."""

    def write(method="supervised", /, reports=2, **sections) -> str:
        run = tiny.run(method, data={"source": sky, "test": sky}, name="one", **sections)
        folder = tmp_path / "one"
        (folder / "workers").mkdir(parents=True)
        (folder / "run.yaml").write_text(config.dump(run))
        facts = sets.facts(run, ("source",), test=True)
        held = {**REPORTED["mae" if method == "mae" else "supervised"], "warnings": ""}
        made = worker.build(run, facts)
        state = {"method": made, "optimizer": optim.build(run.optimizer, made.groups())}
        checkpoint.save(folder / "last", run, facts, made.result, held, step=4, **state)
        lines = [json.dumps({"step": 2 * (at + 1), **held}) for at in range(reports)]
        (folder / "workers" / "reports.jsonl").write_text("\n".join(lines))
        return str(folder)

    return write


def page(folder: str, tmp_path: Path) -> tuple[str, str]:
    """The page on a run, without its scripts, and its Markdown."""
    made = Path(report([folder, "--out", f"{tmp_path}/page", "--top", "3"]))
    text = re.sub(r"<script.*?</script>", "", made.read_text(), flags=re.S)
    assert 'class="warning"' not in text
    text = re.sub("</?span>", "", text)  # of flags, which are not broken
    return text, made.with_suffix(".md").read_text()


def titles(text: str) -> list[str]:
    return re.findall(r"^### (.*)$", text, flags=re.M)


ALWAYS = ["How it went", "What was run"]


@pytest.mark.parametrize(
    ("method", "sections", "expected", "said"),
    [
        (
            "supervised",
            {},
            ["Measured on the test split", "Scores", "Features", "Likeliest axion", "Worst errors"],
            "auroc of cdm",
        ),
        ("supervised", {"task": {"name": "regression"}}, ["Measured on the test split"], "one-scatter"),
        (
            "supervised",
            {"task": {"name": "super-resolution", "width": 4, "blocks": 1}},
            ["Measured on the test split"],
            "one-images",
        ),
        (
            "mae",
            {"encoder": {"name": "vit", "patch": 8, "features": 16, "depth": 1, "heads": 2}},
            ["Reconstruction", "Features"],
            "Its features fill 3.0 dimensions",
        ),
    ],
)
def test_a_training_of_each_task_has_its_page(trained, tmp_path, method, sections, expected, said):
    text, words = page(trained(method, **sections), tmp_path)
    assert titles(words) == ["Last report", *expected, *ALWAYS]
    assert said in words
    assert "make sky" in text
    assert f"raylens.{'pretrain' if method == 'mae' else 'train'} {method}" in text
    assert "lenses" not in words, "no class is called so"


def test_a_finetuning_tells_its_table_and_what_repeats_it(trained, tmp_path):
    folder = Path(trained())
    (folder / "last").rename(folder / "best")
    shutil.rmtree(folder / "workers")
    asked = {"labels": [0.25, None], "seeds": [0, 1], "frozen": True, "scratch": False}
    (folder / "plan.json").write_text(json.dumps(asked))
    run = checkpoint.read(folder / "best").run.replace(start="runs/before/last")
    (folder / "run.yaml").write_text(config.dump(run))
    rows = [("25%", 6, "finetuned", 2, 0.8, 0.7, 0.9)]
    table = pd.DataFrame(
        rows, columns=["labels", "images", "encoder", "trainings", "auroc", "auroc_low", "auroc_high"]
    )
    table.to_csv(folder / "finetuned.csv", index=False)
    (folder / "finetuned.md").write_text("| labels | test AUROC |\n| - | - |\n| 25% | 0.8 |\n")
    text, words = page(str(folder), tmp_path)
    assert titles(words)[:2] == ["Labels and starts", "Measured on the test split"]
    assert "| 25%    | 0.8        |" in words
    assert (
        "raylens.finetune runs/before/last classification --labels 25% 100% --seeds 0 1 --frozen --no-scratch"
    ) in text


def test_a_benchmark_tells_what_it_released_and_on_which_images(trained, tmp_path):
    cell = trained()
    folder = tmp_path / "grid"
    folder.mkdir()
    (folder / "grid.yaml").write_text("methods: [adda]\n")
    row = {"method": "adda", "encoder": "small", "seed": 0, "released": True, "checkpoint": f"{cell}/last"}
    pd.DataFrame([row, row | {"seed": 1, "released": False, "checkpoint": f"{tmp_path}/gone"}]).to_csv(
        folder / "trials.csv", index=False
    )
    three = {"auroc": 0.8, "auroc_low": 0.7, "auroc_high": 0.9}
    first = {"encoder": "small", "method": "source only", "seeds": 1, **three}
    over = {"difference": 0.1, "difference_low": 0.05, "difference_high": 0.2}
    pd.DataFrame([first, first | {"method": "adda"} | over]).to_csv(folder / "table.csv", index=False)
    _, words = page(str(folder), tmp_path)
    assert titles(words) == ["Methods and encoders", "What is released", "What was run"]
    assert f"{cell}/last" in words
    assert "gone" not in words
    assert "raylens.benchmark --from" in words
    assert "make sky" in words
    assert re.search(r"\| source +\| sky +\| train 24, val 12, test 18 \|", words)
    assert "Trained with raylens" in words


def test_a_split_that_is_not_there_leaves_the_others(searched, toy_sets, tmp_path):
    copied = shutil.copytree(searched, tmp_path / "found")
    source = shutil.copytree(toy_sets["data.source"], tmp_path / "source")
    manifest = json.loads((source / "manifest.json").read_text())
    del manifest["splits"]["val"]
    (source / "manifest.json").write_text(json.dumps(manifest))
    for name in ("run.yaml", "best/run.yaml", "start/run.yaml"):
        text = (copied / name).read_text()
        (copied / name).write_text(text.replace(toy_sets["data.source"], str(source)))
    text = Path(report([str(copied), "--out", f"{tmp_path}/page", "--top", "1"])).read_text()
    assert "has no split &#39;val&#39;" in text
    for title in ("Scores", "Features", "Likeliest lens", "Measured on the test split"):
        assert f">{title}</h3>" in text


def test_charts_leave_their_numbers_in_markdown(searched, tmp_path):
    report([searched, "--out", str(tmp_path), "--top", "1"])
    text = (tmp_path / "report.md").read_text()
    assert re.search(r"\| adda-00007 \| stopped early \| 2 +\|", text)
    assert "RuntimeError: out of memory" in text
    assert re.search(r"\| optimizer.lr \| 1.00 \[", text)
    assert re.search(r"\| after +\| target lens +\| 49 ", text)


def test_a_run_that_has_not_ended_tells_its_data(trained, tmp_path):
    folder = Path(trained())
    shutil.rmtree(folder / "last")
    text = Path(report([str(folder), "--out", f"{tmp_path}/page"])).read_text()
    assert "The run has not ended" in text
    assert "make sky" in text


def test_a_collapse_is_told_first(trained, tmp_path):
    folder = Path(trained())
    held = json.loads((folder / "last" / "metrics.json").read_text())
    (folder / "last" / "metrics.json").write_text(json.dumps(held | {"warnings": "collapsed: all alike"}))
    text = Path(report([str(folder), "--out", f"{tmp_path}/page", "--top", "1"])).read_text()
    assert '<p class="warning">The training warned: collapsed: all alike.</p>' in text


@pytest.mark.parametrize(
    ("best", "said"),
    [
        (True, "the model is the one that all started from"),
        (False, "No trial may be released, and there is no model that they started from"),
    ],
)
def test_a_search_that_released_nothing_is_told_from_one_that_goes_on(searched, tmp_path, best, said):
    copied = Path(shutil.copytree(searched, tmp_path / "found"))
    table = pd.read_csv(copied / "leaderboard.csv").assign(warnings="not released: it collapsed")
    table.to_csv(copied / "leaderboard.csv", index=False)
    if not best:
        shutil.rmtree(copied / "best")
    text = Path(report([str(copied), "--out", f"{tmp_path}/page", "--top", "1"])).read_text()
    assert said in text
    assert "The run has not ended" not in text


def test_what_takes_a_while_says_how_far_it_is(searched, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("raylens.progress.FIRST", 0.0)
    monkeypatch.setattr("raylens.progress.EVERY", 0.0)
    report([searched, "--out", str(tmp_path), "--top", "1"])
    said = capsys.readouterr().err
    assert "reading 1/2" in said
    for at, stage in enumerate(("measures", "scores", "features", "galleries", "what mattered")):
        assert f"found: {stage} {at}/5" in said
    assert "found: features 2/5, 0:" in said, "and the time that is left"
    assert "t-SNE 1/2" in said


def test_two_runs_are_laid_side_by_side_first(searched, trained, tmp_path):
    made = Path(report([searched, trained(), "--out", f"{tmp_path}/page", "--top", "1"]))
    words = made.with_suffix(".md").read_text()
    assert re.findall(r"^## (.*)$", words, flags=re.M)[0] == "Side by side"
    rows = re.findall(r"^\| \[(?:found|one)\].*$", words, flags=re.M)
    assert "| AUROC 0.800 [0.750, 0.850] | -0.020 [-0.070, +0.030] | target" in rows[0]
    assert re.search(r"\| AUROC 0\.\d{3} \[.*sky", rows[1])
    assert "Test sets differ" in words
