"""Documents that the code can prove: every example in a docstring."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("platform", "pretrain", "downstream", "serving", "infra")
TRAINS = ("vetdino.infra.api", "vetdino.pretrain")
WITH_EXAMPLES = sorted(
    ".".join(("vetdino", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow, pytest.mark.xdist_group("ray")] if name in TRAINS else [])
        for name in ["vetdino", *WITH_EXAMPLES]
    ],
)
def test_the_examples_in_docstrings_come_out_as_printed(name):
    failed, tried = doctest.testmod(import_module(name))
    assert tried
    assert not failed
