"""A gallery in Ray actors: the undivided gallery's answers, and a dead actor is never passed over in silence."""

from __future__ import annotations

import time

import pytest

from tests.serving.gallery.tables import found, renamed, table
from vetdino.platform.core.errors import ConfigError, GalleryError
from vetdino.serving.gallery import sharded as module
from vetdino.serving.gallery.build import FeaturesSource, build
from vetdino.serving.gallery.changes import add, delete
from vetdino.serving.gallery.config import IndexConfig
from vetdino.serving.gallery.gallery import Gallery
from vetdino.serving.gallery.sharded import ShardedGallery

pytestmark = pytest.mark.slow

QUERIES = table(4, 16, seed=5).vectors


@pytest.fixture(scope="module")
def ray():
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    build(FeaturesSource(table(600, 16, kinds=300, patients=30)), folder, IndexConfig(index="ivf"))
    add(folder, FeaturesSource(renamed(table(60, 16, 1), "new")))
    delete(folder, ["key7", "newkey3"])
    return folder


@pytest.fixture(scope="module")
def gallery(ray, folder):
    gallery = ShardedGallery.open(folder, shards=3, verify=True)
    yield gallery
    gallery.close()


@pytest.mark.parametrize("where", [{}, {"split": "test"}, {"exclude_patient": "patient3"}])
def test_its_answer_is_that_of_the_undivided_gallery(gallery, folder, where):
    answer = gallery.search_partial(QUERIES, 15, **where)
    whole = Gallery.open(folder).search(QUERIES, 15, **where)
    assert [found(each) for each in answer.matches] == [found(each) for each in whole]
    assert answer.missing == ()
    assert repr(gallery) == "ShardedGallery(658 rows in 3 shards)"


def test_a_dead_shard_is_an_error_or_named_in_a_partial_answer(ray, folder):
    gallery = ShardedGallery.open(folder, shards=3)
    ray.kill(gallery._actors[1], no_restart=True)
    with pytest.raises(GalleryError, match=r"1 of 3 shards do not answer \(rows 220 to 439 of 660\)"):
        gallery.search(QUERIES)
    answer = gallery.search_partial(QUERIES, 660)
    assert answer.missing == ((220, 439),)
    ids = {match.item.id for match in answer.matches[0]}
    assert ids == set(range(220)) - {7} | set(range(440, 660)) - {603}
    for actor in gallery._actors:
        ray.kill(actor, no_restart=True)
    with pytest.raises(GalleryError, match="none of the 3 shards"):
        gallery.search_partial(QUERIES)


def test_a_lost_shard_comes_back_by_itself(ray, gallery, folder):
    ray.kill(gallery._actors[0], no_restart=False)
    deadline = time.monotonic() + 60
    while (answer := gallery.search_partial(QUERIES)).missing and time.monotonic() < deadline:
        time.sleep(0.2)
    assert answer.missing == ()
    assert [found(each) for each in answer.matches] == [
        found(each) for each in Gallery.open(folder).search(QUERIES)
    ]


def test_a_shard_that_is_too_slow_is_missing(gallery, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.0)
    with pytest.raises(GalleryError, match=r"do not answer|none of the 3 shards answers"):
        gallery.search(QUERIES, 10)


def test_what_cannot_be_divided_is_refused(ray, folder, tmp_path):
    with pytest.raises(GalleryError, match="700 shards for 660 rows"):
        ShardedGallery.open(folder, shards=700)
    build(FeaturesSource(table(50)), tmp_path, IndexConfig(index="hnsw"))
    with pytest.raises(GalleryError, match="hnsw"):
        ShardedGallery.open(tmp_path, shards=2)


def test_a_version_that_actors_cannot_read_is_refused(ray, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(
        module, "_start_actors", lambda version, ranges, start=module._start_actors: start(tmp_path, ranges)
    )
    with pytest.raises(GalleryError, match="shards did not start") as refusal:
        ShardedGallery.open(folder, shards=2)
    assert "\n" not in str(refusal.value)


def test_without_ray_there_are_no_shards(ray, folder, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r"ray\.init"):
        ShardedGallery.open(folder)
