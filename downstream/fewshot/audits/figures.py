"""Pictures of the audits as PNG bytes: slices that gain and lose, parts of organs, curves over steps, drift."""

# H, W rows and columns of a slice.

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....platform.measure.figures import COLOURS, canvas_of, png_of, ruled
from ...common.figures import Tile, grid
from ..figures import painted

if TYPE_CHECKING:
    from .slices import Example, Extremes, SliceScore

WORSE, BETTER = "#c05a00", "#0b62a8"
"""Colours of slices that lose and gain."""

MOST_PARTS = 4
"""Slices with so many components or more are one group."""


def harm_bars(summary: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """For each row and organ how many slices lose (below the line) and gain (above), percent, with 95 % intervals.

    Rows that are compared with themselves are left out.
    """
    lines = [line for line in summary if line["row"] != line["before"]]
    rows = list(dict.fromkeys(line["row"] for line in lines))
    organs = list(dict.fromkeys(line["organ"] for line in lines))
    canvas = canvas_of(max(7.0, 1.8 + len(organs) * (0.4 + 0.2 * len(rows))), 4.2)
    axes = canvas.subplots()
    width = 0.84 / len(rows)
    for number, row in enumerate(rows):
        own = {line["organ"]: line for line in lines if line["row"] == row}
        places = [place - 0.42 + (number + 0.5) * width for place in range(len(organs))]
        for name, sign, bright in (("better", 1, 0.95), ("worse", -1, 0.55)):
            heights = [sign * 100 * own[organ][name] for organ in organs]
            ends = [
                [100 * abs(own[organ][f"{name}_{end}"] - own[organ][name]) for organ in organs]
                for end in (("low", "high") if sign > 0 else ("high", "low"))
            ]
            axes.bar(
                places,
                heights,
                width * 0.92,
                yerr=ends,
                color=COLOURS[number % len(COLOURS)],
                alpha=bright,
                error_kw={"lw": 0.8, "capsize": 1.5, "ecolor": "#222222"},
                label=row if sign > 0 else None,
            )
    axes.axhline(0, color="#222222", linewidth=0.9)
    axes.set_xticks(range(len(organs)), organs, fontsize=8)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    ruled(axes, "slices, percent: worse below, better above")
    canvas.legend(loc="outside right upper", fontsize=7, frameon=False)
    return png_of(canvas, title)


def parts_bars(scores: Sequence[SliceScore], organs: Sequence[str], title: str) -> bytes:
    """How many components the truth of an organ has in a slice: shares of its slices, side by side."""
    canvas = canvas_of(max(5.0, 1.6 + 0.75 * len(organs)), 3.4)
    axes = canvas.subplots()
    bottom = np.zeros(len(organs))
    counts = {organ: Counter(_parts(score) for score in scores if score.organ == organ) for organ in organs}
    for number in range(1, MOST_PARTS + 1):
        shares = np.array([100 * counts[organ][number] / max(counts[organ].total(), 1) for organ in organs])
        words = {1: "one part", MOST_PARTS: f"{MOST_PARTS} or more"}.get(number, f"{number} parts")
        axes.bar(range(len(organs)), shares, 0.7, bottom, color=COLOURS[number - 1], label=words)
        for place, share in enumerate(shares):
            if share >= 4:
                height = bottom[place] + share / 2
                axes.text(place, height, f"{share:.0f}", ha="center", va="center", fontsize=7, color="white")
        bottom += shares
    axes.set_xticks(range(len(organs)), organs, fontsize=8)
    axes.set_ylim(0, 100)
    ruled(axes, "slices with the organ, percent")
    canvas.legend(loc="outside right upper", fontsize=7, frameon=False)
    return png_of(canvas, title)


def _parts(score: SliceScore) -> int:
    return min(score.true_parts, MOST_PARTS)


def examples(found: Extremes, title: str, note: str) -> bytes | None:
    """The slices that lost most and gained most, before and after; None where no slice changed."""
    rows = []
    for word, colour, chosen in (("lost", WORSE, found.losses), ("gained", BETTER, found.gains)):
        if chosen:
            rows.append((f"{word} most: before", colour, [_tile(one, after=False) for one in chosen]))
            rows.append((f"{word} most: after", colour, [_tile(one, after=True) for one in chosen]))
    return grid(title, rows, note, side=2.2) if rows else None


def _tile(one: Example, *, after: bool) -> Tile:
    mask_HW = one.after_HW if after else one.before_HW
    picture = painted(one.image_HW, mask_HW.astype(np.uint8), one.truth_HW.astype(np.uint8))
    words = f"Dice {100 * (one.after if after else one.before):.1f}"
    return Tile(picture, above=words if after else f"{one.title}\n{words}")


def step_curves(summary: Sequence[Mapping[str, Any]], steps: Mapping[str, int], title: str) -> bytes:
    """Dice, and the share of slices worse than before, over steps; a line for each organ, the mean's 95 % interval.

    steps: row -> how many.
    """
    from matplotlib.ticker import MaxNLocator

    organs = list(dict.fromkeys(line["organ"] for line in summary))
    canvas = canvas_of(9.0, 3.8)
    panels = canvas.subplots(1, 2)
    named = {"dice": "Dice of the slices asked, percent", "worse": "slices worse than before, percent"}
    for axes, (measure, words) in zip(panels, named.items(), strict=True):
        for number, organ in enumerate(organs):
            own = {line["row"]: line for line in summary if line["organ"] == organ and line["row"] in steps}
            told = [own[row] for row in steps]
            last, colour = organ == organs[-1], COLOURS[number % len(COLOURS)]
            axes.plot(
                list(steps.values()),
                [100 * line[measure] for line in told],
                color="#222222" if last else colour,
                marker="o",
                markersize=3,
                linewidth=1.8 if last else 1.0,
                label=organ if measure == "dice" else None,
            )
            if last:
                ends = ([100 * line[f"{measure}_{end}"] for line in told] for end in ("low", "high"))
                axes.fill_between(list(steps.values()), *ends, color="#222222", alpha=0.12, linewidth=0)
        axes.set_xlabel("steps of training on the slice", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(axis="x", labelsize=7)
        ruled(axes, words)
    canvas.legend(loc="outside right upper", fontsize=7, frameon=False)
    return png_of(canvas, title)


def drift_lines(drifts: Mapping[str, Sequence[float]], title: str) -> bytes:
    """How far the weights are from the encoder's own when a slice is asked, percent, in the order of asking."""
    from matplotlib.ticker import MaxNLocator

    canvas = canvas_of(7.0, 3.4)
    axes = canvas.subplots()
    for number, (row, values) in enumerate(drifts.items()):
        axes.plot(
            range(1, len(values) + 1), [100 * value for value in values], color=COLOURS[number], label=row
        )
    axes.set_xlabel("slices asked so far", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylim(bottom=0)
    ruled(axes, "weights after the slice: change / length, percent")
    canvas.legend(loc="outside right upper", fontsize=7, frameon=False)
    return png_of(canvas, title)
