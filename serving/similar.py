"""The studies of the app that are similar to one of them, from a gallery.

The gallery is opened once: a bundle that `vetdino index` made, or one that is built from a feature table at the start
and leaves nothing on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..platform.core.errors import GalleryError
from ..platform.measure.descriptors import Descriptor
from ..platform.measure.features import Features
from .gallery.build import FeaturesSource, build
from .gallery.gallery import Gallery
from .studies import Place

if TYPE_CHECKING:
    from ..platform.models.backbone import Backbone


@dataclass(frozen=True, slots=True)
class StudyMatch:
    """A study similar to the query: place, cosine, findings (1.0 present, 0.0 absent, NaN unknown)."""

    place: Place
    score: float
    findings: Mapping[str, float]


class SimilarStudies:
    """A gallery by study, and where the app has its studies (key -> place).

    Raises GalleryError for a gallery by view.
    """

    def __init__(self, gallery: Gallery, places: Mapping[str, Place]) -> None:
        if gallery.manifest.level != "study":
            raise GalleryError(
                f"this gallery is of level {gallery.manifest.level}, the app needs level study; build it from a table "
                "that `vetdino embed --level study` wrote"
            )
        self.gallery, self.places = gallery, places
        self._keys = {place: key for key, place in places.items()}

    def of(self, place: Place, k: int) -> list[StudyMatch]:
        """The k studies of other patients with the largest cosine to a study, best first; those the app can show.

        Raises GalleryError if the study is not in the gallery.
        """
        key = self._keys.get(place)
        if key is None or self.gallery.metadata.find(key, "") is None:
            raise GalleryError(
                f"study {place[1]} of split {place[0]} has no features here; "
                "run `vetdino embed` on the shards that the app shows"
            )
        wanted = k
        while True:
            matches = self.gallery.similar(key, wanted)
            shown = [
                StudyMatch(self.places[match.item.key], match.score, match.item.findings)
                for match in matches
                if match.item.key in self.places
            ]
            if len(shown) >= k or len(matches) < wanted:
                return shown[:k]
            wanted *= 4

    def __repr__(self) -> str:
        return f"SimilarStudies({len(self.gallery)} studies, backbone {self.gallery.manifest.backbone[:12]})"


def build_similar(
    features: Features, backbone: Backbone, places: Mapping[str, Place], *, rebuild: str
) -> SimilarStudies:
    """From the studies that are both in the features and in `places` (key -> place).

    rebuild: the command that makes matching features, for error messages. Raises GalleryError if the features are of
    another backbone, not of studies, or contain none of the places.
    """
    from ..platform.measure.extraction import probed

    made_by, descriptor = Descriptor.of_digest(features.backbone)
    loaded = backbone.card.digest
    if made_by != loaded:
        raise GalleryError(
            f"these features are of backbone {made_by[:12]}, the loaded one is {loaded[:12]}; "
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
    if kept.probes is None:
        kept = replace(kept, probes=probed(backbone, descriptor))
    with TemporaryDirectory(prefix="vetdino-gallery-") as folder:
        build(FeaturesSource(kept), Path(folder))
        # An open gallery needs its folder's names no more.
        return SimilarStudies(Gallery.open(folder, backbone), places)
