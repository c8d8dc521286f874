"""What is told of a run in words: losses as plainly as gains."""

from __future__ import annotations

import re
import shlex
import shutil

import pandas as pd
import pytest

from raylens import cli, tables
from raylens.pages import blocks, parts, provenance, runs
from raylens.pages.blocks import Code, Part, Words
from raylens.pages.models import Result


def folder(tmp_path, table: pd.DataFrame) -> str:
    """A benchmark's folder."""
    (tmp_path / "grid.yaml").write_text("methods: [adda, mcc]\n")
    table.to_csv(tmp_path / "table.csv", index=False)
    return str(tmp_path)


def compared() -> pd.DataFrame:
    three = ("auroc", "auroc_low", "auroc_high", "difference", "difference_low", "difference_high")
    rows = {
        "source only": (0.7, 0.6, 0.8),
        "adda": (0.8, 0.7, 0.9, 0.1, 0.05, 0.15),
        "mcc": (0.6, 0.5, 0.7, -0.1, -0.2, 0),
    }
    return pd.DataFrame(
        [
            {"encoder": "small", "method": name, "seeds": 3, **dict(zip(three, row, strict=False))}
            for name, row in rows.items()
        ]
    )


def test_a_benchmark_names_what_is_not_above_source_only(tmp_path):
    made, _ = parts.part(runs.read(folder(tmp_path, compared())), top=1, device="cpu", stage=str)
    above, below = made.summary
    assert above.text == "Above source only, in AUROC: adda +0.100 [+0.050, +0.150] with small."
    assert below.warning
    assert below.text == "Not clearly above source only: mcc -0.100 [-0.200, +0.000] with small."
    assert [section.title for section in made.sections] == ["Methods and encoders", "What was run"]
    matrix, whole = made.sections[0].blocks
    assert [*matrix.table] == ["method", "small"]
    assert [*whole.table][:3] == ["encoder", "method", "seeds"]


def test_a_benchmark_that_runs_still_says_so(tmp_path):
    (tmp_path / "grid.yaml").write_text("methods: [adda]\n")
    made, _ = parts.part(runs.read(str(tmp_path)), top=1, device="cpu", stage=str)
    assert made.summary[0].text == "The benchmark has not ended."


def test_a_benchmark_of_parts_of_the_test_split_tells_of_each(tmp_path):
    there = folder(tmp_path, compared())
    (tmp_path / "table.csv").rename(tmp_path / "table-sample.HST.csv")
    made, _ = parts.part(runs.read(there), top=1, device="cpu", stage=str)
    assert made.summary[0].text.startswith("Above source only on sample.HST, in AUROC: adda +0.100")
    assert made.sections[0].title == "Methods and encoders on sample.HST"


def test_a_leaderboard_is_read_below_its_remark_and_with_signs_in_its_words(tmp_path):
    path = tmp_path / "leaderboard.csv"
    path.write_text("# chosen by labels\ntrial,warnings\nadda,field #3 is empty\n")
    assert runs._table(str(path)).to_dict("records") == [{"trial": "adda", "warnings": "field #3 is empty"}]


@pytest.mark.parametrize(
    "words",
    [
        "tune adda --data.source sim --data.target survey --optimizer.lr 0.001 --target-prior null --oracle",
        "tune adamatch --encoder resnet34 --search.space '{method.weight: {uniform: [1, 2]}}' --data.source 2026-01-01",
        "pretrain mae --encoder vit --encoder.patch 8 --data.source sim --scale.gpus 0.5",
        "train supervised --data.source sim --start runs/a/best --optimizer.betas [0.8,0.9]",
    ],
)
def test_the_command_of_a_page_makes_the_same_run(words):
    verb, *given = shlex.split(words)
    run = cli.run(verb, given)
    made = provenance.command(run, "search" if verb == "tune" else "training")
    python, module, of, *again = shlex.split(made)
    assert (python, module, of) == ("python", "-m", f"raylens.{verb}")
    assert cli.run(verb, again) == run


def test_tables_come_back_from_markdown():
    table = pd.DataFrame({"method": ["adda", "mcc"], "AUROC": ["0.8", ""]})
    pd.testing.assert_frame_equal(parts.of_markdown(tables.markdown(table)), table)


def test_of_a_finetuning_each_amount_of_labels_has_its_sentence(searched):
    found = runs.read(searched)
    rows = [
        {"labels": "10%", "encoder": "finetuned", "auroc": 0.8, "over": -0.02},
        {"labels": "10%", "encoder": "from scratch", "auroc": 0.82},
    ]
    for row in rows:
        row |= {
            f"{name}{end}": row[name]
            for name in ("auroc", "over")
            if name in row
            for end in ("_low", "_high")
        }
    made = runs.Folder(found.path, "finetuning", found.run, "", (), pd.DataFrame(rows), {})
    (said,) = parts._finetuned(made)
    assert (
        said.text
        == "Finetuned on 10% of the labels: AUROC 0.800 [0.800, 0.800], -0.020 [-0.020, -0.020] against from scratch."
    )


def test_of_many_pretrainings_the_best_has_a_sentence(searched):
    found = runs.read(searched)
    kinds = ("byol finetuned", "byol frozen", "twin finetuned", "twin frozen", "from scratch")
    values = {"1%": (0.7, 0.6, 0.75, 0.5, 0.8), "all": (0.9, 0.6, 0.85, 0.5, 0.8)}
    rows = [
        {"labels": amount, "encoder": kind}
        | {f"auroc{end}": value for end in ("", "_low", "_high")}
        | {f"over{end}": value - 0.8 if kind != "from scratch" else None for end in ("", "_low", "_high")}
        for amount, line in values.items()
        for kind, value in zip(kinds, line, strict=True)
    ]
    made = runs.Folder(found.path, "finetuning", found.run, "", (), pd.DataFrame(rows), {})
    few, many = (one.text for one in parts._finetuned(made))
    assert few.startswith("Best of 4 on 1% of the labels: AUROC 0.750")
    assert few.endswith("-0.050 [-0.050, -0.050] against from scratch. It is twin finetuned.")
    assert many.endswith("It is byol finetuned.")


def test_what_is_wrong_with_a_trial_stands_right_after_what_it_is_worth(searched, tmp_path):
    copied = shutil.copytree(searched, tmp_path / "found")
    table = pd.read_csv(copied / "leaderboard.csv")
    refused = "not released: it lost 0.2 of AUROC on the source, and 0.05 may be lost"
    table["optimizer.lr"], table["warnings"] = 1e-3, ["", refused] + [""] * 7
    table.to_csv(copied / "leaderboard.csv", index=False)
    board, settings = parts._leaderboard(runs.read(str(copied)))
    assert [*board.table][:5] == ["", "trial", "test AUROC", "minus source only", "warnings"]
    assert (board.note, board.beside, board.named) == ("warnings", True, "trial")
    assert "optimizer.lr" not in board.table
    assert [*settings.table] == ["", "trial", "optimizer.lr"]
    assert settings.folded
    text = blocks.markdown("Runs", [Part("one", [board, settings])], "", page="", pictures="")
    assert "| test AUROC           | minus source only       | warnings" in text
    assert re.search(r"\| trial +\| optimizer.lr \|", text)


def test_runs_side_by_side_say_what_was_measured_where_and_what_is_wrong(searched, tmp_path):
    found = runs.read(searched)
    warned = Part("found", [Words("The training warned: collapsed.", warning=True), Words("Fine.")])
    measured = Result("auroc", "target", (0.8, 0.75, 0.85), (-0.02, -0.07, 0.03))
    shown = parts.overview([found, found], [(warned, measured), (Part("other", []), None)])
    (facts,) = shown.summary
    first, second = facts.table.to_dict("records")
    assert first == {
        "run": "found",
        "method": "adda",
        "encoder": "small",
        "on the test split": "AUROC 0.800 [0.750, 0.850]",
        "minus source only": "-0.020 [-0.070, +0.030]",
        "test set": "target",
        "remarks": "The training warned: collapsed.",
    }
    assert second["on the test split"] == ""
    page = blocks.html("Runs", [warned], "", shown)
    assert '<a href="#part-1">found</a>' in page
    assert '<div class="note warns">The training warned: collapsed.</div>' in page
    words = blocks.markdown("Runs", [warned], "", shown, page="", pictures="")
    assert "[found](#part-1)" in words
    assert '<a id="part-1"></a>' in words


def test_a_benchmark_beside_others_names_its_methods_and_encoders(tmp_path):
    grid = runs.read(folder(tmp_path, compared()))
    shown = parts.overview([grid], [parts.part(grid, top=1, device="cpu", stage=str)])
    (row,) = shown.summary[0].table.to_dict("records")
    assert row == {"run": grid.name, "method": "adda, mcc", "encoder": "small"}


def test_a_search_has_one_figure_for_what_it_releases(searched, tmp_path):
    again, found = Result("auroc", "other", (0.81, 0.7, 0.9)), runs.read(searched)
    shown = parts._chosen(found, found.checkpoint("best"), again)
    assert shown.data == "target"
    assert shown.value == pytest.approx((0.8, 0.75, 0.85))
    assert shown.difference == pytest.approx((-0.02, -0.07, 0.03))
    copied = shutil.copytree(searched, tmp_path / "found")
    (copied / "leaderboard.csv").unlink()
    assert parts._chosen(runs.read(str(copied)), found.checkpoint("best"), again) == again


def test_no_flag_is_broken_after_its_hyphens():
    page = blocks.html("Runs", [Part("one", [Code("raylens.tune adda --fit.steps '<4>'\n- a-b")])], "")
    assert "<pre>raylens.tune adda <span>--fit.steps</span> &#39;&lt;4&gt;&#39;\n- a-b</pre>" in page
