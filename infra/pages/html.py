"""Building blocks of self-contained HTML pages: document, headings, text, tables, pictures; nothing is fetched."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).parent

CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""Content-Security-Policy: the browser refuses to fetch anything."""

COLORS = 8
"""Colors of curves in page.css, used in turn."""


def html_document(title: str, body: Iterable[str]) -> str:
    """A whole HTML document with its style and script inside."""
    style, script = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        # An empty icon, since a browser would ask for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f"\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading of level 1, 2 or 3."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, css_class: str = "") -> str:
    """A paragraph; text between backticks becomes code."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return f"<p{f' class={css_class}' if css_class else ''}>{marked}</p>"


def code_block(text: str) -> str:
    """Preformatted code."""
    return f"<pre><code>{escape(text)}</code></pre>"


@dataclass(frozen=True, slots=True)
class Cell:
    """A number in a table with its interval. verdict: CSS class `better`, `worse` or none."""

    value: str
    interval: str = ""
    verdict: str = ""


def table(head: Sequence[str], rows: Iterable[Sequence[str | Cell]], summary_rows: int = 0) -> str:
    """A table; the first `summary_rows` rows are set off from the others."""
    lines = [
        '<div class="scroll"><table>',
        f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>",
    ]
    for number, row in enumerate(rows):
        mark = ' class="summary"' if number < summary_rows else ""
        lines.append(f"<tr{mark}>{''.join(map(_cell, row))}</tr>")
    return "\n".join([*lines, "</table></div>"])


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    interval = f' <span class="interval">{escape(cell.interval)}</span>' if cell.interval else ""
    return f'<td class="number {cell.verdict}">{escape(cell.value)}{interval}</td>'


def legend(colors: Mapping[str, int]) -> str:
    """Names of curves in their colors; a click hides or shows a curve in all charts."""
    buttons = [
        f'<button data-name="{escape(name)}" aria-pressed="true">'
        f'<span class="swatch" style="background: {css_color(color)}"></span>{escape(name)}</button>'
        for name, color in colors.items()
    ]
    return f'<div class="legend">{"".join(buttons)}</div>'


def css_color(number: int) -> str:
    """The CSS color of the number-th group."""
    return f"var(--c{number % COLORS})"


def picture(encoded: bytes, caption: str) -> str:
    """A PNG or JPEG inside the page, with its caption."""
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(encoded).decode()
    return (
        f'<figure class="picture"><img alt="{escape(caption)}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
