"""A gallery: study-level feature vectors with the place of each study, searched by cosine similarity.

A gallery belongs to the backbone that made its vectors. Vectors of another backbone have the same shape but no
meaning here, so they are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ..platform.core.errors import GalleryError
from ..platform.measure.features import Features
from ..platform.measure.neighbors import nearest

# N studies of the gallery, D dimensions of a vector.

Place = tuple[str, int]
"""Where a study is: its split and its position there, as `StudyIndex` counts."""


@dataclass(frozen=True, slots=True)
class Match:
    """A study similar to the query: place, cosine, findings (1.0 present, 0.0 absent, NaN unknown)."""

    place: Place
    score: float
    findings: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Study-level features and the place of each study; made by `build_gallery`.

    row_of_place: place -> row of `features`. most_per_patient: studies of the patient with the most, which is how many
    of the best matches may have to be left out.
    """

    features: Features
    row_of_place: Mapping[Place, int]
    places: tuple[Place, ...]
    most_per_patient: int

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        return f"Gallery({len(self)} studies, backbone {self.features.backbone[:12]})"

    def similar_studies(self, place: Place, k: int) -> list[Match]:
        """The k studies of other patients with the largest cosine to a study of the gallery, best first.

        Raises GalleryError if the study is not in the gallery.
        """
        row = self.row_of_place.get(place)
        if row is None:
            raise GalleryError(
                f"study {place[1]} of split {place[0]} has no features here; "
                "run `vetdino embed` on the shards that the app shows"
            )
        vectors, patients = self.features.vectors, self.features.patients
        scores_1K, rows_1K = nearest(vectors, vectors[row][None], k + self.most_per_patient)
        matches = [
            Match(self.places[other], float(score), self._findings(other))
            for score, other in zip(scores_1K[0], rows_1K[0].tolist(), strict=True)
            if patients[other] != patients[row]
        ]
        return matches[:k]

    def _findings(self, row: int) -> dict[str, float]:
        return dict(zip(self.features.findings, self.features.labels[row].tolist(), strict=True))


def build_gallery(features: Features, backbone: str, places: Mapping[str, Place], *, rebuild: str) -> Gallery:
    """A gallery of the studies that are both in the features and in `places` (key -> place).

    backbone: digest of the app's backbone. rebuild: the command that makes matching features, for error messages.
    Raises GalleryError if the features are of another backbone, not of studies, or contain none of the places.
    """
    made_by = features.backbone.partition("+")[0]  # "+mean" says how tokens were pooled
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
        raise GalleryError(
            f"these features contain none of the studies shown; make them again with `{rebuild}`"
        )
    kept = features.rows(rows)
    return Gallery(
        features=kept,
        row_of_place={places[key]: row for row, key in enumerate(kept.keys)},
        places=tuple(places[key] for key in kept.keys),
        most_per_patient=max(Counter(kept.patients).values()),
    )
