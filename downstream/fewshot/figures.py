"""Figures of few-shot segmentation as PNG bytes: Dice with intervals, and slices with prediction and ground truth."""

# n slices of a scan, H, W pixels; A, B folders of the supports and of the queries.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ...platform.measure.plots import COLORS, empty_figure, png_bytes, style_y_axis
from ..common.figures import Tile, grid
from ..common.record import Rows
from ..volumes.overlays import class_color, outline_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .results import FewshotResults

BASELINE_COLORS = ("#555555", "#999999", "#b08a3c", "#7a6a8a")
"""Colors of baselines and oracle, in order."""

BASELINE_STYLES: tuple[Any, ...] = ("--", ":", "-.", (0, (6, 2)))
"""Line styles of baselines and oracle, in order."""


def dice_bars(summary: Rows, measure: str, title: str) -> bytes:
    """A group of bars for each organ, a bar for each row with its 95 % interval; baselines as lines across a group.

    measure: a column of the summary.
    """
    organs = list(dict.fromkeys(line["organ"] for line in summary))
    baselines = list(dict.fromkeys(line["row"] for line in summary if line.get("floor")))
    rows = list(dict.fromkeys(line["row"] for line in summary if not line.get("floor")))
    lines = {(line["row"], line["organ"]): line for line in summary}
    canvas = empty_figure(max(7.0, 2.6 + len(organs) * (0.5 + 0.17 * len(rows))), 4.2)
    axes = canvas.subplots()
    width = 0.84 / len(rows)
    for number, row in enumerate(rows):
        places = [place - 0.42 + (number + 0.5) * width for place in range(len(organs))]
        heights = [100 * lines[row, organ][measure] for organ in organs]
        axes.bar(
            places,
            heights,
            width * 0.92,
            # An error bar of NaN length is not drawn.
            yerr=_interval_lengths([lines[row, organ] for organ in organs], measure),
            color=COLORS[number % len(COLORS)],
            alpha=1.0 if number < len(COLORS) else 0.5,
            error_kw={"lw": 0.8, "capsize": 1.5, "ecolor": "#222222"},
            label=row,
        )
        for x, height in zip(places, heights, strict=True):
            if not math.isnan(height):
                axes.text(x, 1, f"{height:.0f}", ha="center", va="bottom", fontsize=5.5, color="white")
    for number, row in enumerate(baselines):
        axes.hlines(
            [100 * lines[row, organ][measure] for organ in organs],
            [place - 0.45 for place in range(len(organs))],
            [place + 0.45 for place in range(len(organs))],
            colors=BASELINE_COLORS[number % len(BASELINE_COLORS)],
            linestyles=BASELINE_STYLES[number % len(BASELINE_STYLES)],
            lw=1.2,
            label=row,
        )
    names = [_name_with_scans(lines[rows[0], organ]) for organ in organs]
    axes.set_xticks(range(len(organs)), names, fontsize=8)
    axes.set_ylim(0, 100)
    style_y_axis(axes, "Dice, percent, with 95 % interval over scans")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    labels = [*rows, *baselines]
    canvas.legend(
        [handles[row] for row in labels], labels, loc="outside right upper", fontsize=7, frameon=False
    )
    return png_bytes(canvas, title)


def shot_curves(summary: Rows, measure: str, title: str) -> bytes:
    """A panel for each organ and for their mean: Dice over the number of shots, a line for each source and compat.

    95 % intervals as error bars; baselines are dashed and gray.
    """
    organs = list(dict.fromkeys(line["organ"] for line in summary))
    shots = sorted({line["shots"] for line in summary})
    columns = min(3, len(organs))
    rows = math.ceil(len(organs) / 3)
    canvas = empty_figure(2.9 * columns + 1.6, 2.7 * rows + 0.6)
    panels = canvas.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, organ in zip(panels, organs, strict=False):
        _draw_shot_curves(axes, [line for line in summary if line["organ"] == organ], measure, shots)
        axes.set_title(organ, fontsize=8)
        axes.set_xticks(shots, [str(shot) for shot in shots], fontsize=7)
        axes.set_ylim(0, 100)
        style_y_axis(axes, "")
    for axes in panels[len(organs) :]:
        axes.axis("off")
    canvas.supxlabel("labeled scans", fontsize=8)
    canvas.supylabel("Dice, percent, with 95 % interval over scans", fontsize=8)
    handles_and_labels = panels[0].get_legend_handles_labels()
    canvas.legend(*handles_and_labels, loc="outside right upper", fontsize=7, frameon=False)
    return png_bytes(canvas, title)


def _draw_shot_curves(axes: Axes, lines: Rows, measure: str, shots: Sequence[int]) -> None:
    """One organ's curves: a line for each source and compat."""
    counts = {True: 0, False: 0}
    for source, compat, baseline in dict.fromkeys(
        (line["source"], line["compat"], line["floor"]) for line in lines
    ):
        curve = [line for line in lines if (line["source"], line["compat"]) == (source, compat)]
        number, palette = counts[baseline], BASELINE_COLORS if baseline else COLORS
        counts[baseline] += 1
        if len(curve) == 1 and baseline:  # the oracle has no shots
            curve = [{**curve[0], "shots": shot} for shot in shots]
        # Moved a little sideways, so that intervals do not overlap.
        offset = 0 if baseline else 0.03 * (number - 1) * (shots[-1] - shots[0])
        axes.errorbar(
            [line["shots"] + offset for line in curve],
            [100 * line[measure] for line in curve],
            yerr=None if baseline else _interval_lengths(curve, measure),
            color=palette[number % len(palette)],
            linestyle=BASELINE_STYLES[number % len(BASELINE_STYLES)] if baseline else "-",
            marker="" if baseline else "o",
            markersize=3,
            lw=1.2,
            capsize=1.5,
            label=f"{source}, {compat}" if compat else source,
        )


def dice_matrices(panels: Mapping[str, np.ndarray], folders: Sequence[str], title: str) -> bytes:
    """Square tables of Dice as colors with their numbers. panels: title -> (A, B), 0..1, NaN where not measured.

    A row is the folder of the supports, a column that of the queries.
    """
    canvas = empty_figure(max(5.0, len(panels) * (1.3 + 0.75 * len(folders))), 1.7 + 0.6 * len(folders))
    row_of_axes = canvas.subplots(1, len(panels), squeeze=False)[0]
    for axes, (panel_title, values_AB) in zip(row_of_axes, panels.items(), strict=True):
        axes.imshow(100 * values_AB, vmin=0, vmax=100, cmap="cividis", aspect="auto")
        for row, column in np.ndindex(values_AB.shape):
            value = 100 * values_AB[row, column]
            text = "-" if math.isnan(value) else f"{value:.1f}"
            color = "white" if not value > 60 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
        axes.set_xticks(range(len(folders)), folders, fontsize=7, rotation=20)
        axes.set_yticks(range(len(folders)), folders, fontsize=7)
        axes.set_xlabel("queries", fontsize=8)
        axes.set_ylabel("supports", fontsize=8)
        axes.set_title(panel_title, fontsize=8)
    return png_bytes(canvas, title)


def _interval_lengths(lines: Rows, measure: str) -> list[list[float]]:
    """Lengths of the error bars downwards and upwards, percent."""
    return [
        [sign * 100 * (line[f"{measure}{end}"] - line[measure]) for line in lines]
        for sign, end in ((-1, "_low"), (1, "_high"))
    ]


def _name_with_scans(line: Mapping[str, Any]) -> str:
    """A line's organ, with its number of scans if they are few."""
    return f"{line['organ']}\n({line['scans']} scans)" if line.get("note") else line["organ"]


def example_overlays(results: FewshotResults, label: str) -> bytes:
    """The best, the median and the worst scan of the first row by mean Dice of the whole volume."""
    first = results.scores[0].row
    values: dict[str, list[float]] = {}
    for score in results.scores:
        if score.row == first and not math.isnan(score.volume_dice):
            values.setdefault(score.scan, []).append(score.volume_dice)
    ranked = sorted(values, key=lambda scan: (-float(np.mean(values[scan])), scan))
    chosen = dict(
        zip((ranked[0], ranked[len(ranked) // 2], ranked[-1]), ("best", "median", "worst"), strict=True)
    )
    examples = {one.scan: one for one in results.examples}
    rows = []
    for scan, rank in chosen.items():
        one = examples[scan]
        slices = zip(one.slices, one.image_nHW, one.predicted_nHW, one.truth_nHW, strict=True)
        tiles = [
            Tile(paint_labels(image_HW, predicted_HW, truth_HW), above=f"slice {z}")
            for z, image_HW, predicted_HW, truth_HW in slices
        ]
        rows.append((f"{rank}: scan {scan}, {100 * np.mean(values[scan]):.1f}", "#222222", tiles))
    names = ", ".join(results.organs.values())
    note = (
        f"Filled: prediction without ground truth ({first}). Outlined: ground truth. "
        f"Mean Dice of whole volumes over {names}."
    )
    return grid(f"{label}: best, median and worst scan", rows, note, side=2.2)


def paint_labels(
    image_HW: np.ndarray, labels_HW: np.ndarray, truth_HW: np.ndarray | None = None
) -> np.ndarray:
    """A slice at twice its size, labels filled in their classes' colors, true ones outlined: (2H, 2W, 3) uint8."""
    canvas = outline_labels(image_HW, None, scale=2)
    large_HW = cv2.resize(labels_HW, canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    for number in np.unique(labels_HW[labels_HW > 0]):
        mask_HW = large_HW == number
        mixed = 0.55 * canvas[mask_HW] + 0.45 * np.array(class_color(int(number)))
        canvas[mask_HW] = np.round(mixed).astype(np.uint8)
    if truth_HW is None:
        return canvas
    outlines = outline_labels(np.zeros_like(image_HW), truth_HW, scale=2)
    drawn_HW = outlines.any(axis=2)
    canvas[drawn_HW] = outlines[drawn_HW]
    return canvas
