"""What a page is made of, and the two ways to write it: one HTML file that needs no network, and Markdown."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import plotly.offline

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
    """A table of texts, the first column the name of a row."""

    table: pd.DataFrame
    caption: str = ""


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

    @property
    def html(self) -> str:
        settings = {"displayModeBar": False, "responsive": True}
        return plotly.io.to_html(self.figure, include_plotlyjs=False, full_html=False, config=settings)


Block = Words | Code | Facts | Picture | Chart


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


def html(title: str, parts: Sequence[Part], made: str) -> str:
    """The page as one file, with all pictures and plotly's JavaScript inside."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    charts = any(isinstance(block, Chart) for part in parts for block in _blocks(part))
    return environment.from_string(TEMPLATE.read_text()).render(
        title=title,
        parts=parts,
        made=made,
        plotly=plotly.offline.get_plotlyjs() if charts else "",
        kind=lambda block: type(block).__name__,
    )


def markdown(title: str, parts: Sequence[Part], made: str, *, page: str, pictures: str) -> str:
    """The page as Markdown; pictures lie in the folder `pictures`, charts in the file `page`."""
    lines = [f"# {title}", ""]
    for part in parts:
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
    return [*part.summary, *(block for section in part.sections for block in section.blocks)]


def _lines(blocks: Sequence[Block], page: str, pictures: str) -> list[str]:
    lines = []
    for block in blocks:
        if isinstance(block, Words):
            lines += [f"**{block.text}**" if block.warning else block.text]
        elif isinstance(block, Code):
            lines += [f"    {line}" for line in block.text.splitlines()]
        elif isinstance(block, Facts):
            lines += [tables.markdown(block.table), block.caption]
        elif isinstance(block, Picture):
            lines += [f"![{block.name}]({pictures}/{block.name}.png)", "", block.caption]
        else:
            lines += [] if block.table is None else [tables.markdown(block.table)]
            lines += [f"*Chart in [{page}]({page}):* {block.caption}"]
        lines += [""]
    return lines
