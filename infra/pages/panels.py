"""What a backbone sees in a study: two views with its attention, and the patches that answer a patch.

Every backbone is shown the same studies and asked about the same point, so that panels stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...platform.core.errors import ConfigError
from ...platform.data.shards import StudyIndex
from ...platform.data.study import Study

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone

TILE = 240
"""Height of a tile, in pixels."""

ANCHOR = (0.5, 0.42)
"""The point asked about, as parts of the first view's width and height: in a trunk, near its middle."""

RED, LIGHT = (255, 70, 60), (255, 205, 112)

CAPTION = "patch asked about; what answers it in the other view; attention of the last block in both views"


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One study to look at. name: its place, such as `test-12`; views: numbers of the two shown."""

    name: str
    study: Study
    views: tuple[int, int]

    def __repr__(self) -> str:
        return f"Shown({self.name}, views {self.views})"


def shown_of(shards: str | Path, split: str, count: int) -> list[Shown]:
    """`count` studies evenly over a split, of those with two views; of the first view and one unlike it.

    Raises ConfigError where the split holds none, ShardError for damaged shards.
    """
    index = StudyIndex(shards, split)
    found = []
    for start in np.linspace(0, len(index), count, endpoint=False).astype(int):
        taken = {one.name for one in found}
        for place in range(start, len(index)):
            study = index.load(place)
            if len(study.views) > 1 and f"{split}-{place}" not in taken:
                found.append(Shown(f"{split}-{place}", study, (0, _unlike(study))))
                break
    if not found:
        raise ConfigError(f"{shards}: no study with two views in {split}; choose another --split")
    return found


def _unlike(study: Study) -> int:
    """The first view of another projection than the first; the second where there is none."""
    first, *others = (view.projection for view in study.views)
    return next((number for number, other in enumerate(others, start=1) if other != first), 1)


def panel(backbone: Backbone, shown: Shown) -> bytes:
    """One backbone on one study as JPEG: four tiles, as CAPTION says."""
    from ...serving.attention import MEAN_COLOUR, maps_of, mean_map, overlay
    from ...serving.similarity import PatchGrid, similarity_of, top_boxes

    views = [shown.study.view(number).pixels for number in shown.views]
    grids = [PatchGrid(*pixels.shape, side=backbone.side, patch=backbone.patch) for pixels in views]
    image = backbone.prepare_many(views)
    tokens = backbone.tokens(image).patches.float().cpu().numpy()
    attention = backbone.attention(image).float().cpu().numpy()
    anchor = grids[0].patch_at(ANCHOR[0] * grids[0].width, ANCHOR[1] * grids[0].height)
    scores = similarity_of(anchor, tokens[0], tokens[1])
    asked = _boxed(overlay(views[0], np.zeros((1, *views[0].shape)), [LIGHT]), [grids[0].box(anchor)], RED)
    answers = overlay(views[1], maps_of(scores[None], grids[1]), [LIGHT])
    answers = _boxed(answers, [one.box for one in top_boxes(scores, grids[1])], RED)
    looks = [
        overlay(pixels, mean_map(row, grid)[None], [MEAN_COLOUR])
        for pixels, row, grid in zip(views, attention, grids, strict=True)
    ]
    return _jpeg(_in_a_row([asked, answers, *looks]))


def panels(backbones: dict[str, Backbone], shown: list[Shown]) -> Iterator[tuple[str, str, bytes]]:
    """(study, backbone, picture), study by study."""
    for one in shown:
        for name, backbone in backbones.items():
            projections = " and ".join(one.study.views[number].projection for number in one.views)
            yield f"{one.name}: {projections}", name, panel(backbone, one)


def _boxed(picture: np.ndarray, boxes: list[tuple[int, int, int, int]], colour: tuple) -> np.ndarray:
    import cv2

    picture = picture.copy()
    thick = max(1, round(picture.shape[0] / TILE))
    for left, top, right, bottom in boxes:
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, thick)
    return picture


def _in_a_row(pictures: list[np.ndarray]) -> np.ndarray:
    """RGB pictures of any sizes beside one another, each TILE high."""
    import cv2

    tiles = []
    for picture in pictures:
        width = max(1, round(picture.shape[1] * TILE / picture.shape[0]))
        tiles += [
            cv2.resize(picture, (width, TILE), interpolation=cv2.INTER_AREA),
            np.zeros((TILE, 4, 3), np.uint8),
        ]
    return np.concatenate(tiles[:-1], axis=1)


def _jpeg(picture: np.ndarray) -> bytes:
    import cv2

    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return encoded.tobytes()
