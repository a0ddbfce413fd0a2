"""Studies similar to one of the app's, from a table or from a gallery."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vetdino.platform.core.errors import GalleryError
from vetdino.platform.measure.extraction import extract
from vetdino.serving.gallery.build import FeaturesSource, build
from vetdino.serving.gallery.gallery import Gallery
from vetdino.serving.similar import SimilarStudies, build_similar
from vetdino.serving.state import AppState

OTHER = "b" * 64
REBUILD = "vetdino embed BACKBONE SHARDS"


@pytest.fixture(scope="module")
def backbone(state):
    return state.encoders[0].backbone


@pytest.fixture(scope="module")
def features(backbone, folder):
    """Of five studies; the first two are of one patient."""
    return extract(backbone, folder / "shards", ["test"])


def places(table):
    return {key: ("test", position) for position, key in enumerate(table.keys)}


def similar(table, backbone):
    return build_similar(table, backbone, places(table), rebuild=REBUILD)


def test_matches_are_those_of_a_slow_search_without_the_own_patient(features, backbone):
    studies = similar(features, backbone)
    for row in range(len(features)):
        slow = [
            (round(float(features.vectors[row] @ features.vectors[i]), 3), i)
            for i in range(len(features))
            if features.patients[i] != features.patients[row]
        ]
        matches = studies.of(("test", row), 3)
        assert [round(match.score, 3) for match in matches] == [
            score for score, _ in sorted(slow, key=lambda pair: -pair[0])[:3]
        ]
        assert features.patients[row] not in {features.patients[match.place[1]] for match in matches}


def test_a_patient_with_many_equal_studies_does_not_hide_others(features, backbone):
    vectors = np.tile(features.vectors[0], (5, 1))
    vectors[4] = features.vectors[4]
    table = replace(features, vectors=vectors, patients=("same",) * 4 + ("other",))
    assert [match.place for match in similar(table, backbone).of(("test", 0), 3)] == [("test", 4)]


def test_a_match_has_its_findings_and_its_cosine(features, backbone):
    match = similar(features, backbone).of(("test", 3), 1)[0]
    row = match.place[1]
    assert match.findings["enlarged_heart"] == features.labels[row, 0]
    assert match.score == pytest.approx(float(features.vectors[3] @ features.vectors[row]), abs=1e-4)


def test_only_studies_whose_place_is_known_are_shown(features, backbone):
    known = {features.keys[0]: ("test", 0), features.keys[4]: ("train", 3)}
    small = build_similar(features, backbone, known, rebuild=REBUILD)
    assert repr(small) == f"SimilarStudies(2 studies, backbone {backbone.card.digest[:12]})"
    assert [match.place for match in small.of(("test", 0), 5)] == [("train", 3)]


def test_a_gallery_of_more_studies_than_the_app_shows_is_searched_for_those(features, backbone, tmp_path):
    build(FeaturesSource(features), tmp_path / "gallery")
    known = {features.keys[0]: ("test", 0), features.keys[4]: ("train", 3)}
    small = SimilarStudies(Gallery.open(tmp_path / "gallery", backbone), known)
    assert [match.place for match in small.of(("test", 0), 1)] == [("train", 3)]


def test_features_of_before_there_were_probes_are_still_shown(features, backbone):
    assert len(similar(replace(features, probes=None), backbone).of(("test", 0), 3)) == 3


def test_nothing_stays_on_disk(features, backbone, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    studies = similar(features, backbone)
    assert list(tmp_path.iterdir()) == []
    assert studies.of(("test", 0), 1)


def test_a_click_builds_no_index(state, monkeypatch):
    import faiss

    def refuse(*_):
        raise AssertionError("an index is built")

    for name in ("IndexFlatIP", "index_factory"):
        monkeypatch.setattr(faiss, name, refuse)
    assert state.neighbors(0, ("test", 0))


def test_features_of_another_backbone_are_refused_with_both_digests_and_the_command(features, backbone):
    with pytest.raises(GalleryError) as refusal:
        similar(replace(features, backbone=OTHER), backbone)
    for part in (OTHER[:12], backbone.card.digest[:12], REBUILD):
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_features_of_views_are_refused(features, backbone, tmp_path):
    by_view = replace(features, views=("view0",) * 5)
    with pytest.raises(GalleryError, match="level view"):
        similar(by_view, backbone)
    build(FeaturesSource(by_view), tmp_path)
    with pytest.raises(GalleryError, match="level view"):
        SimilarStudies(Gallery.open(tmp_path), places(features))


def test_features_of_other_studies_are_refused(features, backbone):
    with pytest.raises(GalleryError, match="none of the studies"):
        build_similar(features, backbone, {"elsewhere": ("test", 0)}, rebuild=REBUILD)


def test_a_study_without_features_is_refused_by_its_place_alone(features, backbone):
    with pytest.raises(GalleryError, match="study 99 of split test"):
        similar(features, backbone).of(("test", 99), 3)


def test_the_app_takes_a_gallery_in_the_place_of_a_table(features, state, folder, config_with, tmp_path):
    gallery: Path = tmp_path / "gallery"
    build(FeaturesSource(features), gallery)
    given = AppState(config_with(features=(gallery,), backbones=(folder / "backbone0",)))
    assert given.neighbors(0, ("test", 1)) == state.neighbors(0, ("test", 1))
    with pytest.raises(GalleryError) as refusal:
        AppState(config_with(features=(gallery,), backbones=(folder / "backbone1",)))
    for encoder in state.encoders[:2]:
        assert encoder.backbone.card.digest[:12] in str(refusal.value)
    assert "vetdino index build" in str(refusal.value)
