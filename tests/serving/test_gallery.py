from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.platform.core.errors import GalleryError
from vetdino.platform.measure.features import Features
from vetdino.serving.gallery import build_gallery

DIGEST, OTHER = "a" * 64, "b" * 64
REBUILD = "vetdino embed BACKBONE SHARDS"


def features(count: int = 12, patients: int = 5, seed: int = 0) -> Features:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, 6)).astype(np.float32)
    return Features(
        keys=tuple(f"key{i}" for i in range(count)),
        patients=tuple(f"patient{random.integers(patients)}" for _ in range(count)),
        splits=("test",) * count,
        views=("",) * count,
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        findings=("effusion",),
        labels=random.integers(0, 2, (count, 1)).astype(np.float32),
        backbone=DIGEST,
        manifest="c" * 64,
    )


def places(table: Features) -> dict[str, tuple[str, int]]:
    return {key: ("test", position) for position, key in enumerate(table.keys)}


def gallery(table: Features):
    return build_gallery(table, DIGEST, places(table), rebuild=REBUILD)


@given(seed=st.integers(0, 500), count=st.integers(2, 25), patients=st.integers(1, 6), k=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_matches_are_those_of_a_slow_search_without_the_own_patient(seed, count, patients, k):
    table = features(count, patients, seed)
    slow = [
        (float(table.vectors[0] @ table.vectors[i]), -i)
        for i in range(count)
        if table.patients[i] != table.patients[0]
    ]
    found = gallery(table).similar_studies(("test", 0), k)
    assert [match.place[1] for match in found] == [-i for _, i in sorted(slow, reverse=True)[:k]]


def test_a_patient_with_many_equal_studies_does_not_hide_others():
    table = features(10, patients=1)
    vectors = np.tile(table.vectors[0], (10, 1))
    vectors[9] = table.vectors[9]
    table = replace(table, vectors=vectors, patients=("same",) * 9 + ("other",))
    assert [match.place for match in gallery(table).similar_studies(("test", 0), 3)] == [("test", 9)]


def test_a_match_has_its_findings_and_its_cosine():
    table = features()
    match = gallery(table).similar_studies(("test", 3), 1)[0]
    row = match.place[1]
    assert match.findings == {"effusion": table.labels[row, 0]}
    assert match.score == pytest.approx(float(table.vectors[3] @ table.vectors[row]), abs=1e-5)


def test_a_gallery_keeps_only_studies_whose_place_is_known():
    table = features()
    known = {"key4": ("test", 0), "key7": ("train", 3)}
    small = build_gallery(table, DIGEST, known, rebuild=REBUILD)
    assert small.places == (("test", 0), ("train", 3))
    assert repr(small) == "Gallery(2 studies, backbone aaaaaaaaaaaa)"


def test_features_pooled_with_the_mean_are_still_of_their_backbone():
    table = replace(features(), backbone=f"{DIGEST}+mean")
    assert len(gallery(table)) == 12


def test_features_of_another_backbone_are_refused_with_both_digests_and_the_command():
    with pytest.raises(GalleryError) as refusal:
        gallery(replace(features(), backbone=OTHER))
    for part in (OTHER[:12], DIGEST[:12], REBUILD):
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_features_of_views_are_refused():
    with pytest.raises(GalleryError, match="level view"):
        gallery(replace(features(), views=("view0",) * 12))


def test_features_of_other_studies_are_refused():
    with pytest.raises(GalleryError, match="none of the studies"):
        build_gallery(features(), DIGEST, {"elsewhere": ("test", 0)}, rebuild=REBUILD)


def test_a_study_without_features_is_refused_by_its_place_alone():
    with pytest.raises(GalleryError, match="study 99 of split test"):
        gallery(features()).similar_studies(("test", 99), 3)
