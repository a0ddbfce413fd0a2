"""A gallery built from a table: its rows, its measured recall, and tables that make none."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from tests.serving.gallery.tables import probes, table
from vetdino.platform.core.errors import FeaturesError, GalleryError
from vetdino.platform.measure.features import save_features
from vetdino.serving.gallery import build as module
from vetdino.serving.gallery.build import FeaturesSource, TableSource, build, measured_recall
from vetdino.serving.gallery.bundle import current_version
from vetdino.serving.gallery.config import IndexConfig
from vetdino.serving.gallery.gallery import Gallery
from vetdino.serving.gallery.indexes import build_index
from vetdino.serving.gallery.manifest import MANIFEST, VECTORS


def test_a_file_makes_the_same_gallery_as_its_table(tmp_path):
    features = table(50)
    build(TableSource(save_features(features, tmp_path)), tmp_path / "file")
    build(FeaturesSource(features), tmp_path / "memory")
    one, other = (current_version(tmp_path / name) for name in ("file", "memory"))
    assert (one / MANIFEST).read_bytes() == (other / MANIFEST).read_bytes()


def test_a_file_is_read_a_part_at_a_time(tmp_path, monkeypatch):
    features = table(50)
    path = save_features(features, tmp_path / "t.parquet")
    source = TableSource(path)
    batches = source.table.batches
    monkeypatch.setattr(source.table, "batches", lambda: batches(7))
    assert [len(part) for part in source.batches()] == [7] * 7 + [1]
    build(source, tmp_path / "parts")
    build(TableSource(path), tmp_path / "whole")
    assert current_version(tmp_path / "parts").name == current_version(tmp_path / "whole").name


@pytest.mark.slow
def test_a_build_never_holds_all_vectors_twice(tmp_path):
    features = table(40_000, 64, patients=9000)
    path = save_features(features, tmp_path)
    size = features.vectors.nbytes
    del features
    tracemalloc.start()
    build(TableSource(path), tmp_path / "gallery", IndexConfig(index="ivf"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * size + 30e6  # a part of the table as Python objects, the training sample, a block


def test_vectors_of_any_length_are_made_length_1(tmp_path):
    features = table()
    build(FeaturesSource(features), tmp_path / "one")
    build(FeaturesSource(replace(features, vectors=8 * features.vectors)), tmp_path / "eight")
    one, eight = (np.load(current_version(tmp_path / name) / VECTORS) for name in ("one", "eight"))
    np.testing.assert_array_equal(one, eight)


@pytest.mark.parametrize("index", ["flat", "ivf", "hnsw"])
def test_the_index_is_the_one_that_is_chosen_and_says_how_well_it_finds(tmp_path, index):
    features = table(900, 16, kinds=700)
    manifest = build(FeaturesSource(features), tmp_path, IndexConfig(index=index))
    assert (manifest.kind, manifest.index) == (index, index)
    assert manifest.recall.value >= 0.99
    assert (manifest.recall.k, manifest.recall.queries) == (10, 256)
    assert Gallery.open(tmp_path).manifest == manifest


def test_by_itself_a_gallery_is_flat_until_it_is_large(tmp_path, monkeypatch):
    assert build(FeaturesSource(table()), tmp_path).factory == "Flat"
    monkeypatch.setattr("vetdino.serving.gallery.config.FLAT_UP_TO", 11)
    assert build(FeaturesSource(table()), tmp_path).factory == "IVF12,RaBitQ"


def test_an_index_that_finds_too_little_does_more(monkeypatch):
    stored = table(900, 24).vectors.astype(np.float16)
    index, _ = build_index(stored, "ivf")
    monkeypatch.setattr(module, "NPROBE", 1)
    effort, recall = measured_recall(index, "ivf", stored)
    assert effort.nprobe > 8
    assert effort.rerank > 100
    assert recall.value >= 0.99
    monkeypatch.setattr(module, "ENOUGH", 0.0)
    effort, poor = measured_recall(index, "ivf", stored)
    assert (effort.nprobe, effort.rerank) == (1, 100)
    assert poor.value < 0.7


def test_the_recall_is_that_of_a_slow_count(monkeypatch):
    stored = table(400, 24).vectors.astype(np.float16)
    index, _ = build_index(stored, "ivf")
    monkeypatch.setattr(module, "NPROBE", 2)
    monkeypatch.setattr(module, "ENOUGH", 0.0)
    _, recall = measured_recall(index, "ivf", stored)
    import faiss

    unit = stored.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    hits = 0
    rows = np.random.default_rng(1).permutation(400)[:256]
    for row in rows:
        _, found = index.search(
            unit[row : row + 1].astype(np.float32), 101, params=faiss.SearchParametersIVF(nprobe=2)
        )
        best = sorted(set(found[0].tolist()) - {-1, int(row)}, key=lambda other: -cosines[row, other])[:10]
        exact = sorted(set(range(400)) - {int(row)}, key=lambda other: -cosines[row, other])[:10]
        hits += len(set(best) & set(exact))
    assert recall.value == pytest.approx(hits / 2560, abs=1e-5)


def test_one_row_is_a_gallery(tmp_path):
    for index in ("flat", "ivf"):
        manifest = build(FeaturesSource(table(1)), tmp_path, IndexConfig(index=index))
        assert (manifest.count, manifest.recall.queries) == (1, 0)
        assert len(Gallery.open(tmp_path).search(table(1).vectors, 3)[0]) == 1


@pytest.mark.parametrize(
    ("change", "error", "fact"),
    [
        ({"probes": None}, GalleryError, "has no probes.*vetdino embed"),
        ({"vectors": np.zeros((12, 6), np.float32)}, FeaturesError, "12 of 12 vectors"),
    ],
)
def test_a_table_that_makes_no_gallery_is_refused_and_leaves_none(tmp_path, change, error, fact):
    path = save_features(replace(table(), **change), tmp_path / "t.parquet")
    with pytest.raises(error, match=fact) as refusal:
        build(TableSource(path), tmp_path / "gallery")
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "gallery").glob("0*"))


def test_a_table_without_rows_is_refused(tmp_path):
    empty = table().rows([])
    with pytest.raises(GalleryError, match="without rows"):
        TableSource(save_features(empty, tmp_path))
    for features in (empty, replace(table(), probes=None)):
        with pytest.raises(GalleryError, match="at least one study, and with probes"):
            FeaturesSource(features)


def test_patches_make_no_gallery(tmp_path):
    patches = replace(table(), vectors=np.ones((12, 2, 2, 6), np.float16), views=("view0",) * 12)
    with pytest.raises(GalleryError, match="a table of patches, a gallery is of studies or views"):
        TableSource(save_features(patches, tmp_path))
    with pytest.raises(GalleryError, match="none of patches"):
        FeaturesSource(patches)


def test_a_gallery_of_float16_features_equals_that_of_the_float32_ones(tmp_path):
    features = table(300)
    half = replace(features, vectors=features.vectors.astype(np.float16))
    for name, source in (
        ("whole", FeaturesSource(features)),
        ("half", FeaturesSource(half)),
        ("file", TableSource(save_features(half, tmp_path / "features"))),
    ):
        build(source, tmp_path / name)
    for name in ("vectors.f16.npy", "index.faiss", "meta.sqlite"):
        whole, *others = (
            next((tmp_path / gallery).glob(f"0*/{name}")).read_bytes()
            for gallery in ("whole", "half", "file")
        )
        assert others == [whole, whole], name


def test_features_in_memory_are_taken_a_part_at_a_time(monkeypatch):
    monkeypatch.setattr("vetdino.serving.gallery.build.GROUP", 5)
    parts = list(FeaturesSource(table(12)).batches())
    assert [len(part) for part in parts] == [5, 5, 2]
    assert sum((part.keys for part in parts), ()) == table(12).keys


def test_a_row_that_comes_twice_in_different_parts_is_refused(tmp_path, monkeypatch):
    features = table(20)
    repeated = replace(features, keys=(*features.keys[:-1], "key0"), probes=probes(6))
    monkeypatch.setattr("vetdino.platform.measure.features.check_features", lambda *_: None)
    with pytest.raises(GalleryError, match="already there"):
        build(TableSource(save_features(repeated, tmp_path)), tmp_path / "gallery")
