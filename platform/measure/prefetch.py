"""Views that are read and decoded ahead of the network that embeds them.

B views of a batch, S side of a square in pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

from ..core.errors import ShardError
from ..data.study import Study

Item = TypeVar("Item")
Tag = TypeVar("Tag")

ViewPlace = tuple[Study, int]
"""A study, and the number of one of its views."""

AHEAD = 3
"""Batches that are read and decoded while the network is at work on the one before them."""

MOST_THREADS = 16
"""Threads that decode views, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class ViewBatch(Generic[Tag]):
    """Views of some studies, each in a square. tag: where the group is from. places: (B,), the studies without pixels.

    projections: (B,) each. images: (B, S, S) uint8, letterboxed. finished: studies whose last view is among them.
    """

    tag: Tag
    places: list[ViewPlace]
    projections: list[str]
    images: np.ndarray
    finished: int

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        return f"ViewBatch({len(self)} views, {self.images.shape[-1]} px)"


def view_places(studies: Iterable[Study]) -> Iterator[ViewPlace]:
    """Every view of the studies, in order."""
    for study in studies:
        yield from ((study, index) for index in range(len(study.views)))


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter.

    >>> list(batched("abc", 2))
    [['a', 'b'], ['c']]
    """
    items = iter(items)
    while group := list(islice(items, size)):
        yield group


def prefetched(
    groups: Iterable[tuple[Tag, list[ViewPlace]]], side: int, threads: int
) -> Generator[ViewBatch[Tag]]:
    """The views of each group, decoded and letterboxed to `side` pixels, in the order of the groups.

    One thread reads, `threads` decode; close the generator (`contextlib.closing`) to end them early. Raises ShardError
    where a view is no picture, and what reading raises.
    """
    ahead = iter(groups)

    def read() -> tuple[Tag, list[ViewPlace], list[Future[np.ndarray]]] | None:
        for tag, places in ahead:
            return tag, places, [decoders.submit(_decoded, *place, side) for place in places]
        return None

    reader, decoders = ThreadPoolExecutor(1), ThreadPoolExecutor(max(1, threads))
    try:
        waiting = deque(reader.submit(read) for _ in range(AHEAD))
        while (group := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(read))
            tag, places, futures = group
            yield ViewBatch(
                tag,
                [(replace(study, views=()), index) for study, index in places],
                [study.views[index].projection for study, index in places],
                np.stack([future.result() for future in futures]),
                sum(index == len(study.views) - 1 for study, index in places),
            )
    finally:
        reader.shutdown(cancel_futures=True)
        decoders.shutdown(cancel_futures=True)


def _decoded(study: Study, index: int, side: int) -> np.ndarray:
    """One view of a study in a square, (S, S) uint8."""
    from ..models.letterbox import letterboxed

    try:
        pixels = study.view(index).pixels
    except (OSError, ValueError):
        raise ShardError(f"study {study.key}: view {index} is no picture; ingest the archive again") from None
    return letterboxed(pixels, side)
