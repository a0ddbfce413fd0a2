"""The page of commands, compared with what a person sees in the terminal."""

from __future__ import annotations

import re

import pytest

from vetdino.infra import cli
from vetdino.infra.reference import PAGE, reference, row, variants
from vetdino.infra.settings import Setting


def test_a_row_is_valid_markdown_whatever_it_holds():
    setting = Setting("a.b", "--a.b", "INT|None", "", "One | two.", "a")
    assert row(setting) == "| `--a.b` | `INT\\|None` | none | One \\| two. |"


def test_the_page_is_the_newest():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run .venv/bin/python -m vetdino.infra.reference"


@pytest.mark.parametrize("title", [title for title, _ in variants()])
def test_the_page_says_what_help_all_prints(title, capsys):
    """Every row of the page is in the help that a person sees, and every flag of that help is on the page."""
    words = [word for word in title.split() if word.islower() or word == "--kind"]
    assert cli.main([*words, *["small"] * title.endswith(" RECIPE"), "--help-all"]) == 0
    printed = capsys.readouterr().out
    joined = " ".join(printed.split())
    rows = rows_of(title)
    for flag, values, default, meaning in rows:
        assert f"{flag} {values}".strip() in joined
        assert meaning in joined
        if flag.startswith("--"):
            assert f"{meaning} ({default if default == 'required' else f'default: {default}'})" in joined
    flags = {line.split()[0].strip(",") for line in printed.splitlines() if line.startswith("  --")}
    assert flags == {flag.split(",")[0] for flag, *_ in rows if flag.startswith("--")}


def rows_of(title: str) -> list[list[str]]:
    """Cells of the rows below a command's heading, without their Markdown."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## vetdino {title}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    plain = [[cell.strip().replace("\\|", "|") for cell in line] for line in cells]
    return [[*(cell.strip("`") for cell in line[:3]), line[3]] for line in plain]
