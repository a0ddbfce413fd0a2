"""A range of a gallery's rows: its candidates, its vectors, and files that are not its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.serving.gallery.tables import renamed, table
from vetdino.platform.core.errors import GalleryError
from vetdino.serving.gallery.build import FeaturesSource
from vetdino.serving.gallery.bundle import current_version
from vetdino.serving.gallery.changes import add, delete
from vetdino.serving.gallery.manifest import TAIL, VECTORS, read_manifest
from vetdino.serving.gallery.metadata import ItemFilter
from vetdino.serving.gallery.shard import GalleryShard, ShardQuery, flat_index, load_vectors


def shard(folder, start, stop):
    version = current_version(folder)
    return GalleryShard(version, read_manifest(version), start, stop)


def ids(shard, where=ItemFilter(), count=99, **rest):  # noqa: B008
    query = ShardQuery(table(1).vectors, where, count, **rest)
    return sorted(shard.candidates(query)[0].ids.tolist())


@pytest.mark.parametrize("index", ["flat", "ivf"])
@pytest.mark.parametrize("exact", [False, True])
def test_a_shard_finds_its_own_rows_alone(made, index, exact):
    folder = made(table(12), index)
    add(folder, FeaturesSource(renamed(table(5, seed=1), "new")))
    assert ids(shard(folder, 3, 8), exact=exact) == [3, 4, 5, 6, 7]
    assert ids(shard(folder, 10, 15), exact=exact) == [10, 11, 12, 13, 14]
    assert ids(shard(folder, 13, 17), exact=exact) == [13, 14, 15, 16]
    assert ids(shard(folder, 0, 17), exact=exact) == list(range(17))
    delete(folder, ["key4", "newkey2"])
    assert ids(shard(folder, 3, 8), exact=exact) == [3, 5, 6, 7]
    assert ids(shard(folder, 13, 17), exact=exact) == [13, 15, 16]


def test_a_shard_without_rows_has_no_candidates(made):
    assert ids(shard(made(), 5, 5)) == []


def test_a_filter_is_looked_up_once(made):
    one = shard(made(), 0, 12)
    where = ItemFilter(split="test")
    first = ids(one, where)
    one.metadata.close()
    assert ids(one, where) == first


def test_vectors_come_from_both_files(made):
    folder, old, new = made(), table(), table(5, seed=1)
    add(folder, FeaturesSource(renamed(new, "new")))
    rows = shard(folder, 0, 3).vectors(np.array([16, 2, 12]))
    np.testing.assert_array_equal(
        rows, np.stack([new.vectors[4], old.vectors[2], new.vectors[0]]).astype(np.float16)
    )


def test_vectors_of_another_shape_are_refused(tmp_path):
    np.save(tmp_path / VECTORS, np.zeros((3, 4), np.float32))
    np.save(tmp_path / TAIL, np.array([{"a": 1}]), allow_pickle=True)
    for name in (VECTORS, TAIL):
        with pytest.raises(GalleryError, match="damaged"):
            load_vectors(tmp_path / name, 3, 4)
    with pytest.raises(FileNotFoundError):
        load_vectors(tmp_path / "none.npy", 3, 4)


def test_an_index_of_other_rows_is_refused(made):
    folder = made()
    version = current_version(folder)
    manifest = replace(read_manifest(version), indexed=12, dimensions=6)
    import faiss

    faiss.write_index(flat_index(table(11).vectors.astype(np.float16), 0).index, str(version / "index.faiss"))
    with pytest.raises(GalleryError, match="not the index of this gallery"):
        GalleryShard(version, manifest, 0, 12)
