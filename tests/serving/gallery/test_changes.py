"""Additions, deletions and compaction: the same as a gallery built from the rows that are left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.gallery.tables import found, joined, probes, renamed, table
from vetdino.platform.core.errors import GalleryError
from vetdino.serving.gallery.build import FeaturesSource, build
from vetdino.serving.gallery.bundle import current_version
from vetdino.serving.gallery.changes import add, compact, delete, verify
from vetdino.serving.gallery.gallery import Gallery
from vetdino.serving.gallery.manifest import METADATA, TAIL, VECTORS

QUERIES = table(3, seed=9).vectors


def answers(folder, k=30, **where):
    gallery = Gallery.open(folder)
    try:
        return [found(each) for each in gallery.search(QUERIES, k, **where)]
    finally:
        gallery.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 6)),
        st.tuples(st.just("delete"), st.sets(st.integers(0, 40), min_size=1, max_size=4)),
        st.tuples(st.just("forget"), st.integers(0, 4)),
        st.tuples(st.just("compact"), st.none()),
    ),
    max_size=5,
)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(steps=STEPS, kinds=st.sampled_from([0, 4]))
def test_any_changes_equal_a_gallery_built_from_what_is_left(tmp_path_factory, steps, kinds):
    folder = tmp_path_factory.mktemp("gallery")
    left = table(10, kinds=kinds)
    build(FeaturesSource(left), folder)
    for number, (action, what) in enumerate(steps):
        if action == "add":
            new = renamed(table(what, seed=number, kinds=kinds), f"{number}")
            add(folder, FeaturesSource(new))
            left = joined(left, new)
            continue
        gone = set()
        if action == "delete":
            gone = {row for row in what if row < len(left)}
        elif action == "forget":
            gone = {row for row in range(len(left)) if left.patients[row] == f"patient{what}"}
        else:
            compact(folder)
        if not gone or len(gone) == len(left):
            continue
        if action == "delete":
            delete(folder, keys=[left.keys[row] for row in gone])
        else:
            delete(folder, patients=[f"patient{what}"])
        left = left.rows([row for row in range(len(left)) if row not in gone])
    fresh = tmp_path_factory.mktemp("fresh")
    build(FeaturesSource(left), fresh)
    for where in ({}, {"exclude_patient": "patient1"}, {"split": "test"}, {"findings": {"mass": True}}):
        assert answers(folder, **where) == answers(fresh, **where)
    assert verify(folder).count == len(left)
    compact(folder)
    one, other = (current_version(path) for path in (folder, fresh))
    assert (one / VECTORS).read_bytes() == (other / VECTORS).read_bytes()
    assert (one / METADATA).read_bytes() == (other / METADATA).read_bytes()


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_an_approximate_gallery_changes_too_and_keeps_its_kind(made, index):
    folder = made(table(300, 6, kinds=0), index)
    add(folder, FeaturesSource(renamed(table(20, seed=1), "new")))
    delete(folder, ["key7", "newkey3"])
    (matches,) = Gallery.open(folder).search(table(20, seed=1).vectors[3:4], 318)
    keys = [match.item.key for match in matches]
    assert "newkey3" not in keys
    assert "key7" not in keys
    if index == "ivf":
        assert len(keys) == 318
    assert Gallery.open(folder).vector("newkey4") is not None
    manifest = compact(folder)
    assert (manifest.kind, manifest.rows, manifest.tail, manifest.deleted) == (index, 318, 0, 0)


def test_a_deleted_study_can_come_back(made):
    folder = made()
    before = answers(folder)
    delete(folder, ["key3"])
    add(folder, FeaturesSource(table().rows([3])))
    assert [sorted(each) for each in answers(folder)] == [sorted(each) for each in before]


def test_what_is_compacted_is_gone_from_the_disk(made):
    features = replace(table(60, 384), keys=tuple(f"canary-{row}-end" for row in range(60)))
    folder = made(features)
    gone = features.vectors[7].astype(np.float16).tobytes()
    delete(folder, ["canary-7-end"])
    compact(folder)
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert gone not in content
    assert b"canary-7-end" not in content
    assert b"canary-8-end" in content


def test_the_manifest_counts_and_names_its_data(made):
    folder = made()
    other = replace(renamed(table(3, seed=1), "new"), manifest="d" * 64)
    manifest = add(folder, FeaturesSource(other))
    assert (manifest.indexed, manifest.tail, manifest.deleted, manifest.count) == (12, 3, 0, 15)
    assert manifest.data == ("c" * 64, "d" * 64)
    manifest = delete(folder, ["newkey1"])
    assert (manifest.rows, manifest.count) == (15, 14)
    assert "3 added since, 1 deleted" in manifest.summary()


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"backbone": "b" * 64}, ("aaaaaaaaaaaa", "bbbbbbbbbbbb")),
        ({"views": ("view0",) * 3}, ("by study", "by view")),
        ({"probes": probes(6, seed=1)}, ("probe's cosine",)),
        ({"findings": ("mass", "stone")}, ("'stone'",)),
        ({"keys": ("key0", "key1", "key2")}, ("already there",)),
    ],
)
def test_rows_that_do_not_belong_are_refused_in_one_line(made, change, facts):
    folder = made()
    name = current_version(folder).name
    other = replace(renamed(table(3, seed=1), "new"), **change)
    with pytest.raises(GalleryError) as refusal:
        add(folder, FeaturesSource(other))
    assert all(fact in str(refusal.value) for fact in facts)
    assert "\n" not in str(refusal.value)
    assert current_version(folder).name == name


def test_rows_without_labels_can_be_added(made):
    folder = made()
    add(
        folder,
        FeaturesSource(replace(renamed(table(2), "new"), findings=(), labels=np.empty((2, 0), np.float32))),
    )
    assert np.isnan(list(Gallery.open(folder).item("newkey1").findings.values())).all()


@pytest.mark.parametrize(
    ("keys", "patients", "fact"),
    [
        (["key1", "nothere", "key2"], [], "no study nothere here .1 of 3"),
        (["key1"], ["canary-patient"], "1 of 1 patients are not here"),
        ([f"key{row}" for row in range(12)], [], "all of its rows"),
        ([], [], "nothing to delete"),
    ],
)
def test_what_cannot_be_deleted_deletes_nothing(made, keys, patients, fact):
    folder = made()
    with pytest.raises(GalleryError, match=fact) as refusal:
        delete(folder, keys, patients)
    assert "canary-patient" not in str(refusal.value)
    assert len(Gallery.open(folder)) == 12


@pytest.mark.parametrize("change", [compact, verify, lambda path: delete(path, ["a"])])
def test_what_is_no_gallery_is_not_changed(tmp_path, change):
    with pytest.raises(GalleryError, match="no gallery here"):
        change(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_verifying_compares_rows_with_vectors(made, monkeypatch):
    folder = made()
    add(folder, FeaturesSource(renamed(table(3, seed=1), "new")))
    assert verify(folder).count == 15
    path = current_version(folder) / TAIL
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(GalleryError, match="not what was written"):
        verify(folder)
    monkeypatch.setattr("vetdino.serving.gallery.metadata.Metadata.ids", lambda *_: np.array([0, 0]))
    with pytest.raises(GalleryError, match="not those of its vectors"):
        verify(made())
