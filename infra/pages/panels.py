"""Example studies through a backbone: patch similarity between two views, and attention, as one row of tiles.

Every backbone gets the same studies and the same patch, so that panels are comparable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...platform.core.errors import ConfigError
from ...platform.data.index import StudyIndex
from ...platform.data.rows import view_counts
from ...platform.data.study import Study
from ...platform.models.similarity import Box, PatchGrid, cosine_matrix, top_boxes
from ...serving.attention import MEAN_COLOR, Color, attention_maps, mean_attention_map, overlay
from ...serving.images import jpeg

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone

TILE = 240
"""Height of a tile, in pixels."""

ANCHOR = (0.5, 0.42)
"""The point whose patch is compared, as fractions of the first view's width and height: near the trunk's middle."""

BOX_COLOR: Color = (255, 70, 60)

CAPTION = (
    "a patch; the patches most similar to it in the other view; attention of the last block in both views"
)


@dataclass(frozen=True, slots=True, eq=False)
class PanelStudy:
    """An example study. name: its place, such as `test-12`; views: numbers of the two shown."""

    name: str
    study: Study
    views: tuple[int, int]

    def __repr__(self) -> str:
        return f"PanelStudy({self.name}, views {self.views})"


def panel_studies(shards: str | Path, split: str, count: int) -> list[PanelStudy]:
    """`count` studies with two views, evenly spaced over a split; their first view and one of another projection.

    Raises ConfigError if the split has none, ShardError for damaged shards.
    """
    index = StudyIndex(shards, split)
    chosen: dict[int, PanelStudy] = {}
    with_two = np.flatnonzero(view_counts(index.rows) > 1)
    for start in np.linspace(0, len(index), count, endpoint=False).astype(int):
        position = next((int(row) for row in with_two[with_two >= start] if int(row) not in chosen), None)
        if position is not None:
            study = index.load(position)
            chosen[position] = PanelStudy(f"{split}-{position}", study, (0, _other_projection(study)))
    if not chosen:
        raise ConfigError(f"{shards}: no study with two views in {split}; choose another --split")
    return list(chosen.values())


def _other_projection(study: Study) -> int:
    """The first view of another projection than the first view; the second if there is none."""
    first, *others = (view.projection for view in study.views)
    return next((number for number, other in enumerate(others, start=1) if other != first), 1)


def backbone_panels(
    backbones: Mapping[str, Backbone], studies: Sequence[PanelStudy]
) -> Iterator[tuple[str, str, bytes]]:
    """(title of the study, name of the backbone, JPEG), study by study."""
    for example in studies:
        projections = " and ".join(example.study.views[number].projection for number in example.views)
        for name, backbone in backbones.items():
            yield f"{example.name}: {projections}", name, study_panel(backbone, example)


def study_panel(backbone: Backbone, example: PanelStudy) -> bytes:
    """One study through one backbone as JPEG: the four tiles of `CAPTION`."""
    views = [example.study.view(number).pixels for number in example.views]
    grids = [
        PatchGrid(height=pixels.shape[0], width=pixels.shape[1], side=backbone.side, patch=backbone.patch)
        for pixels in views
    ]
    image = backbone.prepare_many(views)
    tokens = backbone.tokens(image).patches.float().cpu().numpy()
    attention = backbone.attention(image).float().cpu().numpy()
    anchor = grids[0].patch_at(ANCHOR[0] * grids[0].width, ANCHOR[1] * grids[0].height)
    cosines = cosine_matrix(tokens[0][anchor][None], tokens[1])[0]
    blank = overlay(views[0], np.zeros((1, *views[0].shape)), [MEAN_COLOR])
    similar = overlay(views[1], attention_maps(cosines[None], grids[1]), [MEAN_COLOR])
    return jpeg(
        _in_a_row(
            [
                _with_boxes(blank, [grids[0].box(anchor)]),
                _with_boxes(similar, [best.box for best in top_boxes(cosines, grids[1])]),
                *(
                    overlay(pixels, mean_attention_map(row, grid)[None], [MEAN_COLOR])
                    for pixels, row, grid in zip(views, attention, grids, strict=True)
                ),
            ]
        ),
        quality=88,
    )


def _with_boxes(picture: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    picture = picture.copy()
    thickness = max(1, round(picture.shape[0] / TILE))
    for left, top, right, bottom in boxes:
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), BOX_COLOR, thickness)
    return picture


def _in_a_row(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """RGB pictures of any sizes beside one another, each TILE high, with black gaps."""
    tiles = []
    for picture in pictures:
        width = max(1, round(picture.shape[1] * TILE / picture.shape[0]))
        tiles += [
            cv2.resize(picture, (width, TILE), interpolation=cv2.INTER_AREA),
            np.zeros((TILE, 4, 3), np.uint8),
        ]
    return np.concatenate(tiles[:-1], axis=1)
