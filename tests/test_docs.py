"""Documents that the code can prove: every example in a docstring, every flag in the pages."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.infra.commands_in_files import commands_in_blocks, settings_of
from vetdino.infra.reference import variants
from vetdino.infra.settings import settings

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("platform", "pretrain", "downstream", "serving", "infra")
TRAINS = ("vetdino.infra.api", "vetdino.pretrain")
TRAINING = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own, as it builds its data context
]
WITH_EXAMPLES = sorted(
    ".".join(("vetdino", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=TRAINING if name in TRAINS else []) for name in ["vetdino", *WITH_EXAMPLES]],
)
def test_the_examples_in_docstrings_come_out_as_printed(name):
    failed, tried = doctest.testmod(import_module(name))
    assert tried
    assert not failed


FLAGS_OF_OTHERS = {
    "--micro",
    "--stages",
    "--working-dir",
    "--backend-store-uri",
    "--extra",
    "--generate-hashes",
    "--no-annotate",
    "--no-header",
    "--constraints",
    "--target",
}


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs/commands.md"}),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_in_the_documents_is_one_that_our_command_line_takes(page):
    for command in commands_in_blocks(page.read_text(encoding="utf-8")):
        settings_of(command)


def test_commands_are_found_in_the_documents():
    found = [command for page in PAGES for command in commands_in_blocks(page.read_text(encoding="utf-8"))]
    assert len(found) > 80
    assert {" ".join(command.split()[1:2]) for command in found} >= {
        "ingest",
        "pretrain",
        "embed",
        "serve",
        "plan",
    }


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "experiments.md"],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_every_flag_in_the_documents_exists(page):
    known = {
        word.strip(",") for _, command in variants() for s in settings(command) for word in s.flag.split()
    }
    known |= {"--help", "--help-all", "--version"} | FLAGS_OF_OTHERS
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", page.read_text(encoding="utf-8")))
    assert named - known == set()


def test_every_error_in_the_faq_is_one_that_the_code_prints():
    """A heading quotes a message; what stands between its dots is in the source, apart from filled-in values."""
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    source = "\n".join(
        path.read_text(encoding="utf-8") for room in ROOMS for path in (ROOT / room).rglob("*.py")
    )
    constants = {"random:": "{RANDOM}", "timm:": "{TIMM}"}
    quoted = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    assert len(quoted) > 8
    for message in quoted:
        for part in re.split(r"…", message):
            spelled = part
            for text, name in constants.items():
                spelled = spelled.replace(text, name)
            assert part.strip() in source or spelled.strip() in source, (message, part)


def test_every_test_that_the_documents_name_exists():
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"`(test_\w{20,})`", page)}
    assert len(named) > 10
    assert named - defined == set()
