"""One page on runs, to look at and to hand on: `python -m raylens.report RUNS --out DIR`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from raylens import cli, progress
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
    with progress.counting("reading", 1 + len(asked.runs)) as count:
        from raylens import checkpoint, measure
        from raylens.pages import blocks, parts, runs
        from raylens.storage import write

        device, folders = measure.resolved(asked.device), []
        for path in asked.runs:
            count(1)
            folders.append(runs.read(path))
    names = [folder.name for folder in folders]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"two runs are called {twice}, and their pictures would be one; make a page for each"
        )
    many, made = len(parts.STAGES), []
    with progress.stages(many * len(folders)) as shown:
        for number, folder in enumerate(folders):
            over = {name: many * number + at for at, name in enumerate(parts.STAGES)}
            stage = partial(_stage, shown, folder.name, over)
            made.append(parts.part(folder, top=asked.top, device=device, stage=stage))
    overview = parts.overview(folders, made) if len(folders) > 1 else None
    made = [told for told, _ in made]
    title = asked.title or "raylens: " + ", ".join(folder.name for folder in folders)
    versions = ", ".join(f"{name} {version}" for name, version in checkpoint.versions().items())
    said = f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by python -m raylens.report with {versions}."
    out = asked.out.rstrip("/")
    for picture in blocks.pictures(made):
        write(f"{out}/pictures/{picture.name}.png", picture.png)
    places = {"page": "report.html", "pictures": "pictures"}
    write(f"{out}/report.md", blocks.markdown(title, made, said, overview, **places))
    write(f"{out}/report.html", blocks.html(title, made, said, overview))
    return f"{out}/report.html"


def _stage(shown: Callable[[str, int], object], run: str, over: Mapping[str, int], name: str) -> None:
    shown(f"{run}: {name}", over[name])


if __name__ == "__main__":
    cli.main(report)
