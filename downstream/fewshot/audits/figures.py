"""Figures of the audits as PNG bytes: slices that get better and worse, components, Dice over steps, weight drift."""

# H, W rows and columns of a slice.

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....platform.measure.plots import COLORS, empty_figure, png_bytes, style_y_axis
from ...common.figures import Tile, grid
from ..figures import paint_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .examples import ExtremeExamples, SliceExample
    from .scores import SliceScore

INK = "#222222"

WORSE_COLOR, BETTER_COLOR = "#c05a00", "#0b62a8"
"""Colors of example slices that get worse and better."""

MOST_COMPONENTS = 4
"""Slices with this many components or more are one group."""


def harm_bars(summary: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Percent of slices that get better (bars up) and worse (down), per row and organ, with 95 % intervals.

    Rows that are compared with themselves are left out.
    """
    lines = [line for line in summary if line["row"] != line["before"]]
    rows = list(dict.fromkeys(line["row"] for line in lines))
    organs = list(dict.fromkeys(line["organ"] for line in lines))
    figure = empty_figure(max(7.0, 1.8 + len(organs) * (0.4 + 0.2 * len(rows))), 4.2)
    axes = figure.subplots()
    width = 0.84 / len(rows)
    for number, row in enumerate(rows):
        by_organ = {line["organ"]: line for line in lines if line["row"] == row}
        x = [place - 0.42 + (number + 0.5) * width for place in range(len(organs))]
        for name, sign, ends, alpha in (
            ("better", 1, ("low", "high"), 0.95),
            ("worse", -1, ("high", "low"), 0.55),
        ):
            axes.bar(
                x,
                [sign * 100 * by_organ[organ][name] for organ in organs],
                width * 0.92,
                yerr=[
                    [100 * abs(by_organ[organ][f"{name}_{end}"] - by_organ[organ][name]) for organ in organs]
                    for end in ends
                ],
                color=COLORS[number % len(COLORS)],
                alpha=alpha,
                error_kw={"lw": 0.8, "capsize": 1.5, "ecolor": INK},
                label=row if sign > 0 else None,
            )
    axes.axhline(0, color=INK, linewidth=0.9)
    axes.set_xticks(range(len(organs)), organs, fontsize=8)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    style_y_axis(axes, "slices, percent: worse below, better above")
    return _with_legend(figure, title)


def component_bars(scores: Sequence[SliceScore], organs: Sequence[str], title: str) -> bytes:
    """Stacked bars: percent of an organ's slices whose true mask has one component, two, and so on."""
    figure = empty_figure(max(5.0, 1.6 + 0.75 * len(organs)), 3.4)
    axes = figure.subplots()
    bottom = np.zeros(len(organs))
    counts = {
        organ: Counter(min(score.true_parts, MOST_COMPONENTS) for score in scores if score.organ == organ)
        for organ in organs
    }
    for number in range(1, MOST_COMPONENTS + 1):
        percent = np.array([100 * counts[organ][number] / max(counts[organ].total(), 1) for organ in organs])
        label = {1: "one part", MOST_COMPONENTS: f"{MOST_COMPONENTS} or more"}.get(number, f"{number} parts")
        axes.bar(range(len(organs)), percent, 0.7, bottom, color=COLORS[number - 1], label=label)
        for place, value in enumerate(percent):
            if value >= 4:
                y = bottom[place] + value / 2
                axes.text(place, y, f"{value:.0f}", ha="center", va="center", fontsize=7, color="white")
        bottom += percent
    axes.set_xticks(range(len(organs)), organs, fontsize=8)
    axes.set_ylim(0, 100)
    style_y_axis(axes, "slices with the organ, percent")
    return _with_legend(figure, title)


def example_grid(examples: ExtremeExamples, title: str, note: str) -> bytes | None:
    """The slices that lose and gain most, before and after; None if no slice changes."""
    rows = []
    for word, color, chosen in (
        ("lost", WORSE_COLOR, examples.losses),
        ("gained", BETTER_COLOR, examples.gains),
    ):
        if chosen:
            rows.append((f"{word} most: before", color, [_tile(one, after=False) for one in chosen]))
            rows.append((f"{word} most: after", color, [_tile(one, after=True) for one in chosen]))
    return grid(title, rows, note, side=2.2) if rows else None


def _tile(example: SliceExample, *, after: bool) -> Tile:
    mask_HW = example.after_HW if after else example.before_HW
    picture = paint_labels(example.image_HW, mask_HW.astype(np.uint8), example.truth_HW.astype(np.uint8))
    dice = f"Dice {100 * (example.after if after else example.before):.1f}"
    return Tile(picture, above=dice if after else f"{example.title}\n{dice}")


def step_curves(summary: Sequence[Mapping[str, Any]], steps: Mapping[str, int], title: str) -> bytes:
    """Dice, and percent of slices worse than before, over training steps: a line per organ, the mean's 95 % interval.

    steps: row -> number of steps. The last organ of the summary is the mean.
    """
    organs = list(dict.fromkeys(line["organ"] for line in summary))
    figure = empty_figure(9.0, 3.8)
    panels = {"dice": "Dice of the measured slices, percent", "worse": "slices worse than before, percent"}
    for axes, (measure, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for number, organ in enumerate(organs):
            by_row = {line["row"]: line for line in summary if line["organ"] == organ}
            lines = [by_row[row] for row in steps]
            is_mean = organ == organs[-1]
            axes.plot(
                list(steps.values()),
                [100 * line[measure] for line in lines],
                color=INK if is_mean else COLORS[number % len(COLORS)],
                marker="o",
                markersize=3,
                linewidth=1.8 if is_mean else 1.0,
                label=organ if measure == "dice" else None,
            )
            if is_mean:
                ends = ([100 * line[f"{measure}_{end}"] for line in lines] for end in ("low", "high"))
                axes.fill_between(list(steps.values()), *ends, color=INK, alpha=0.12, linewidth=0)
        _integer_x_axis(axes, "training steps on the slice")
        style_y_axis(axes, label)
    return _with_legend(figure, title)


def drift_curves(drifts: Mapping[str, Sequence[float]], title: str) -> bytes:
    """Weight drift in percent after each slice of a fold, in the order of processing; a line per row."""
    figure = empty_figure(7.0, 3.4)
    axes = figure.subplots()
    for number, (row, values) in enumerate(drifts.items()):
        axes.plot(
            range(1, len(values) + 1), [100 * value for value in values], color=COLORS[number], label=row
        )
    _integer_x_axis(axes, "slices processed so far")
    axes.set_ylim(bottom=0)
    style_y_axis(axes, "change of the weights / their length, percent")
    return _with_legend(figure, title)


def _integer_x_axis(axes: Axes, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(label, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(axis="x", labelsize=7)


def _with_legend(figure: Figure, title: str) -> bytes:
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return png_bytes(figure, title)
