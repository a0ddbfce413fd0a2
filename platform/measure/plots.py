"""Plots as PNG bytes, for folders, MLflow and documents that cannot draw for themselves."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from .results import MetricValue

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0b62a8", "#c05a00", "#177a4c", "#8d3f98", "#a31f45", "#5b6b00", "#00747c", "#6a4a3a")
"""One a source, in order; distinct for people with red-green color blindness, too."""


def interval_plot(values: Sequence[MetricValue], chance: float | None = None) -> bytes:
    """Values of one metric as dots with their 95 % intervals: a row a finding, a color a source.

    chance: where a dashed line is drawn. NaN values and intervals are left out.
    """
    findings = list(dict.fromkeys(value.finding for value in values))
    sources = list(dict.fromkeys(value.source for value in values))
    figure = empty_figure(7.2, 0.9 + len(findings) * (0.12 + 0.14 * len(sources)))
    axes = figure.add_subplot()
    for number, source in enumerate(sources):
        dots = [one for one in values if one.source == source and not math.isnan(one.value)]
        rows = [-findings.index(one.finding) - 0.8 * (number + 0.5) / len(sources) + 0.4 for one in dots]
        # An error bar of NaN length is not drawn.
        lengths = [[one.value - one.low for one in dots], [one.high - one.value for one in dots]]
        axes.errorbar(
            [one.value for one in dots],
            rows,
            xerr=lengths,
            fmt="o",
            markersize=3.5,
            linewidth=1.3,
            color=COLORS[number % len(COLORS)],
            label=source,
        )
    axes.set_yticks([-row for row in range(len(findings))], findings, fontsize=8)
    axes.set_xlabel(f"{values[0].metric}, 95 % interval over patients", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", linewidth=0.4)
    if chance is not None:
        axes.axvline(chance, color="#666666", linewidth=0.9, linestyle="--")
    figure.legend(loc="outside upper left", ncols=4, fontsize=8, frameon=False)
    return png_bytes(figure)


def empty_figure(width: float, height: float) -> Figure:
    """An empty figure, width x height in inches, whose parts make room for one another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot, which keeps every plot of the process and looks for a window system.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_y_axis(axes: Axes, ylabel: str) -> None:
    """Label the y axis and draw thin horizontal lines behind the content."""
    axes.set_ylabel(ylabel, fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(axis="y", linewidth=0.4)
    axes.set_axisbelow(True)


def png_bytes(figure: Figure, title: str = "", note: str = "") -> bytes:
    """The figure with a title above and a note below, both wrapped at its width; the same bytes every time."""
    width = figure.get_size_inches()[0]
    if title:
        figure.suptitle(fill(title, int(13 * width)), fontsize=10, x=0.01, ha="left")
    if note:
        figure.supxlabel(fill(note, int(18 * width)), fontsize=7, color="#444444", x=0.01, ha="left")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=130, metadata={"Software": None})
    return png.getvalue()
