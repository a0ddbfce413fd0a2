"""The parts of a card as Markdown and as HTML."""

from __future__ import annotations

from vetdino.infra.pages.blocks import CardCode, CardPicture, CardTable, as_html, as_markdown

SECTIONS = {
    "One": ["A paragraph with `code`.", CardTable(["a", "b"], [["1", "x | y"]])],
    "Two": [CardPicture("p.png", b"\x89PNG..", "a caption"), CardCode("line 1\n\nline 2")],
}


def test_an_empty_card_has_its_name_alone():
    assert as_markdown("Card", {}) == "# Card\n"
    assert "<h1>Card</h1>" in as_html("Card", {})


def test_markdown_has_titles_tables_pictures_and_code():
    assert as_markdown("Card", SECTIONS).splitlines() == [
        *("# Card", "", "## One", "", "A paragraph with `code`.", ""),
        *("| a | b |", "| --- | --- |", r"| 1 | x \| y |", ""),
        *("## Two", "", "![a caption](p.png)", "", "    line 1", "", "    line 2"),
    ]


def test_html_has_the_same_parts_with_pictures_inside():
    html = as_html("Card", SECTIONS)
    assert html.index("<h2>One</h2>") < html.index("<h2>Two</h2>")
    for part in ("<code>code</code>", "<td>x | y</td>", 'src="data:image/png', "<pre><code>line 1"):
        assert part in html
