"""Batches for fine-tuning: whole studies, decoded and augmented in threads ahead of their use.

What a step sees follows from (seed, epoch, study) alone, so neither the number of workers nor an interruption
changes the result.

V views of the B studies of a batch, S side of an image, L blocks of the network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from ...platform.core.errors import ShardError
from ...platform.data.index import StudyIndex
from ...platform.data.study import SPLITS, Study
from ...platform.models.letterbox import letterboxed
from .config import FinetuneConfig

AHEAD = 3
"""Batches that are decoded while one is in use."""

Prepared = tuple[np.ndarray, np.ndarray | None]
"""Views (V, S, S) uint8 of one study, and the random numbers (V, L, 2) of its stochastic depth."""


def epoch_steps(studies: int, batch: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The steps of an epoch: the numbers (B,) of the training studies in each batch, over all workers.

    A permutation cut into batches; a last batch that is not full is dropped.

    >>> [len(step) for step in epoch_steps(10, batch=4, seed=0, epoch=0)]
    [4, 4]
    """
    shuffled_N = np.random.default_rng([seed, epoch]).permutation(studies)
    return [shuffled_N[first : first + batch] for first in range(0, studies - batch + 1, batch)]


def augmented(
    pixels_HW: np.ndarray, side: int, config: FinetuneConfig, random: np.random.Generator
) -> np.ndarray:
    """A view, letterboxed, randomly cropped, rotated, mirrored, with gain and gamma changed: (S, S) uint8.

    Black stays black, like the bars of the letterbox.
    """
    share, angle, *shift = random.uniform((config.crop, -1, -1, -1), 1)
    mirror, gain, gamma = random.uniform((0, -1, -1), 1)
    # Larger than needed, so that the crop is shrunk a little and never enlarged.
    large = letterboxed(pixels_HW, round(side / config.crop))
    scale, angle = share * len(large) / side, np.deg2rad(angle * config.rotation)
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotation @ np.diag([-1.0 if mirror < config.flip else 1.0, 1.0])
    center = (len(large) - 1) / 2 + np.array(shift) * (1 - share) * len(large) / 2
    offset = center - linear.sum(axis=1) * (side - 1) / 2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(large, np.column_stack([linear, offset]), (side, side), flags=flags)
    gray = np.linspace(0, 1, 256) ** np.exp(gamma * config.intensity) * (1 + gain * config.intensity)
    return cv2.LUT(crop, np.clip(gray * 255 + 0.5, 0, 255).astype(np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class FinetuneBatch:
    """The studies that one worker sees in one step.

    images: (V, S, S) uint8. counts: (B,) views of each study, which are adjacent. drop_draws: (V, L, 2) uniform in
    [0, 1), one for each branch of each block, which stochastic depth compares with its rate; None: nothing is dropped.
    """

    images: np.ndarray
    counts: np.ndarray
    drop_draws: np.ndarray | None

    def __repr__(self) -> str:
        return f"FinetuneBatch({len(self.counts)} studies, {len(self.images)} views)"


class StudyLoader:
    """Loads studies by key as batches. depth: blocks of the network."""

    def __init__(self, shards: str, config: FinetuneConfig, side: int, depth: int) -> None:
        self.config, self.side, self.depth = config, side, depth
        self._indexes = [StudyIndex(shards, split) for split in SPLITS]

    def batches(self, steps: Iterable[Sequence[str]], epoch: int | None = None) -> Iterator[FinetuneBatch]:
        """A batch for the keys of each step, augmented for the epoch; None does not augment.

        Raises ShardError for a view that cannot be decoded.
        """
        with ThreadPoolExecutor(self.config.threads) as pool:
            waiting: deque[list[Future[Prepared]]] = deque()
            for keys in steps:
                # An index has one position in one open file, so reading is not left to the threads.
                studies = self._load(keys)
                waiting.append([pool.submit(self._prepared, study, epoch) for study in studies])
                if len(waiting) > AHEAD:
                    yield _collated(waiting.popleft())
            while waiting:
                yield _collated(waiting.popleft())

    def _load(self, keys: Sequence[str]) -> list[Study]:
        studies: dict[str, Study] = {}
        for index in self._indexes:
            left = [key for key in keys if key not in studies]
            studies |= {
                key: index.load(row) for key, row in zip(left, index.find(left), strict=True) if row >= 0
            }
        return [studies[key] for key in keys]

    def _prepared(self, study: Study, epoch: int | None) -> Prepared:
        """All views of a study; its random generator depends on seed, epoch and key alone."""
        try:
            views = [study.view(index).pixels for index in range(len(study.views))]
        except ValueError:
            raise ShardError(f"study {study.key}: a view is no picture; ingest the archive again") from None
        if epoch is None:
            return np.stack([letterboxed(view, self.side) for view in views]), None
        random = np.random.default_rng([self.config.seed, epoch, *study.key.encode()])
        images = np.stack([augmented(view, self.side, self.config, random) for view in views])
        return images, random.random((len(views), self.depth, 2), np.float32)


def _collated(futures: Sequence[Future[Prepared]]) -> FinetuneBatch:
    prepared = [future.result() for future in futures]
    draws = [draw for _, draw in prepared if draw is not None]
    return FinetuneBatch(
        images=np.concatenate([images for images, _ in prepared]),
        counts=np.array([len(images) for images, _ in prepared]),
        drop_draws=np.concatenate(draws) if draws else None,
    )
