"""What is told of a run in words: losses as plainly as gains."""

from __future__ import annotations

import shlex

import pandas as pd
import pytest

from raylens import cli, tables
from raylens.pages import parts, provenance, runs


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
    made = parts.part(runs.read(folder(tmp_path, compared())), top=1, device="cpu")
    above, below = made.summary
    assert above.text == "Above source only, in AUROC: adda +0.100 [+0.050, +0.150] with small."
    assert below.warning
    assert below.text == "Not clearly above source only: mcc -0.100 [-0.200, +0.000] with small."
    assert [section.title for section in made.sections] == ["Methods and encoders", "What was run"]


def test_a_benchmark_that_runs_still_says_so(tmp_path):
    (tmp_path / "grid.yaml").write_text("methods: [adda]\n")
    made = parts.part(runs.read(str(tmp_path)), top=1, device="cpu")
    assert made.summary[0].text == "The benchmark has not ended."


def test_a_benchmark_of_parts_of_the_test_split_tells_of_each(tmp_path):
    there = folder(tmp_path, compared())
    (tmp_path / "table.csv").rename(tmp_path / "table-sample.HST.csv")
    made = parts.part(runs.read(there), top=1, device="cpu")
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
