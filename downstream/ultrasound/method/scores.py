"""Dice and IoU of each image; their mean, spread and interval over the images of a set; and over sets drawn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....platform.measure.bootstrap import bootstrap_interval
from ..config import ZeroshotConfig
from ..frames import Frame
from .comparison import SetMasks
from .masks import dice_and_iou

MIN_IMAGES = 5
"""There is no interval over fewer images."""


@dataclass(frozen=True, slots=True)
class ImageScore:
    """Scores of one image of one set in one row; `part` names the set (`n5`, `with leg`, `eps1`).

    found_share: of the frame's pixels, in the row's mask; 0 where that is empty.
    """

    domain: str
    image: str
    part: str
    row: str
    dice: float
    iou: float
    found_share: float


@dataclass(frozen=True, slots=True)
class SetSummary:
    """Dice and IoU over the images of a set: mean, standard deviation (ddof 0), 95 % interval over images.

    The interval is NaN where there are fewer than MIN_IMAGES images. empty: how many of the masks are.
    """

    domain: str
    part: str
    row: str
    images: int
    empty: int
    dice: float
    dice_std: float
    dice_low: float
    dice_high: float
    iou: float
    iou_std: float
    iou_low: float
    iou_high: float


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """Means of sets of one size over the seeds that they were drawn by: mean, standard deviation (ddof 0), worst.

    images: of one set. empty: masks of all sets together that are empty.
    """

    domain: str
    part: str
    row: str
    seeds: int
    images: int
    empty: int
    dice: float
    dice_std: float
    dice_worst: float
    iou: float
    iou_std: float
    iou_worst: float


def summarize_seeds(summaries: Mapping[str, Sequence[SetSummary]]) -> list[SeedSummary]:
    """Mean, spread and worst over seeds for each domain, part and row. summaries: part -> those of all its sets."""
    found = []
    for part, members in summaries.items():
        groups: dict[tuple[str, str], list[SetSummary]] = {}
        for one in members:
            groups.setdefault((one.domain, one.row), []).append(one)
        for (domain, row), sets in groups.items():
            dice, iou = (np.array([getattr(one, name) for one in sets]) for name in ("dice", "iou"))
            spread = [float(value) for each in (dice, iou) for value in (each.mean(), each.std(), each.min())]
            empty = sum(one.empty for one in sets)
            found.append(SeedSummary(domain, part, row, len(sets), sets[0].images, empty, *spread))
    return found


def score_images(frames: Sequence[Frame], part: str, set_masks: SetMasks) -> list[ImageScore]:
    """Dice and IoU of each frame in each row."""
    scores = []
    for row, masks in set_masks.masks.items():
        for frame, mask_HW in zip(frames, masks, strict=True):
            dice, iou = dice_and_iou(mask_HW, frame.truth)
            scores.append(ImageScore(frame.domain, frame.name, part, row, dice, iou, float(mask_HW.mean())))
    return scores


def summarize(scores: Sequence[ImageScore], config: ZeroshotConfig) -> list[SetSummary]:
    """Mean, spread and interval for each domain, part and row, in the order of the scores."""
    groups: dict[tuple[str, str, str], list[ImageScore]] = {}
    for score in scores:
        groups.setdefault((score.domain, score.part, score.row), []).append(score)
    summaries = []
    for (domain, part, row), members in groups.items():
        images = [one.image for one in members]
        dice = _spread([one.dice for one in members], images, config)
        iou = _spread([one.iou for one in members], images, config)
        empty = sum(not one.found_share for one in members)
        summaries.append(SetSummary(domain, part, row, len(members), empty, *dice, *iou))
    return summaries


def _spread(
    values: Sequence[float], images: Sequence[str], config: ZeroshotConfig
) -> tuple[float, float, float, float]:
    """Mean, standard deviation, lower and upper end of the interval."""
    value_N = np.array(values)
    low = high = float("nan")
    if len(value_N) >= MIN_IMAGES:
        interval = bootstrap_interval(
            lambda weight_RN: weight_RN @ value_N / weight_RN.sum(axis=1),
            images,
            config.resamples,
            config.seed,
        )
        low, high = map(float, interval)
    return float(value_N.mean()), float(value_N.std()), low, high
