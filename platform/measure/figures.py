"""Plots as PNG bytes, for folders, MLflow and documents that cannot draw for themselves."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from .metrics import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLOURS = ("#0b62a8", "#c05a00", "#177a4c", "#8d3f98", "#a31f45", "#5b6b00", "#00747c", "#6a4a3a")
"""One a source, in order; told apart by those who do not see red and green as others do."""


def interval_plot(figures: Sequence[Figure], chance: float | None = None) -> bytes:
    """Figures of one metric as dots with their 95 % intervals: a row a finding, a colour a source.

    chance: where a dashed line stands. A figure that is NaN is left out, an interval that is NaN too.
    """
    findings = list(dict.fromkeys(figure.finding for figure in figures))
    sources = list(dict.fromkeys(figure.source for figure in figures))
    canvas = canvas_of(7.2, 0.9 + len(findings) * (0.12 + 0.14 * len(sources)))
    axes = canvas.add_subplot()
    for number, source in enumerate(sources):
        own = [one for one in figures if one.source == source and not math.isnan(one.value)]
        rows = [-findings.index(one.finding) - 0.8 * (number + 0.5) / len(sources) + 0.4 for one in own]
        # An error bar of NaN length is not drawn.
        lengths = [[one.value - one.low for one in own], [one.high - one.value for one in own]]
        axes.errorbar(
            [one.value for one in own],
            rows,
            xerr=lengths,
            fmt="o",
            markersize=3.5,
            linewidth=1.3,
            color=COLOURS[number % len(COLOURS)],
            label=source,
        )
    axes.set_yticks([-row for row in range(len(findings))], findings, fontsize=8)
    axes.set_xlabel(f"{figures[0].metric}, 95 % interval over patients", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", linewidth=0.4)
    if chance is not None:
        axes.axvline(chance, color="#666666", linewidth=0.9, linestyle="--")
    canvas.legend(loc="outside upper left", ncols=4, fontsize=8, frameon=False)
    return png_of(canvas)


def canvas_of(width: float, height: float) -> Canvas:
    """An empty figure of so many inches, whose parts make room for one another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    # Not pyplot, which keeps every plot of the process and asks which window system there is.
    canvas = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas


def ruled(axes: Axes, ylabel: str) -> None:
    """Names the y axis and rules thin lines behind what is drawn."""
    axes.set_ylabel(ylabel, fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(axis="y", linewidth=0.4)
    axes.set_axisbelow(True)


def png_of(canvas: Canvas, title: str = "", note: str = "") -> bytes:
    """The figure with a title above and a note below, both broken at its width; the same bytes every time."""
    width = canvas.get_size_inches()[0]
    if title:
        canvas.suptitle(fill(title, int(13 * width)), fontsize=10, x=0.01, ha="left")
    if note:
        canvas.supxlabel(fill(note, int(18 * width)), fontsize=7, color="#444444", x=0.01, ha="left")
    png = io.BytesIO()
    canvas.savefig(png, format="png", dpi=130, metadata={"Software": None})
    return png.getvalue()
