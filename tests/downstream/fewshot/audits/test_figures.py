"""Figures of the audits: what the drawn axes hold, and that they are PNG."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vetdino.downstream.fewshot.audits import figures
from vetdino.downstream.fewshot.audits.examples import ExtremeExamples, SliceExample
from vetdino.downstream.fewshot.audits.scores import SliceScore


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figure of the last call; rendering is left out."""
    kept = {}

    def keep(figure, title):
        kept["figure"] = figure
        return b"png"

    monkeypatch.setattr(figures, "png_bytes", keep)
    return kept


def line(row: str, organ: str, before: str = "before", **values: float) -> dict[str, object]:
    measures = {"dice": 0.5, "better": 0.25, "worse": 0.125} | values
    ends = {f"{name}_{end}": value for name, value in measures.items() for end in ("low", "high")}
    return {"row": row, "before": before, "organ": organ} | measures | ends


def test_bars_go_up_for_better_and_down_for_worse_slices(drawn):
    figures.harm_bars([line("before", "liver"), line("after", "liver")], "title")
    axes = drawn["figure"].axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == [25.0, -12.5]  # the row `before` has no bars


def test_component_bars_add_up_to_100_percent(drawn):
    counts = [1, 1, 2, 7]
    scores = [SliceScore("truth", 0, "a", "liver", z, n, n, 1, 1, 1, 1.0) for z, n in enumerate(counts)]
    figures.component_bars(scores, ["liver"], "title")
    axes = drawn["figure"].axes[0]
    assert [bar.get_height() for bar in axes.patches] == [50.0, 25.0, 0.0, 25.0]


def test_step_curves_have_a_line_per_organ_and_a_point_per_number_of_steps(drawn):
    summary = [
        line(row, organ, dice=value)
        for row, value in (("before", 0.5), ("10 steps", 0.75))
        for organ in ("liver", "mean")
    ]
    figures.step_curves(summary, {"before": 0, "10 steps": 10}, "title")
    dice, worse = drawn["figure"].axes
    assert [list(curve.get_xdata()) for curve in dice.lines] == [[0, 10]] * 2
    assert [list(curve.get_ydata()) for curve in dice.lines] == [[50.0, 75.0]] * 2
    assert [list(curve.get_ydata()) for curve in worse.lines] == [[12.5, 12.5]] * 2


def test_drift_curves_count_slices_from_one(drawn):
    figures.drift_curves({"no reset": [0.125, 0.25], "2 steps": [0.125]}, "title")
    curves = drawn["figure"].axes[0].lines
    assert [list(curve.get_xdata()) for curve in curves] == [[1, 2], [1]]
    assert list(curves[0].get_ydata()) == [12.5, 25.0]


def test_examples_are_shown_before_and_after_and_none_makes_no_figure():
    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:8] = True
    examples = ExtremeExamples()
    assert figures.example_grid(examples, "title", "note") is None
    examples.add(SliceExample("slice", np.full((16, 16), 90, np.uint8), mask, ~mask, mask, 1.0, 0.0))
    assert figures.example_grid(examples, "title", "note").startswith(b"\x89PNG")


def test_a_missing_interval_is_drawn_without_one():
    lines = [line("after", "liver", better_low=math.nan, better_high=math.nan)]
    assert figures.harm_bars(lines, "title").startswith(b"\x89PNG")
