"""A gallery from a feature table: of the studies shown, and of the backbone that is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vetdino.platform.core.errors import GalleryError
from vetdino.platform.measure.extraction import extract
from vetdino.platform.models.loading import load
from vetdino.serving.engine.tables import gallery_from_table
from vetdino.serving.gallery.gallery import Gallery
from vetdino.serving.studies import StudyPlaces

OTHER = "b" * 64
REBUILD = "vetdino embed BACKBONE SHARDS"


@pytest.fixture(scope="module")
def backbone(folder):
    return load(folder / "backbone0")


@pytest.fixture(scope="module")
def features(backbone, folder):
    """Of five studies; the first two are of one patient."""
    return extract(backbone, folder / "shards", ["test"])


class Shown(StudyPlaces):
    """Places of the studies with these keys alone."""

    def __init__(self, keys):
        self.keys = keys

    def find(self, keys):
        return [("test", 0) if key in self.keys else None for key in keys]


@pytest.fixture
def made(backbone, tmp_path):
    def make(table, keys=None) -> Gallery:
        places = Shown(set(table.keys) if keys is None else keys)
        return Gallery.open(
            gallery_from_table(table, backbone, places, tmp_path / "g", rebuild=REBUILD), backbone
        )

    return make


def test_matches_are_those_of_a_slow_search_without_the_own_patient(features, made):
    gallery = made(features)
    for row, key in enumerate(features.keys):
        slow = [
            (round(float(features.vectors[row] @ features.vectors[i]), 3), i)
            for i in range(len(features))
            if features.patients[i] != features.patients[row]
        ]
        scores = [round(match.score, 3) for match in gallery.similar(key, 3)]
        assert scores == [score for score, _ in sorted(slow, key=lambda pair: -pair[0])[:3]]


def test_only_studies_that_are_shown_are_in_it(features, made):
    assert len(made(features, {features.keys[0], features.keys[4]})) == 2
    with pytest.raises(GalleryError, match="none of the studies"):
        made(features, {"elsewhere"})


def test_features_of_before_there_were_probes_will_do(features, made):
    assert len(made(replace(features, probes=None)).similar(features.keys[0], 3)) == 3


def test_features_of_another_backbone_are_refused_with_both_digests_and_the_command(features, backbone, made):
    with pytest.raises(GalleryError) as refusal:
        made(replace(features, backbone=OTHER))
    for part in (OTHER[:12], backbone.card.digest[:12], REBUILD):
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_features_of_views_are_refused(features, made):
    with pytest.raises(GalleryError, match="level view"):
        made(replace(features, views=("view0",) * 5))
