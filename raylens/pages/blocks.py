"""What a page is made of, and the two ways to write it: one HTML file that needs no network, and Markdown."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import plotly.offline
from markupsafe import Markup, escape

from raylens import tables

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Words:
    """A paragraph; as a warning it stands out."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Code:
    """Lines to type."""

    text: str


@dataclass(frozen=True)
class Facts:
    """A table of texts, its first column with a title the names of the rows."""

    table: pd.DataFrame
    caption: str = ""
    note: str = ""
    """The column that stands below the names instead, if there is one."""
    beside: bool = False
    """Whether it does so on narrow screens only."""
    folded: str = ""
    """What opens the table, which is hidden until then; it is in sight without."""
    links: Sequence[str] = ()
    """Where the names lead, a row each; nowhere without."""

    @property
    def named(self) -> str:
        """The column of the names."""
        return next(name for name in self.table if name)


@dataclass(frozen=True)
class Picture:
    """A PNG, under a file name without its end."""

    name: str
    png: bytes
    caption: str

    @property
    def address(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Chart:
    """A figure that answers to the mouse, and a table of what it shows, which stands for it in Markdown."""

    figure: go.Figure
    caption: str
    table: pd.DataFrame | None = None
    least: int = 0
    """Pixels in width that it needs."""

    @property
    def html(self) -> str:
        settings = {"displayModeBar": False, "responsive": True}
        return plotly.io.to_html(self.figure, include_plotlyjs=False, full_html=False, config=settings)


@dataclass(frozen=True)
class Row:
    """Pictures, or charts, side by side; where there is no room, one below the other."""

    blocks: Sequence[Picture] | Sequence[Chart]
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Small pictures, whose captions are their labels, in as many columns as there is room for."""

    pictures: Sequence[Picture]
    caption: str


Block = Words | Code | Facts | Picture | Chart | Row | Gallery


@dataclass(frozen=True)
class Section:
    """A title with blocks below it; without blocks it is left out."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Part:
    """All that is told of one run."""

    title: str
    summary: Sequence[Block]
    sections: Sequence[Section] = field(default_factory=tuple)


def html(title: str, parts: Sequence[Part], made: str, overview: Part | None = None) -> str:
    """The page as one file, with all pictures and plotly's JavaScript inside; `overview` comes before all parts."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"whole": _whole, "words": _words}
    charts = any(isinstance(block, Chart) for part in parts for block in _blocks(part))
    return environment.from_string(TEMPLATE.read_text()).render(
        title=title,
        parts=parts,
        overview=overview,
        made=made,
        plotly=plotly.offline.get_plotlyjs() if charts else "",
        kind=lambda block: type(block).__name__,
    )


def markdown(
    title: str,
    parts: Sequence[Part],
    made: str,
    overview: Part | None = None,
    *,
    page: str,
    pictures: str,
) -> str:
    """The page as Markdown; pictures lie in the folder `pictures`, charts in the file `page`."""
    lines = [f"# {title}", ""]
    if overview:
        lines += [f"## {overview.title}", "", *_lines(overview.summary, page, pictures)]
    for number, part in enumerate(parts, 1):
        lines += [f'<a id="part-{number}"></a>', ""] if overview else []
        lines += [f"## {part.title}", "", *_lines(part.summary, page, pictures)]
        for section in part.sections:
            if section.blocks:
                lines += [f"### {section.title}", "", *_lines(section.blocks, page, pictures)]
    return "\n".join([*lines, "---", "", made, ""])


def pictures(parts: Sequence[Part]) -> list[Picture]:
    """All of a page's."""
    return [block for part in parts for block in _blocks(part) if isinstance(block, Picture)]


def worded(value: Any) -> str:
    """A cell of a table: nothing for None and NaN, numbers to four digits."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return f"{value:.0f}" if whole else f"{value:.4g}" if isinstance(value, float) else str(value)


def _blocks(part: Part) -> list[Block]:
    """All of a part's, those in rows and galleries by themselves."""
    found: list[Block] = []
    for block in (*part.summary, *(block for section in part.sections for block in section.blocks)):
        inner = block.blocks if isinstance(block, Row) else getattr(block, "pictures", [block])
        found += inner
    return found


def _whole(cell: Any) -> str:
    """A cell in which no interval is broken in two."""
    return re.sub(r"\[[^\[\]]*\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), str(cell))


def _lines(blocks: Sequence[Block], page: str, pictures: str) -> list[str]:
    lines = []
    for block in blocks:
        if isinstance(block, Words):
            lines += [f"**{block.text}**" if block.warning else block.text]
        elif isinstance(block, Code):
            lines += [f"    {line}" for line in block.text.splitlines()]
        elif isinstance(block, Facts):
            lines += [tables.markdown(_linked(block)), block.caption or block.folded]
        elif isinstance(block, Picture):
            lines += [f"![{block.name}]({pictures}/{block.name}.png)", "", block.caption]
        elif isinstance(block, Row):
            images = [one for one in block.blocks if isinstance(one, Picture)]
            lines += [f"![{one.name}]({pictures}/{one.name}.png)" for one in images]
            lines += ["", block.caption] if images else [f"*Charts in [{page}]({page}):* {block.caption}"]
        elif isinstance(block, Gallery):
            lines += [_shown(block, pictures), block.caption]
        else:
            lines += [] if block.table is None else [tables.markdown(block.table)]
            lines += [f"*Chart in [{page}]({page}):* {block.caption}"]
        lines += [""]
    return lines


def _words(text: str) -> Markup:
    """Lines to type in which no flag is broken after its hyphens."""
    return Markup(re.sub(r"(?<!\S)-\S+", r"<span>\g<0></span>", str(escape(text))))


def _linked(block: Facts) -> pd.DataFrame:
    """The table of `block` for Markdown."""
    table = block.table.astype(str).map(lambda cell: cell.replace("|", "\\|").replace("\n", "<br>"))
    if block.links:
        pairs = zip(table[block.named], block.links, strict=True)
        table[block.named] = [f"[{name}]({link})" if link else name for name, link in pairs]
    return table


def _shown(block: Gallery, pictures: str, columns: int = 4) -> str:
    """A table of pictures over their labels."""
    cells = [
        f"![{one.name}]({pictures}/{one.name}.png)<br>" + "<br>".join(one.caption.splitlines())
        for one in block.pictures
    ]
    rows = [cells[at : at + columns] for at in range(0, len(cells), columns)]
    rows = [row + [""] * (len(rows[0]) - len(row)) for row in rows]
    return tables.markdown(pd.DataFrame(rows, columns=[" " * (at + 1) for at in range(len(rows[0]))]))
