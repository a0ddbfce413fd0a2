"""Documents that the code can prove: the generated reference, and every example in a docstring."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from vetdino.infra.reference import reference

ROOT = Path(__file__).resolve().parent.parent
WITH_EXAMPLES = sorted(
    ".".join(("vetdino", *path.relative_to(ROOT).with_suffix("").parts))
    for room in ("platform", "pretrain", "downstream", "serving", "infra")
    for path in (ROOT / room).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_a_reference_of_nothing_still_lists_the_verbs_settings(tmp_path):
    (tmp_path / "infra").mkdir()
    (tmp_path / "platform").mkdir()
    (tmp_path / "infra" / "verbs.py").write_bytes((ROOT / "infra" / "verbs.py").read_bytes())
    (tmp_path / "platform" / "phantom.py").write_text(
        'class HeartConfig:\n    size: float = 1.5\n    """Times the usual."""\n\n\n'
        'class PhantomConfig:\n    heart: HeartConfig\n    seed: int = 7\n    """Of all chance."""\n'
    )
    page = reference(tmp_path)
    assert "| `OUT` | | Folder to write into. |" in page
    assert "| `--heart.size` | `1.5` | Times the usual. |" in page
    assert "| `--seed` | `7` | Of all chance. |" in page


def test_the_reference_is_what_the_source_says():
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == reference(), "write it anew: .venv/bin/python -m vetdino.infra.reference"


@pytest.mark.parametrize("name", ["vetdino", *WITH_EXAMPLES])
def test_the_examples_in_docstrings_come_out_as_printed(name):
    failed, tried = doctest.testmod(import_module(name))
    assert tried
    assert not failed
