"""Scores of images, and their mean, spread and interval."""

from __future__ import annotations

import numpy as np

from vetdino.downstream.ultrasound.config import ZeroshotConfig
from vetdino.downstream.ultrasound.method.scores import ImageScore, summarize


def test_a_summary_holds_mean_spread_and_interval():
    scores = [
        ImageScore("leg", str(n), "n5", "cosegment", dice, dice / (2 - dice), dice)
        for n, dice in enumerate([0.0, 0.5] * 3)
    ]
    few, [whole] = summarize(scores[:4], ZeroshotConfig()), summarize(scores, ZeroshotConfig())
    assert (whole.images, whole.dice, whole.dice_std) == (6, 0.25, 0.25)
    assert (few[0].empty, whole.empty) == (2, 3)
    assert whole.dice_low < 0.25 < whole.dice_high
    assert np.isnan(few[0].dice_low)
