"""One page on runs, to look at and to hand on: `python -m raylens.report RUNS --out DIR`."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from datetime import UTC, datetime

from raylens import cli, evaluate
from raylens.cluster.folders import write
from raylens.errors import ConfigError


def report(argv: Sequence[str]) -> str:
    """Write report.html, report.md and pictures/ on the runs that `argv` names; returns the page's path."""
    parser = cli.Parser(
        prog="python -m raylens.report",
        usage="python -m raylens.report RUN [RUN ...] --out DIR [--FLAG VALUE ...]",
        description=(
            "One page on searches, trainings, finetunings and benchmarks: what was run on which data, the leaderboard "
            "with intervals, how trials went, what the best model is worth, what it finds and misses and what it looks "
            "at. It reads labels of test splits, as raylens.evaluate does. report.html needs no network; report.md and "
            "pictures/ hold its words, tables and pictures, and not the charts that answer to the mouse."
        ),
        example="python -m raylens.report runs/adda runs/mcc --out page",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, such as runs/<name>")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder or address of the page")
    page = parser.add_argument_group("page")
    page.add_argument("--title", metavar="WORDS", help="headline of the page [names of the runs]")
    page.add_argument("--top", type=int, default=12, metavar="N", help="images in each gallery [12]")
    cli.device(parser.add_argument_group("models"))
    asked = parser.parse_args(argv)
    if asked.top < 1:
        raise ConfigError(f"--top {asked.top} shows no images; give 1 or more")
    from raylens.pages import blocks, parts, runs

    device = evaluate.resolved(asked.device)
    folders = [runs.read(path) for path in asked.runs]
    made = []
    names = [folder.name for folder in folders]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"two runs are called {twice}, and their pictures would be one; make a page for each"
        )
    for number, folder in enumerate(folders, 1):
        print(f"{number}/{len(folders)} {folder.path}: {folder.kind}", flush=True)
        made.append(parts.part(folder, top=asked.top, device=device))
    title = asked.title or "raylens: " + ", ".join(folder.name for folder in folders)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("raylens", "torch", "ray")]
    said = (
        f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by python -m raylens.report, {', '.join(versions)}, "
        f"Python {platform.python_version()}."
    )
    out = asked.out.rstrip("/")
    for picture in blocks.pictures(made):
        write(f"{out}/pictures/{picture.name}.png", picture.png)
    write(f"{out}/report.md", blocks.markdown(title, made, said, page="report.html", pictures="pictures"))
    write(f"{out}/report.html", blocks.html(title, made, said))
    return f"{out}/report.html"


if __name__ == "__main__":
    cli.main(report)
