"""A gallery made from a feature table when the page starts, for those who have built none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...platform.core.errors import GalleryError
from ...platform.measure.descriptors import Descriptor
from ...platform.measure.features import Features
from ..gallery.build import FeaturesSource, build
from ..studies import StudyPlaces

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone


def gallery_from_table(
    features: Features, backbone: Backbone, places: StudyPlaces, out: Path, *, rebuild: str
) -> Path:
    """Builds a gallery of the studies that are in both the table and `places`; its folder.

    rebuild: the command that makes matching features, for error messages. Raises GalleryError if the features are of
    another backbone, not of studies, or contain none of the studies.
    """
    from ...platform.measure.extraction import probed

    if features.level != "study":
        raise GalleryError(
            f"these features are of level {features.level}, a gallery needs level study; "
            f"make them again with `{rebuild}`"
        )
    made_by, descriptor = Descriptor.of_digest(features.backbone, "study")
    loaded = backbone.card.digest
    if made_by != loaded:
        raise GalleryError(
            f"these features are of backbone {made_by[:12]}, the loaded one is {loaded[:12]}; "
            f"make them again with `{rebuild}`"
        )
    rows = [row for row, place in enumerate(places.find(features.keys)) if place is not None]
    if not rows:
        raise GalleryError(
            f"these features contain none of the studies shown; make them again with `{rebuild}`"
        )
    kept = features.rows(rows)
    if kept.probes is None:
        kept = replace(kept, probes=probed(backbone, descriptor))
    build(FeaturesSource(kept), out)
    return out
