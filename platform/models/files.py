"""A backbone on files as they lie on a disk: the vector of a study, and patches of one image in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ConfigError, FeaturesError
from ..core.vectors import mean_vectors, unit_vectors
from ..data.config import ShardConfig
from ..dicom.config import DicomConfig
from ..dicom.file_view import file_view
from .similarity import Box, BoxScore, PatchGrid, cosine_matrix, top_boxes

if TYPE_CHECKING:
    from .backbone import Backbone

# B views, D dimensions, N patches.

ImageFile = str | Path | bytes
"""A path, or the bytes of a DICOM file or a picture."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchSimilarity:
    """A patch of an image against another image: its number and box, its cosines (N,), the best patches of the other.

    Boxes are (left, top, right, bottom) in pixels of the image.
    """

    patch: int
    box: Box
    cosines: np.ndarray
    best: list[BoxScore]

    def __repr__(self) -> str:
        best = self.best[0] if self.best else None
        return f"PatchSimilarity(patch {self.patch}, best {best})"


def image_pixels(image: ImageFile | np.ndarray) -> np.ndarray:
    """The pixels of a file as ingest would store them, (H, W) uint8; pixels as they are. Raises DicomError, OSError."""
    if isinstance(image, np.ndarray):
        return image
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    return file_view(data, DicomConfig(), ShardConfig()).decode().pixels


def study_vector(backbone: Backbone, paths: Sequence[ImageFile]) -> np.ndarray:
    """See `Backbone.embed_study`."""
    if isinstance(paths, str | bytes | Path):
        raise ConfigError("embed_study takes a list of files; put one file into a list")
    views = [image_pixels(path) for path in paths]
    if not views:
        raise FeaturesError("no files: a study has at least one view")
    vectors_BD = backbone.tokens(backbone.prepare_many(views)).cls.float().cpu().numpy()
    return mean_vectors(unit_vectors(vectors_BD, "the views"), [0], "the study")[0]


def patch_similarity(
    backbone: Backbone,
    a: ImageFile | np.ndarray,
    b: ImageFile | np.ndarray,
    patch: int | tuple[float, float],
    k: int,
) -> PatchSimilarity:
    """See `Backbone.similarity`."""
    images = [image_pixels(image) for image in (a, b)]
    grids = [
        PatchGrid(height=image.shape[0], width=image.shape[1], side=backbone.side, patch=backbone.patch)
        for image in images
    ]
    if isinstance(patch, tuple):
        x, y = patch
        if not (0 <= x < 1 and 0 <= y < 1):
            raise ConfigError(f"point {patch} is outside of the image; x and y are between 0 and 1")
        patch = grids[0].patch_at(x * grids[0].width, y * grids[0].height)
    if not 0 <= patch < grids[0].count:
        raise ConfigError(f"there is no patch {patch}; choose 0 to {grids[0].count - 1}")
    tokens = backbone.tokens(backbone.prepare_many(images)).patches.float().cpu().numpy()
    cosines_N = cosine_matrix(tokens[0, patch : patch + 1], tokens[1])[0]
    return PatchSimilarity(patch, grids[0].box(patch), cosines_N, top_boxes(cosines_N, grids[1], k))
