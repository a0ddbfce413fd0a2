"""The parts of a model card, as Markdown and as HTML: text, tables, pictures, code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .html import code_block, heading, html_document, paragraph, picture, table


@dataclass(frozen=True, slots=True)
class CardTable:
    """Column names and rows of text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, eq=False)
class CardPicture:
    """A PNG or JPEG with its file name and caption."""

    name: str
    encoded: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class CardCode:
    """Preformatted code."""

    text: str


Block = str | CardTable | CardPicture | CardCode
"""A str is a paragraph; text between backticks is code."""


def as_markdown(name: str, sections: Mapping[str, Sequence[Block]]) -> str:
    """The card as Markdown; pictures are files beside it."""
    lines = [f"# {name}"]
    for title, blocks in sections.items():
        lines += ["", f"## {title}"]
        for block in blocks:
            lines += ["", _markdown(block)]
    return "\n".join(lines) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, CardTable):
        rows = [block.head, ["---"] * len(block.head), *block.rows]
        escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in escaped)
    if isinstance(block, CardPicture):
        return f"![{block.caption}]({block.name})"
    if isinstance(block, CardCode):
        return "\n".join(f"    {line}".rstrip() for line in block.text.splitlines())
    return block


def as_html(name: str, sections: Mapping[str, Sequence[Block]]) -> str:
    """The card as one HTML document with its pictures inside."""
    body = [heading(name, 1)]
    for title, blocks in sections.items():
        body += [heading(title), *map(_html, blocks)]
    return html_document(name, body)


def _html(block: Block) -> str:
    if isinstance(block, CardTable):
        return table(block.head, block.rows)
    if isinstance(block, CardPicture):
        return picture(block.encoded, block.caption)
    if isinstance(block, CardCode):
        return code_block(block.text)
    return paragraph(block)
