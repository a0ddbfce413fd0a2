"""The times of the page: each action is really done, and the gallery really has so many rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.page.__main__ import CHROMIUM, main, result

pytestmark = [
    pytest.mark.slow,
    # gradio and starlette warn about each other's versions while they are imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:starlette"),
]


def test_the_figures_of_one_action():
    found = result("hover", [3.0, 1.0, 2.0])
    assert (found.times, found.p50, found.first) == (3, 2.0, 3.0)


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no chromium here")
def test_a_short_run_does_every_action(tmp_path):
    out = tmp_path / "page.json"
    found = main(["--rows", "500", "--side", "64", "--times", "4", "--json", str(out)])
    assert all(0 < one.p50 <= one.p95 for one in found)
    assert [one["action"].split()[0] for one in json.loads(out.read_text())] == [
        "first",
        "first",
        "hover,",
        "pin",
        "a",
        "a",
        "a",
        "hover,",
    ]
