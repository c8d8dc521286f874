"""What `mkdocs build` does beside MkDocs' own work, without the network: formulas, and links out of docs/."""

import html
import re

from latex2mathml.converter import convert

OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+)([^)#]+)(?:#[^)]*)?\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_markdown(markdown: str, page, **_) -> str:
    """A link to a file above docs/, which a repository shows and a site has not, becomes the file's name."""
    depth = page.file.src_uri.count("/")

    def named(link: re.Match) -> str:
        text, up, path = link.groups()
        if up.count("../") <= depth:
            return link[0]
        return f"`{path}`" if text == path else f"{text} (`{path}`)"

    return OUTSIDE.sub(named, markdown)


def on_page_content(content: str, **_) -> str:
    """Formulas become MathML, which browsers draw by themselves."""

    def drawn(found: re.Match) -> str:
        display = "block" if found[2] == "[" else "inline"
        return convert(html.unescape(found[3]).strip(), display=display)

    return FORMULA.sub(drawn, content)
