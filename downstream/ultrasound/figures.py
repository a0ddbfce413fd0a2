"""Plots of zero-shot experiments as PNG bytes: bars, curves, projections. A domain has one color in all of them."""

# P patches of all frames.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...platform.measure.plots import empty_figure, png_bytes, style_y_axis
from ..common.figures import colors_by_name, fold_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHER_COLOR = "#9a9a9a"
"""Color of patches that are not bone."""

MARKERS = {
    "mean_vote": "s",
    "tokencut": "D",
    "oracle": "^",
    "random": "x",
    "random_oracle": "v",
    "mean_mask": "+",
    "everything": "_",
}
"""Row of a table -> its marker above a bar."""

ROW_LABELS = {
    "cosegment": "co-segmentation",
    "mean_vote": "seed paper's vote",
    "tokencut": "TokenCut",
    "oracle": "oracle (clusters by truth)",
    "random": "random weights",
    "random_oracle": "random weights, oracle",
    "mean_mask": "mean mask of the others",
    "everything": "everything foreground",
}
"""Row of a table -> its name in a figure."""

GROUPS_PER_LINE = 7
"""Most groups of bars side by side."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: a value, its standard deviation, values of other rows as markers, and the domain that colors it."""

    group: str
    domain: str
    value: float
    std: float
    marks: Mapping[str, float]
    pale: bool = False


def bars(title: str, ylabel: str, bars: Sequence[Bar], note: str = "") -> bytes:
    """Bars in groups, several groups a line; standard deviations as lines, baselines and oracle as markers."""
    groups = list(dict.fromkeys(bar.group for bar in bars))
    colors = colors_by_name({bar.domain for bar in bars})
    largest_group = max(sum(bar.group == group for bar in bars) for group in groups)
    columns = min(GROUPS_PER_LINE, len(groups))
    lines = math.ceil(len(groups) / columns)
    canvas = empty_figure(max(7.0, 1.2 + columns * (0.35 + 0.24 * largest_group)), 1.0 + 3.6 * lines)
    in_legend: set[str] = set()
    for line, axes in enumerate(canvas.subplots(lines, squeeze=False)[:, 0]):
        line_groups = groups[line * columns : (line + 1) * columns]
        for number, group in enumerate(line_groups):
            members = [bar for bar in bars if bar.group == group]
            width = 0.84 / len(members)
            for place, bar in enumerate(members):
                x = number - 0.42 + (place + 0.5) * width
                _draw_bar(axes, x, width, bar, colors[bar.domain], in_legend)
        axes.set_xticks(range(len(line_groups)), [fold_name(group) for group in line_groups], fontsize=8)
        axes.tick_params(axis="x", length=0, pad=20)
        axes.set_xlim(-0.6, columns - 0.4)
        axes.set_ylim(0, 1)
        style_y_axis(axes, ylabel)
    canvas.legend(loc="outside right upper", fontsize=7, frameon=False)
    return png_bytes(canvas, title, note)


def curves(
    title: str, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], xlabel: str, ylabel: str
) -> bytes:
    """Panels side by side, four in a line; in each a curve of (x, y), y from 0 to 1, for each name."""
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    colors = colors_by_name(names)
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    canvas = empty_figure(max(6.0, 2.7 * columns + 1.6), 2.5 * lines + 0.9)
    all_axes = canvas.subplots(lines, columns, squeeze=False).ravel()
    for axes in all_axes[len(panels) :]:
        axes.axis("off")
    for axes, (panel, by_name) in zip(all_axes, panels.items(), strict=False):
        for name, points in by_name.items():
            axes.plot(*zip(*points, strict=True), color=colors[name], marker="o", markersize=2.5, lw=1.2)
        if all(float(x).is_integer() for points in by_name.values() for x, _ in points):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(panel, fontsize=8)
        axes.set_xlabel(xlabel, fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_ylim(-0.03, 1)  # so that a curve along 0 is visible
        style_y_axis(axes, ylabel)
    _add_color_legend(canvas, names, colors)
    return png_bytes(canvas, title)


def projections(title: str, points_P3: np.ndarray, labels: Sequence[str], colors: Mapping[str, str]) -> bytes:
    """Three components of patches as three plane views, in the colors of their labels."""
    canvas = empty_figure(11.0, 4.2)
    label_P = np.asarray(labels)
    for axes, (x, y) in zip(canvas.subplots(1, 3), ((0, 1), (0, 2), (1, 2)), strict=True):
        for name in sorted(colors, key=lambda one: colors[one] != OTHER_COLOR):  # bone lies above the rest
            points = points_P3[label_P == name]
            other = colors[name] == OTHER_COLOR
            axes.scatter(
                points[:, x],
                points[:, y],
                s=4 if other else 8,
                alpha=0.4 if other else 0.9,
                color=colors[name],
                lw=0,
            )
        axes.set_xlabel(f"component {x + 1}", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        style_y_axis(axes, f"component {y + 1}")
    _add_color_legend(canvas, list(colors), colors)
    return png_bytes(canvas, title)


def _draw_bar(axes: Axes, x: float, width: float, bar: Bar, color: str, in_legend: set[str]) -> None:
    """One bar with its markers; `in_legend` collects the labels of the legend. A NaN is not drawn."""

    def once(label: str) -> str:
        """The label, hidden from the legend (a leading underscore) where it is there already."""
        hidden = label in in_legend
        in_legend.add(label)
        return "_" + label if hidden else label

    axes.bar(
        x,
        bar.value,
        width * 0.9,
        color=color,
        alpha=0.4 if bar.pale else 0.9,
        hatch="///" if bar.pale else None,
        edgecolor="white",
        label=once(f"{bar.domain}, alone" if bar.pale else bar.domain),
    )
    axes.errorbar(x, bar.value, yerr=bar.std, color="#222222", lw=0.8, capsize=1.5)
    # Below the axis, where a bar of height 0 shows its value too.
    axes.text(x, -0.008, f"{bar.value:.2f}", ha="center", va="top", fontsize=6, rotation=90)
    for row, value in bar.marks.items():
        axes.plot(
            x,
            value,
            MARKERS[row],
            color="#222222",
            markersize=4.5,
            mew=0.9,
            mfc="none",
            ls="",
            label=once(ROW_LABELS[row]),
        )


def _add_color_legend(canvas: Figure, names: Sequence[str], colors: Mapping[str, str]) -> None:
    """A legend of colors, outside at the right."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=colors[name], marker="o", ls="", markersize=5, label=name) for name in names
    ]
    canvas.legend(handles=lines, loc="outside right upper", fontsize=7, frameon=False)
