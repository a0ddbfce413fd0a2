"""A search over shards: the same answer however many there are, and exclusion that is exact on every index."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.gallery.tables import found, joined, kept, renamed, slow_search, table
from vetdino.platform.core.errors import GalleryError
from vetdino.platform.measure.neighbors import unit_vectors
from vetdino.serving.gallery import searching as module
from vetdino.serving.gallery.build import FeaturesSource
from vetdino.serving.gallery.changes import add, delete
from vetdino.serving.gallery.gallery import Gallery
from vetdino.serving.gallery.searching import Searcher
from vetdino.serving.gallery.shard import GalleryShard

FILTERS = (
    {},
    {"findings": {"mass": True}},
    {"projections": ["VD"]},
    {"split": "test", "findings": {"fluid": False}},
)


def divided(gallery: Gallery, count: int) -> Searcher:
    """The same gallery in `count` shards."""
    manifest = gallery.manifest
    edges = [manifest.rows * number // count for number in range(count + 1)]
    shards = [GalleryShard(gallery.version, manifest, start, stop) for start, stop in pairwise(edges)]
    return Searcher(manifest, gallery.metadata, lambda query: [shard.candidates(query) for shard in shards])


def ask(searcher: Searcher, queries, k, exclude=None, findings=None, projections=None, split=None):
    return [found(each) for each in searcher.search(queries, k, exclude, findings, projections, split)]


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """Index -> a gallery of 800 rows with ties, of which 60 were added later and 40 were deleted."""
    from vetdino.serving.gallery.build import build
    from vetdino.serving.gallery.config import IndexConfig

    one = table(740, 16, kinds=300, patients=40)
    other = renamed(table(60, 16, 1, kinds=20, patients=60), "new")
    galleries = {}
    for index in ("flat", "ivf"):
        folder = tmp_path_factory.mktemp(index)
        build(FeaturesSource(one), folder, IndexConfig(index=index))
        add(folder, FeaturesSource(other))
        delete(folder, [*one.keys[100:130], *other.keys[:10]])
        galleries[index] = Gallery.open(folder)
    both = joined(one, other)
    left = [row for row, key in enumerate(both.keys) if key not in {*one.keys[100:130], *other.keys[:10]}]
    return galleries, both.rows(left)


@pytest.mark.parametrize("index", ["flat", "ivf"])
@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("exact_below", [0, 2000])
def test_the_answer_does_not_depend_on_the_number_of_shards(changed, index, where, exact_below, monkeypatch):
    monkeypatch.setattr(module, "EXACT_BELOW", exact_below)
    galleries, features = changed
    gallery = galleries[index]
    queries = table(6, 16, seed=5).vectors
    exclude = [None, *features.patients[:5]]
    whole = ask(divided(gallery, 1), queries, 12, exclude, **where)
    for count in (2, 3, 7):
        assert ask(divided(gallery, count), queries, 12, exclude, **where) == whole
    assert [found(each) for each in gallery.search(queries, 12, exclude_patient=exclude, **where)] == whole


@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_a_batch_is_answered_like_single_queries(changed, index):
    gallery = changed[0][index]
    queries = table(30, 16, seed=6).vectors
    exclude = [None, "patient3", "patient7"] * 10
    batch = ask(divided(gallery, 2), queries, 9, exclude)
    single = [ask(divided(gallery, 2), queries[m : m + 1], 9, exclude[m])[0] for m in range(30)]
    assert batch == single


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    k=st.integers(1, 40),
    where=st.sampled_from(FILTERS),
    patient=st.integers(0, 45),
)
def test_with_additions_and_deletions_a_flat_gallery_equals_the_slow_search(changed, seed, k, where, patient):
    galleries, features = changed
    query = table(1, 16, seed).vectors
    slow = slow_search(
        kept(features), unit_vectors(query)[0], k, exclude_patient=f"patient{patient}", **where
    )
    for count in (1, 3):
        assert ask(divided(galleries["flat"], count), query, k, f"patient{patient}", **where) == [slow]


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_a_patient_with_most_rows_does_not_hide_the_others(made, index):
    features = table(600, 16)
    near = np.tile(features.vectors[0], (500, 1)) + 0.01 * table(500, 16, 3).vectors
    vectors = np.concatenate([near, -features.vectors[500:]])
    features = replace(
        features,
        vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
        patients=("crowd",) * 500 + tuple(f"other{row}" for row in range(100)),
    )
    gallery = Gallery.open(made(features, index))
    (matches,) = gallery.search(features.vectors[:1], 20, exclude_patient="crowd")
    assert len(matches) == 20
    assert not [match for match in matches if match.item.patient == "crowd"]


@pytest.mark.parametrize("where", FILTERS[1:])
def test_a_filter_on_an_approximate_index_still_finds_k(changed, where, monkeypatch):
    monkeypatch.setattr(module, "EXACT_BELOW", 0)
    galleries, features = changed
    query = table(1, 16, seed=8).vectors
    everything = slow_search(kept(features), query[0], 1000, **where)
    (matches,) = galleries["ivf"].search(query, 1000, **where)
    assert {match.item.key for match in matches} == {key for key, _ in everything}


def test_a_filter_that_leaves_few_rows_is_answered_exactly(changed):
    galleries, features = changed
    query = table(1, 16, seed=8).vectors
    (matches,) = galleries["ivf"].search(query, 10, split="val")
    assert found(matches) == slow_search(kept(features), unit_vectors(query)[0], 10, split="val")


@pytest.mark.parametrize(
    ("queries", "arguments", "fact"),
    [
        (np.ones(16), {}, r"shape \(16,\); this gallery needs \(queries, 16\)"),
        (np.ones((2, 15)), {}, r"shape \(2, 15\)"),
        (np.full((1, 16), "x"), {}, "real numbers"),
        (np.ones((1, 16), complex), {}, "real numbers"),
        (np.ones((1, 16)), {"k": 0}, "k is 0"),
        (np.ones((2, 16)), {"exclude_patient": ["a"]}, "1 patients to leave out for 2 queries"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(changed, queries, arguments, fact):
    with pytest.raises(GalleryError, match=fact) as refusal:
        changed[0]["flat"].search(queries, **arguments)
    assert "\n" not in str(refusal.value)


def test_no_queries_have_no_answers(changed):
    assert changed[0]["flat"].search(np.empty((0, 16))) == []


@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_several_patients_are_left_out(changed, index):
    gallery, queries = changed[0][index], table(6, 16, seed=5).vectors
    patients = sorted({item.patient for items in gallery.metadata.all_items(1000) for item in items})
    some, others = patients[:3], patients[3:5]
    exclude = [[some, others, [], patients[0], None, [*some, "nobody"]][m] for m in range(6)]
    searched = divided(gallery, 2).search(queries, 30, exclude, None, None, None)
    every = divided(gallery, 2).search(queries, len(gallery), None, None, None, None)
    for names, matches, whole in zip(exclude, searched, every, strict=True):
        left_out = [names] if isinstance(names, str) else names or []
        assert not [match for match in matches if match.item.patient in left_out]
        assert len(matches) == 30
        if index == "flat":
            assert found(matches) == found([one for one in whole if one.item.patient not in left_out])[:30]
