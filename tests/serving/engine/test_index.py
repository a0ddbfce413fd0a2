"""A gallery of the service: its answers are the gallery's, and another version in its folder is seen at once."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest

from tests.serving.gallery.tables import found, renamed, table
from vetdino.platform.core.errors import GalleryError
from vetdino.serving.engine.errors import RefusedError
from vetdino.serving.engine.index import LocalIndex, SearchFilter, rows_digest
from vetdino.serving.gallery.build import FeaturesSource, build
from vetdino.serving.gallery.changes import add
from vetdino.serving.gallery.gallery import Gallery
from vetdino.serving.studies import NotHereError

ALL = SearchFilter()
QUERIES = table(4, 16, seed=5).vectors


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    build(FeaturesSource(table(60, 16, patients=20)), folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    copytree(original, tmp_path / "gallery")
    return tmp_path / "gallery"


@pytest.fixture
def index(folder):
    index = LocalIndex(folder)
    yield index
    index.close()


def run(call):
    return asyncio.run(call)


def test_it_finds_what_the_gallery_finds(index, folder):
    exclude = [[], ["patient3", "patient4"], [], ["patient0"]]
    answer = run(index.search(QUERIES, 7, exclude, SearchFilter(split="test"), False))
    whole = Gallery.open(folder).search(QUERIES, 7, exclude_patient=exclude, split="test")
    assert [found(each) for each in answer.matches] == [found(each) for each in whole]
    similar = run(index.similar("key5", "", 7, ALL, False)).matches[0]
    assert found(similar) == found(Gallery.open(folder).similar("key5", 7))
    with pytest.raises(NotHereError):
        run(index.similar("nobody", "", 7, ALL, False))


def test_rows_are_listed_a_page_at_a_time(index):
    keys, after, pages = [], -1, 0
    while after is not None:
        page = run(index.page(SearchFilter(split="train"), after, 7))
        keys += [item.key for item in page.items]
        after, pages = page.last, pages + 1
    assert len(keys) == len(set(keys)) == page.total
    assert 0 < page.total < 60
    assert pages == -(-page.total // 7)
    assert run(index.page(SearchFilter(split="train"), -1, page.total)).last is None


def test_rows_are_listed_without_a_count(index):
    where = SearchFilter(split="train")
    counted, listed = run(index.page(where, -1, 7)), run(index.page(where, -1, 7, False))
    assert (listed.items, listed.last, listed.total) == (counted.items, counted.last, None)
    assert run(index.page(ALL, -1, 7, False)).total == 60


def test_a_change_from_outside_is_seen_with_the_next_request(index, folder):
    before = run(index.manifest())
    add(folder, FeaturesSource(renamed(table(5, 16, seed=2), "new")))
    assert run(index.manifest()).rows == before.rows + 5
    assert run(index.similar("newkey1", "", 1, ALL, False)).matches[0]


def test_rows_are_added_deleted_and_compacted(index):
    new = replace(renamed(table(3, 16, seed=2), "new"), probes=None)
    assert run(index.add(new)).tail == 3
    assert run(index.delete(["newkey0"], [])).deleted == 1
    with pytest.raises(NotHereError):
        run(index.similar("newkey0", "", 1, ALL, False))
    with pytest.raises(NotHereError, match="nothing is deleted"):
        run(index.delete(["newkey1", "nobody"], []))
    compacted = run(index.compact())
    assert (compacted.rows, compacted.tail, compacted.deleted) == (62, 0, 0)


def test_rows_of_another_backbone_or_shape_are_refused(index):
    new = replace(renamed(table(3, 16, seed=2), "new"), probes=None)
    with pytest.raises(RefusedError) as refusal:
        run(index.add(replace(new, backbone="f" * 64)))
    assert refusal.value.status == 409
    with pytest.raises(GalleryError, match="dimensions"):
        run(index.add(replace(new, vectors=new.vectors[:, :8])))


def test_a_gallery_that_became_one_of_another_backbone_is_refused_with_409(index, folder):
    build(FeaturesSource(replace(table(60, 16), backbone="e" * 64)), folder)
    for call in (index.manifest(), index.search(QUERIES, 3, [[]] * 4, ALL, False)):
        with pytest.raises(RefusedError) as refusal:
            run(call)
        assert refusal.value.status == 409
        assert "eeeeeeeeeeee" in str(refusal.value)


def test_changes_at_the_same_time_take_turns(index):
    async def all_at_once():
        tables = [replace(renamed(table(2, 16, seed=n), f"new{n}"), probes=None) for n in range(2, 6)]
        return await asyncio.gather(*(index.add(rows) for rows in tables))

    asyncio.run(all_at_once())
    assert run(index.manifest()).tail == 8


def test_a_change_takes_the_place_of_no_search(index, monkeypatch):
    may_end = threading.Event()
    monkeypatch.setattr("vetdino.serving.engine.index.compact", lambda bundle: may_end.wait(60))

    async def meanwhile():
        changes = [asyncio.create_task(index.compact()) for _ in range(6)]
        await asyncio.sleep(0.05)
        try:
            async with asyncio.timeout(20):
                return await index.search(QUERIES, 3, [[]] * 4, ALL, False)
        finally:
            may_end.set()
            await asyncio.gather(*changes)

    assert len(run(meanwhile()).matches) == 4


def test_an_answer_names_the_version_that_was_searched(index, folder, monkeypatch):
    whole = Gallery.search

    def changed_meanwhile(gallery, *arguments, **more):
        matches = whole(gallery, *arguments, **more)
        add(folder, FeaturesSource(renamed(table(1, 16, seed=2), "new")))
        return matches

    before = run(index.manifest()).digest
    monkeypatch.setattr(Gallery, "search", changed_meanwhile)
    answer = run(index.search(QUERIES, 3, [[]] * 4, ALL, False))
    assert (answer.digest, answer.gallery) == ("a" * 64, before)
    assert run(index.manifest()).digest != before


def test_errors_name_no_path_of_this_machine(index, folder, tmp_path):
    new = replace(renamed(table(3, 16, seed=2), "new"), probes=None)
    with pytest.raises(GalleryError) as error:
        run(index.add(replace(new, findings=("gout", "mass"))))
    assert "findings that the gallery has not" in str(error.value)
    errors = [error.value]
    for damage in (lambda: (folder / "CURRENT").write_text("000009-gone"), (folder / "CURRENT").unlink):
        damage()
        for call in (index.manifest, index.compact, lambda: index.page(ALL, -1, 5)):
            with pytest.raises(RefusedError) as refusal:
                run(call())
            assert (refusal.value.status, refusal.value.kind) == (503, "GalleryDamaged")
            assert "aaaaaaaaaaaa" in str(refusal.value)
            assert "vetdino index build FEATURES GALLERY" in str(refusal.value)
            errors.append(refusal.value)
    assert len(errors) == 7
    assert not any("/" in str(error) for error in errors)


def test_a_gallery_by_view_needs_views(tmp_path):
    by_view = replace(table(12, 16), views=tuple(f"view{n % 2}" for n in range(12)))
    build(FeaturesSource(by_view), tmp_path / "gallery")
    index = LocalIndex(tmp_path / "gallery")
    try:
        with pytest.raises(RefusedError) as refusal:
            run(index.similar("key5", "", 3, ALL, False))
        assert (refusal.value.status, refusal.value.kind) == (422, "WrongLevel")
        assert run(index.similar("key5", "view1", 3, ALL, False)).matches[0]
    finally:
        index.close()


def test_the_digest_of_added_rows_is_of_their_content():
    assert rows_digest(QUERIES, ["a"]) == rows_digest(QUERIES.astype(np.float64), ["a"])
    assert rows_digest(QUERIES, ["a"]) != rows_digest(QUERIES, ["b"])


@pytest.mark.slow
def test_a_dead_shard_is_503_or_named_in_a_partial_answer(folder, tmp_path):
    import ray

    from vetdino.serving.engine.errors import refusal_of
    from vetdino.serving.gallery.sharded import MissingShardsError

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False
    )
    try:
        index = LocalIndex(folder, shards=3)
        whole = Gallery.open(folder).search(QUERIES, 5)
        answer = run(index.search(QUERIES, 5, [[]] * 4, ALL, True))
        assert [found(each) for each in answer.matches] == [found(each) for each in whole]
        assert answer.missing == ()
        assert run(index.similar("key5", "", 7, ALL, False)).matches[0]
        ray.kill(index.current().gallery._actors[1], no_restart=True)
        with pytest.raises(MissingShardsError) as error:
            run(index.search(QUERIES, 5, [[]] * 4, ALL, False))
        refusal = refusal_of(error.value)
        assert (refusal.status, refusal.kind, refusal.retry_after) == (503, "MissingShards", 2)
        partial = run(index.search(QUERIES, 5, [[]] * 4, ALL, True))
        assert partial.missing == ((20, 39),)
        assert not [m for row in partial.matches for m in row if 20 <= m.item.id < 40]
        index.close()
    finally:
        ray.shutdown()
