"""Settings as help shows them, compared with tyro's own parser, and the help's form."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro
from tyro.conf import Positional, arg

from vetdino.infra import cli
from vetdino.infra.reference import variants
from vetdino.infra.settings import Setting, help_text, settings, table
from vetdino.platform.core.config import argument_types

VARIANTS = dict(variants())


@dataclass(frozen=True, kw_only=True, slots=True)
class InnerConfig:
    """How the inner part works.

    This second paragraph is not for the help.
    """

    rate: float = 0.5
    """Rate of
    the inner part."""
    places: tuple[str, ...] = ()
    """Where."""


@dataclass(frozen=True, kw_only=True)
class OuterConfig:
    """What the whole does."""

    source: Annotated[Positional[Path], arg(metavar="SRC")]
    """Where it reads."""
    name: Annotated[str, arg(help="Its name.")]
    level: Literal["study", "view"] = "study"
    """What is counted."""
    fast: bool = False
    """Skip checks."""
    limit: int | None = None
    inner: InnerConfig = field(default_factory=InnerConfig)


def test_a_class_without_fields_has_no_settings():
    @dataclass
    class Empty:
        """Nothing."""

    assert settings(Empty) == []


def test_flag_values_default_and_meaning_of_each_kind_of_setting():
    assert settings(OuterConfig) == [
        Setting("source", "SRC", "", None, "Where it reads.", "", positional=True),
        Setting("name", "--name", "STR", None, "Its name.", ""),
        Setting("level", "--level", "{study,view}", "study", "What is counted.", ""),
        Setting("fast", "--fast, --no-fast", "", "False", "Skip checks.", ""),
        Setting("limit", "--limit", "INT|None", "None", "", ""),
        Setting("inner.rate", "--inner.rate", "FLOAT", "0.5", "Rate of the inner part.", "inner"),
        Setting("inner.places", "--inner.places", "STR …", "", "Where.", "inner"),
    ]


def test_the_defaults_of_an_instance_are_its_values():
    outer = OuterConfig(source=Path("a"), name="n", inner=InnerConfig(rate=2.0))
    shown = {setting.path: setting.default for setting in settings(outer)}
    assert (shown["source"], shown["inner.rate"]) == ("a", "2.0")


def test_short_help_has_what_is_required_and_basic_and_counts_the_rest():
    printed = help_text("prog", OuterConfig, ("level",), whole=False, width=80)
    assert printed.splitlines()[0] == "usage: prog SRC --name STR [--setting value …]"
    assert "--level {study,view}" in printed
    assert "--fast" not in printed
    assert printed.splitlines()[-1] == "prog --help-all shows 4 more settings."


def test_whole_help_has_every_group_with_its_purpose():
    printed = help_text("prog", OuterConfig, ("level",), whole=True, width=80)
    assert "\ninner: How the inner part works.\n" in printed
    assert all(setting.flag in printed for setting in settings(OuterConfig))


def test_a_basic_setting_that_does_not_exist_is_our_mistake():
    with pytest.raises(AssertionError, match="levle"):
        help_text("prog", OuterConfig, ("levle",), whole=False, width=80)


@pytest.mark.parametrize("width", [60, 100])
def test_no_line_is_wider_than_asked_and_wrapped_lines_are_full(width):
    """Words run on where a docstring breaks its lines: no wrapped line leaves room for the next word."""
    meaning = "word " * 40
    lines = table([Setting("a", "--a", "INT", "1", meaning.strip(), "")], width)
    assert all(len(line) <= width for line in lines)
    for line, following in pairwise(lines):
        assert len(line) + 1 + len(following.split()[0]) > width


@pytest.mark.parametrize("title", VARIANTS)
def test_the_help_agrees_with_the_parser_of_every_command(title, monkeypatch):
    """tyro's own help of the same class: the same flags, and beside each the same meaning and default."""
    default = VARIANTS[title]
    monkeypatch.setenv("COLUMNS", "100")
    printed = io.StringIO()
    start = {} if isinstance(default, type) else {"default": default}
    cls = default if isinstance(default, type) else type(default)
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        tyro.cli(
            cls, args=["--help"], config=(tyro.conf.AvoidSubcommands,), registry=argument_types(), **start
        )
    parser, shown = printed.getvalue(), settings(default)
    for setting in shown:
        assert squeezed(setting.flag) in squeezed(parser)
        described = f"{setting.meaning} (default: {setting.default})"
        with_default = setting.default and not setting.positional
        assert squeezed(described if with_default else setting.meaning) in squeezed(parser)
    rows = [line.strip("│| ") for line in parser.splitlines()]
    flags = {row.split()[0].strip(",") for row in rows if re.match(r"--[a-z][a-z0-9.-]*[a-z0-9](,| |$)", row)}
    assert flags - {word.strip(",") for setting in shown for word in setting.flag.split()} == set()


def squeezed(text: str) -> str:
    """Letters without the spaces, borders and hyphens that a box and its wrapping add."""
    return re.sub(r"[\s│|─-]", "", text)


@pytest.mark.parametrize("title", VARIANTS)
def test_every_setting_says_what_it_means(title):
    assert [setting.path for setting in settings(VARIANTS[title]) if not setting.meaning] == []


def test_every_command_is_in_the_variants():
    assert {" ".join(title.split()[:2]) for title in VARIANTS} >= {
        name for name in cli.COMMANDS if " " in name
    }
    assert {title.split()[0] for title in VARIANTS} == {name.split()[0] for name in cli.COMMANDS}
