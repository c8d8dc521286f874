"""A page on runs: whole, by itself, and honest about what was lost."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from raylens import checkpoint, config
from raylens.errors import ConfigError
from raylens.report import report

pytestmark = pytest.mark.usefixtures("one_thread")
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
    assert len(named) == 7  # of the evaluation four, and three galleries
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
