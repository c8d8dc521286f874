"""What a browser makes of a page, on a desk and on a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raylens.report import report

BROWSER = shutil.which("chromium")
REFUSED = "not released: AUROC on the source fell by 0.21 to 0.74, and search.may_lose allows 0.05 at most"
MEASURE = """<script>
addEventListener("load", () => setTimeout(() => {
  const box = (one) => one.getBoundingClientRect(), seen = (one) => box(one).width > 0;
  const pick = (what) => [...document.querySelectorAll(what)].filter(seen);
  parent.postMessage(JSON.stringify({
    width: innerWidth,
    page: document.documentElement.scrollWidth,
    warnings: pick(".warns").filter((one) => one.innerText.includes("not released")).map((one) =>
      [box(one).left, box(one).right, box(one.closest(".wide")).left, box(one.closest(".wide")).right]),
    pictures: pick(".row img, .row .chart, .gallery img").map((one) => [box(one).left, box(one).right]),
    captions: pick("figcaption").map((one) => parseFloat(getComputedStyle(one).fontSize)),
    columns: [".row", ".gallery"].map((what) =>
      getComputedStyle(pick(what)[0]).gridTemplateColumns.split(" ").length),
  }), "*");
}, 500));
</script></body>"""
FRAME = """<!doctype html><body style="margin: 0"><pre id="held"></pre>
<iframe src="page.html" style="border: 0; width: {width}px; height: 900px"></iframe>
<script>addEventListener("message", (one) => {{ document.getElementById("held").textContent = one.data; }});</script>
</body>"""


def measured(page: Path, width: int) -> dict:
    """Sizes, in pixels, of what is in the page in a frame of that `width`; a window cannot be as narrow."""
    text = page.read_text()
    (page.parent / "page.html").write_text(text.replace("</body>", MEASURE))
    frame = page.parent / "frame.html"
    frame.write_text(FRAME.format(width=width))
    asked = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--dump-dom")
    said = subprocess.run(
        [BROWSER, *asked, "--virtual-time-budget=10000", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
    return json.loads(html.unescape(re.search(r'<pre id="held">(.*?)</pre>', said, flags=re.S)[1]))


@pytest.fixture
def page(searched, tmp_path) -> Path:
    """The page on a search with a trial that was refused."""
    out = tmp_path
    folder = shutil.copytree(searched, out / "found")
    table = pd.read_csv(folder / "leaderboard.csv")
    table["source/auroc"], table["agreement"], table["optimizer.lr"] = 0.9, 0.99, np.geomspace(1e-5, 1e-2, 9)
    table["warnings"] = ["", REFUSED] + [""] * 7
    table.loc[1, [name for name in table if "target" in name or "difference" in name]] = table.loc[0]
    table.to_csv(folder / "leaderboard.csv", index=False)
    return Path(report([str(folder), "--out", f"{out}/page", "--top", "4"]))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no chromium on PATH")
def test_all_of_a_page_is_in_sight_on_a_desk_and_on_a_phone(page):
    for width, columns in ((1280, [2, 4]), (390, [1, 2])):
        found = measured(page, width)
        assert found["width"] == width
        assert found["page"] <= width, "the page is wider than the screen"
        assert len(found["warnings"]) == 1, "a warning stands in one place at a time"
        for left, right, begin, end in found["warnings"]:
            assert begin <= left
            assert right <= end, "a warning is out of its frame"
        assert found["columns"] == columns
        assert len(found["pictures"]) == 7 + 2 + 12
        assert all(left >= 0 and right <= width for left, right in found["pictures"])
        assert min(found["captions"]) >= 12
