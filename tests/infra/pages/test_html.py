"""Building blocks of pages: escaped, self-contained."""

from __future__ import annotations

import base64

import pytest

from vetdino.infra.pages.html import (
    COLORS,
    Cell,
    code_block,
    css_color,
    heading,
    html_document,
    legend,
    paragraph,
    picture,
    table,
)


@pytest.mark.parametrize("block", [heading, paragraph, code_block, lambda text: legend({text: 0})])
def test_markup_in_text_is_escaped(block):
    assert "<b>" not in block('a <b> & "c"')
    assert "&lt;b&gt; &amp;" in block('a <b> & "c"')


def test_text_between_backticks_is_code():
    assert paragraph("run `vetdino app` now", "note") == "<p class=note>run <code>vetdino app</code> now</p>"


def test_a_table_has_a_row_per_row_and_marks_the_summary():
    html = table(["finding", "a"], [["macro", Cell("0.9", "0.8 to 1.0", "better")], ["mass", "x<y"]], 1)
    assert html.count("<tr") == 3
    assert '<tr class="summary"><td>macro</td>' in html
    assert '<td class="number better">0.9 <span class="interval">0.8 to 1.0</span></td>' in html
    assert "<td>x&lt;y</td>" in html


def test_a_table_without_rows_still_has_its_head():
    assert table(["a"], []).count("<th>") == 1


@pytest.mark.parametrize(("encoded", "kind"), [(b"\x89PNG..", "png"), (b"\xff\xd8..", "jpeg")])
def test_a_picture_is_inside_the_page(encoded, kind):
    html = picture(encoded, "a caption")
    assert f'src="data:image/{kind};base64,{base64.b64encode(encoded).decode()}"' in html
    assert "<figcaption>a caption</figcaption>" in html


def test_colors_are_used_in_turn():
    assert css_color(1) == css_color(COLORS + 1) != css_color(2)


def test_a_document_forbids_the_browser_to_fetch_anything():
    html = html_document("a & b", ["<p>body</p>"])
    assert "<title>a &amp; b</title>" in html
    assert "default-src 'none'" in html
    assert "<p>body</p>" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
