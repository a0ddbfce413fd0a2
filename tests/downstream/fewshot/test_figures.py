"""Figures of few-shot results: valid PNGs of the right content, the same bytes each time."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vetdino.downstream.fewshot.figures import (
    dice_bars,
    dice_matrices,
    example_overlays,
    paint_labels,
    shot_curves,
)
from vetdino.downstream.fewshot.method.predictors import copy_predictor
from vetdino.downstream.fewshot.methods import Method
from vetdino.downstream.fewshot.results import ExampleSlices, FewshotResults, ScanScore
from vetdino.downstream.volumes.overlays import class_color


def summary(shots: tuple[int, ...] = (1,)) -> list[dict]:
    """Lines of an encoder, a baseline for each number of shots, and an oracle without shots."""
    random, lines = np.random.default_rng(0), []
    for source, numbers, floor in (
        ("encoder", shots, False),
        ("copy", shots, True),
        ("oracle", shots[:1], True),
    ):
        for shot in numbers:
            for organ in ("liver", "spleen", "mean"):
                dice = random.uniform(0.3, 0.8)
                lines.append(
                    {
                        "row": f"{source}, {shot}",
                        "source": source,
                        "compat": "ours",
                        "shots": shot,
                        "floor": floor,
                    }
                    | {"organ": organ, "scans": 4, "note": "few" if organ == "spleen" else ""}
                    | {"dice": dice, "dice_low": dice - 0.1, "dice_high": dice + 0.1}
                )
    return lines


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_bars_have_a_place_for_every_organ_and_row():
    png = dice_bars(summary(), "dice", "a title")
    assert png == dice_bars(summary(), "dice", "a title")
    few, many = (
        pixels_of(dice_bars(lines, "dice", "")) for lines in (summary(), summary((1, 2, 3, 4, 5, 6, 7)))
    )
    assert few.shape[1] < many.shape[1]


def test_bars_of_unknown_height_are_left_out():
    lines = [line | {"dice": float("nan")} if line["organ"] == "liver" else line for line in summary()]
    assert not np.array_equal(
        pixels_of(dice_bars(lines, "dice", "")), pixels_of(dice_bars(summary(), "dice", ""))
    )


def test_curves_over_shots_have_a_panel_for_every_organ():
    lines = summary((1, 2, 4))
    two = [line for line in lines if line["organ"] != "mean"]
    wide, narrow = (pixels_of(shot_curves(one, "dice", "")) for one in (lines, two))
    assert wide.shape[1] > narrow.shape[1]


def test_matrices_show_what_is_known():
    known = np.array([[0.9, 0.2], [0.3, 0.8]])
    unknown = np.where(np.eye(2, dtype=bool), known, np.nan)
    one, other = (
        pixels_of(dice_matrices({"Dice": values}, ("ct", "mri"), "")) for values in (known, unknown)
    )
    assert one.shape == other.shape
    assert not np.array_equal(one, other)


def test_labels_are_filled_and_the_truth_is_outlined():
    image = np.full((12, 16), 100, np.uint8)
    labels, truth = np.zeros((2, 12, 16), np.uint8)
    labels[3:6, 3:6], truth[8:11, 8:12] = 1, 2
    canvas = paint_labels(image, labels, truth)
    assert canvas.shape == (24, 32, 3)
    np.testing.assert_allclose(canvas[9, 9], 55 + 0.45 * np.array(class_color(1)), atol=1)
    assert (canvas == class_color(2)).all(axis=2).any()
    assert (canvas[0, 0] == 100).all()
    assert not (paint_labels(image, labels) == class_color(2)).all(axis=2).any()


@pytest.mark.parametrize("scans", [1, 4])
def test_the_best_the_median_and_the_worst_scan_are_shown(scans):
    random = np.random.default_rng(0)
    score = ScanScore("encoder", "encoder", "ours", "n", 1, 0, "", "s9", "liver", 3, 0.5, 0.5, 5.0)
    scores = [replace(score, scan=f"s{n}", volume_dice=n / 10) for n in range(scans)]
    examples = [
        ExampleSlices(f"s{n}", (1, 2), *random.integers(0, 2, (3, 2, 12, 12)).astype(np.uint8))
        for n in range(scans)
    ]
    methods = {"encoder": Method("encoder", "ours", copy_predictor, ("n",))}
    results = FewshotResults({1: "liver"}, tuple(scores), tuple(examples), {}, {}, methods)
    rows = pixels_of(example_overlays(results, "net")).shape[0]
    taller = pixels_of(example_overlays(replace(results, examples=tuple(examples[::-1])), "net")).shape[0]
    assert rows == taller
