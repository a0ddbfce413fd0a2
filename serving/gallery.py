"""The studies that can be found again: a vector each, what is known of them, and where each lies.

A gallery belongs to the backbone that made its vectors. Vectors of another backbone look the same and mean
nothing, so they are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..platform.core.errors import GalleryError
from ..platform.measure.features import Features
from ..platform.measure.neighbors import nearest

# N studies of the gallery, D dimensions of a vector.

Place = tuple[str, int]
"""Where a study lies: its split and its position there, as `shards.StudyIndex` counts."""


@dataclass(frozen=True, slots=True)
class Match:
    """A study that resembles the query: place, cosine, findings (1.0 present, 0.0 absent, NaN unknown)."""

    place: Place
    score: float
    findings: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Study-level features beside the place of each; made by `gallery_of`."""

    features: Features
    row_of: Mapping[Place, int]
    places: tuple[Place, ...]
    largest: int
    """Studies of the patient that has most: how many of the best matches may have to be left out."""

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        return f"Gallery({len(self)} studies, backbone {self.features.backbone[:12]})"

    def matches(self, vector_D: np.ndarray, patient: str, k: int) -> list[Match]:
        """The k studies of largest cosine, best first, none of them of `patient`.

        Raises FeaturesError where the vector has another dimension or no direction.
        """
        scores_1K, rows_1K = nearest(self.features.vectors, vector_D[None], k + self.largest)
        pairs = zip(scores_1K[0], rows_1K[0], strict=True)
        found = [(float(s), int(row)) for s, row in pairs if self.features.patients[row] != patient]
        return [Match(self.places[row], score, self._findings(row)) for score, row in found[:k]]

    def matches_of(self, place: Place, k: int) -> list[Match]:
        """The k studies most like one of the gallery's own. Raises GalleryError where it is not in here."""
        row = self.row_of.get(place)
        if row is None:
            raise GalleryError(
                f"study {place[1]} of split {place[0]} has no features here; "
                "run `vetdino embed` on the shards that the page shows"
            )
        return self.matches(self.features.vectors[row], self.features.patients[row], k)

    def _findings(self, row: int) -> dict[str, float]:
        values = self.features.labels[row].tolist()
        return dict(zip(self.features.findings, values, strict=True))


def gallery_of(features: Features, backbone: str, places: Mapping[str, Place], *, rebuild: str) -> Gallery:
    """A gallery of the studies that both the features and `places` (key -> place) know.

    backbone: digest of the backbone that will ask; rebuild: the command that makes fitting features, for
    messages. Raises GalleryError where the features are another backbone's, are not of studies, or hold none
    of the places.
    """
    made_by = features.backbone.partition("+")[0]  # "+mean" tells how tokens were pooled
    if made_by != backbone:
        raise GalleryError(
            f"these features are of backbone {made_by[:12]}, the loaded one is {backbone[:12]}; "
            f"make them again with `{rebuild}`"
        )
    if features.level != "study":
        raise GalleryError(
            f"these features are of level {features.level}, a gallery needs level study; "
            f"make them again with `{rebuild}`"
        )
    rows = [row for row, key in enumerate(features.keys) if key in places]
    if not rows:
        raise GalleryError(f"these features hold none of the studies shown; make them again with `{rebuild}`")
    kept = features.rows(rows)
    return Gallery(
        features=kept,
        row_of={places[key]: row for row, key in enumerate(kept.keys)},
        places=tuple(places[key] for key in kept.keys),
        largest=max(Counter(kept.patients).values()),
    )
