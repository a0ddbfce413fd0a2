"""Pictures of few-shot segmentation as PNG bytes: bars with intervals, and slices with what was found and the truth."""

# n slices of a scan, H, W pixels.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ...platform.measure.figures import COLOURS, canvas_of, png_of, ruled
from ..common.figures import Tile, grid
from ..volumes.overlays import class_color, outline_labels

if TYPE_CHECKING:
    from .measure import Evaluated

QUIET = ("#555555", "#999999", "#b08a3c", "#7a6a8a")
"""Colours of floors and oracle, one after the other."""

DASHES = ("--", ":", "-.", (0, (6, 2)))
"""Their lines."""


def dice_bars(summary: Sequence[Mapping[str, Any]], measure: str, title: str) -> bytes:
    """A group of bars for each organ, a bar for each row, its 95 % interval as a line; floors as lines across a group.

    measure: a column of the summary. Where nothing but floors was measured, they are bars.
    """
    organs = list(dict.fromkeys(line["organ"] for line in summary))
    floors = list(dict.fromkeys(line["row"] for line in summary if line.get("floor")))
    rows = list(dict.fromkeys(line["row"] for line in summary if not line.get("floor")))
    lines = {(line["row"], line["organ"]): line for line in summary}
    canvas = canvas_of(max(7.0, 2.6 + len(organs) * (0.5 + 0.17 * len(rows))), 4.2)
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
            yerr=_ends([lines[row, organ] for organ in organs], measure),
            color=COLOURS[number % len(COLOURS)],
            alpha=1.0 if number < len(COLOURS) else 0.5,
            error_kw={"lw": 0.8, "capsize": 1.5, "ecolor": "#222222"},
            label=row,
        )
        for x, height in zip(places, heights, strict=True):
            if not math.isnan(height):
                axes.text(x, 1, f"{height:.0f}", ha="center", va="bottom", fontsize=5.5, color="white")
    for number, row in enumerate(floors):
        axes.hlines(
            [100 * lines[row, organ][measure] for organ in organs],
            [place - 0.45 for place in range(len(organs))],
            [place + 0.45 for place in range(len(organs))],
            colors=QUIET[number % len(QUIET)],
            linestyles=DASHES[number % len(DASHES)],
            lw=1.2,
            label=row,
        )
    axes.set_xticks(range(len(organs)), [_counted(lines, rows[0], organ) for organ in organs], fontsize=8)
    axes.set_ylim(0, 100)
    ruled(axes, "Dice, percent, with 95 % interval over scans")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    told = [*rows, *floors]
    canvas.legend([handles[row] for row in told], told, loc="outside right upper", fontsize=7, frameon=False)
    return png_of(canvas, title)


def shot_curves(summary: Sequence[Mapping[str, Any]], measure: str, title: str) -> bytes:
    """A panel for each organ and for their mean: Dice over the number of shots, a line for each source and compat.

    95 % intervals as bars, floors in grey dashes.
    """
    organs = list(dict.fromkeys(line["organ"] for line in summary))
    shots = sorted({line["shots"] for line in summary})
    curves = list(dict.fromkeys((line["source"], line["compat"], line["floor"]) for line in summary))
    down = math.ceil(len(organs) / 3)
    canvas = canvas_of(2.9 * min(3, len(organs)) + 1.6, 2.7 * down + 0.6)
    panels = canvas.subplots(down, min(3, len(organs)), squeeze=False, sharey=True).ravel()
    for axes, organ in zip(panels, organs, strict=False):
        shown = {"quiet": 0, "loud": 0}
        for source, compat, floor in curves:
            own = [
                line
                for line in summary
                if (line["source"], line["compat"], line["organ"]) == (source, compat, organ)
            ]
            kind = "quiet" if floor else "loud"
            number = shown[kind]
            shown[kind] += 1
            if len(own) == 1 and floor:  # the oracle knows no shots
                own = [own[0] | {"shots": shot} for shot in shots]
            aside = (
                0 if floor else 0.03 * (number - 1) * (shots[-1] - shots[0])
            )  # so that intervals stay apart
            axes.errorbar(
                [line["shots"] + aside for line in own],
                [100 * line[measure] for line in own],
                yerr=None if floor else _ends(own, measure),
                color=QUIET[number % len(QUIET)] if floor else COLOURS[number % len(COLOURS)],
                linestyle=DASHES[number % len(DASHES)] if floor else "-",
                marker="" if floor else "o",
                markersize=3,
                lw=1.2,
                capsize=1.5,
                label=f"{source}, {compat}" if compat else source,
            )
        axes.set_title(organ, fontsize=8)
        axes.set_xticks(shots, [str(shot) for shot in shots], fontsize=7)
        axes.set_ylim(0, 100)
        ruled(axes, "")
    for axes in panels[len(organs) :]:
        axes.axis("off")
    canvas.supxlabel("labelled scans", fontsize=8)
    canvas.supylabel("Dice, percent, with 95 % interval over scans", fontsize=8)
    told = panels[0].get_legend_handles_labels()
    canvas.legend(*told, loc="outside right upper", fontsize=7, frameon=False)
    return png_of(canvas, title)


def matrices(panels: Mapping[str, np.ndarray], names: Sequence[str], title: str) -> bytes:
    """Square tables of Dice as colours with their numbers. panels: words -> (A, B), 0..1, NaN where nothing is known.

    A row is the folder that teaches, a column the one that is asked.
    """
    canvas = canvas_of(max(5.0, len(panels) * (1.3 + 0.75 * len(names))), 1.7 + 0.6 * len(names))
    for axes, (words, values_AB) in zip(
        canvas.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        axes.imshow(100 * values_AB, vmin=0, vmax=100, cmap="cividis", aspect="auto")
        for row, column in np.ndindex(values_AB.shape):
            value = 100 * values_AB[row, column]
            axes.text(
                column,
                row,
                "-" if math.isnan(value) else f"{value:.1f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if not value > 60 else "black",
            )
        axes.set_xticks(range(len(names)), names, fontsize=7, rotation=20)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_xlabel("asked", fontsize=8)
        axes.set_ylabel("teaches", fontsize=8)
        axes.set_title(words, fontsize=8)
    return png_of(canvas, title)


def _ends(lines: Sequence[Mapping[str, Any]], measure: str) -> list[list[float]]:
    """Lengths of the error bars downwards and upwards, percent."""
    return [
        [sign * 100 * (line[f"{measure}{end}"] - line[measure]) for line in lines]
        for sign, end in ((-1, "_low"), (1, "_high"))
    ]


def _counted(lines: Mapping[tuple[str, str], Mapping[str, Any]], row: str, organ: str) -> str:
    """An organ's name, with its scans where they are few."""
    line = lines[row, organ]
    return f"{organ}\n({line['scans']} scans)" if line.get("note") else organ


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
    canvas = outline_labels(image_HW, None, scale=2)
    large_HW = cv2.resize(found_HW, canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    for number in np.unique(found_HW[found_HW > 0]):
        mask_HW = large_HW == number
        canvas[mask_HW] = np.round(0.55 * canvas[mask_HW] + 0.45 * np.array(class_color(int(number)))).astype(
            np.uint8
        )
    if truth_HW is None:
        return canvas
    lines = outline_labels(np.zeros_like(image_HW), truth_HW, scale=2)
    drawn_HW = lines.any(axis=2)
    canvas[drawn_HW] = lines[drawn_HW]
    return canvas
