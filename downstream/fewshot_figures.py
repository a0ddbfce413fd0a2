"""Pictures of few-shot segmentation as PNG bytes: bars with intervals, and slices with what was found and the truth."""

# n slices of a scan, H, W pixels.

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..platform.figures import COLOURS
from .ultrasound_figures import Tile, grid
from .volume_sheet import colour_of, outlined

if TYPE_CHECKING:
    from .fewshot import Evaluated


def dice_bars(summary: Sequence[Mapping[str, Any]], measure: str, title: str) -> bytes:
    """A group of bars for each organ, a bar for each row, its 95 % interval as a line. measure: a column."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    organs = list(dict.fromkeys(line["organ"] for line in summary))
    rows = list(dict.fromkeys(line["row"] for line in summary))
    canvas = Figure(
        figsize=(max(7.0, 2.2 + len(organs) * (0.4 + 0.17 * len(rows))), 4.2), layout="constrained"
    )
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    width = 0.84 / len(rows)
    for number, row in enumerate(rows):
        own = {line["organ"]: line for line in summary if line["row"] == row}
        places = [place - 0.42 + (number + 0.5) * width for place in range(len(organs))]
        heights = [100 * own[organ][measure] for organ in organs]
        ends = [
            [sign * 100 * (own[organ][f"{measure}{end}"] - own[organ][measure]) for organ in organs]
            for sign, end in ((-1, "_low"), (1, "_high"))
        ]
        # An error bar of NaN length is not drawn.
        axes.bar(
            places,
            heights,
            width * 0.92,
            yerr=ends,
            color=COLOURS[number % len(COLOURS)],
            alpha=1.0 if number < len(COLOURS) else 0.5,
            error_kw={"lw": 0.8, "capsize": 1.5, "ecolor": "#222222"},
            label=row,
        )
        for x, height in zip(places, heights, strict=True):
            if not math.isnan(height):
                axes.text(
                    x, 1, f"{height:.0f}", ha="center", va="bottom", fontsize=5, color="white", rotation=90
                )
    axes.set_xticks(range(len(organs)), organs, fontsize=8)
    axes.set_ylim(0, 100)
    axes.set_ylabel("Dice, percent, with 95 % interval over scans", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(axis="y", linewidth=0.4)
    axes.set_axisbelow(True)
    canvas.legend(loc="outside right upper", fontsize=7, frameon=False)
    canvas.suptitle(title, fontsize=10, x=0.01, ha="left")
    png = io.BytesIO()
    canvas.savefig(png, format="png", dpi=130, metadata={"Software": None})
    return png.getvalue()


def overlays(found: Evaluated, label: str) -> bytes:
    """The best, the median and the worst scan of the first row by mean Dice over whole volumes."""
    first = found.scores[0].row
    values: dict[str, list[float]] = {}
    for score in found.scores:
        if score.row == first and not math.isnan(score.volume_dice):
            values.setdefault(score.scan, []).append(score.volume_dice)
    ranked = sorted(values, key=lambda scan: (-float(np.mean(values[scan])), scan))
    chosen = dict(
        zip((ranked[0], ranked[len(ranked) // 2], ranked[-1]), ("best", "median", "worst"), strict=True)
    )
    shown = {one.scan: one for one in found.shown}
    rows = []
    for scan, word in chosen.items():
        one = shown[scan]
        slices = zip(one.slices, one.image_nHW, one.found_nHW, one.truth_nHW, strict=True)
        tiles = [
            Tile(painted(image_HW, found_HW, truth_HW), above=f"slice {z}")
            for z, image_HW, found_HW, truth_HW in slices
        ]
        rows.append((f"{word}: scan {scan}, {100 * np.mean(values[scan]):.1f}", "#222222", tiles))
    names = ", ".join(found.organs.values())
    note = f"Filled: found without truth ({first}). Outlined: truth. Mean Dice of whole volumes over {names}."
    return grid(f"{label}: best, median and worst scan", rows, note, side=2.2)


def painted(image_HW: np.ndarray, found_HW: np.ndarray, truth_HW: np.ndarray | None = None) -> np.ndarray:
    """A slice, twice as large, labels filled in their classes' colours, true ones outlined: (2H, 2W, 3) uint8."""
    canvas = outlined(image_HW, None, scale=2)
    large_HW = cv2.resize(found_HW, canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    for number in np.unique(found_HW[found_HW > 0]):
        mask_HW = large_HW == number
        canvas[mask_HW] = np.round(0.55 * canvas[mask_HW] + 0.45 * np.array(colour_of(int(number)))).astype(
            np.uint8
        )
    if truth_HW is None:
        return canvas
    lines = outlined(np.zeros_like(image_HW), truth_HW, scale=2)
    drawn_HW = lines.any(axis=2)
    canvas[drawn_HW] = lines[drawn_HW]
    return canvas
