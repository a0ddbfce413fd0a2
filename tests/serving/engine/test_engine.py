"""The answers of the service, without HTTP."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.serving.conftest import dicom_file
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.study import StoredView
from vetdino.platform.models.loading import load
from vetdino.serving.engine.errors import RefusedError, refusal_of
from vetdino.serving.engine.index import SearchAnswer, SearchFilter
from vetdino.serving.gallery.metadata import GalleryItem
from vetdino.serving.gallery.searching import GalleryMatch
from vetdino.serving.studies import NotHereError

ALL = SearchFilter()


def run(call):
    return asyncio.run(call)


def test_a_study_has_the_vector_of_its_files_in_any_number(engine, files, folder):
    embedded = run(engine.embed(files, "study"))
    expected = load(folder / "backbone0").embed_study(files)
    np.testing.assert_allclose(embedded.vectors, expected[None], rtol=0, atol=2e-6)
    assert [view.projection for view in embedded.views] == ["VD", "DV", "LLAT"]
    images = run(engine.embed(files, "image"))
    assert images.vectors.shape == (3, 48)
    patches = run(engine.embed(files[:2], "patch", backbone=1))
    assert patches.vectors.shape == (2, 64, 48)


def test_a_bad_file_is_its_own_error_but_spoils_a_study(engine, files):
    flat = dicom_file(np.full((50, 40), 7, np.uint8))
    mixed = [files[0], flat, files[1]]
    embedded = run(engine.embed(mixed, "image"))
    assert [type(view) for view in embedded.views] == [StoredView, RefusedError, StoredView]
    assert embedded.vectors.shape == (2, 48)
    with pytest.raises(RefusedError, match="file 1: LOW_CONTRAST"):
        run(engine.embed(mixed, "study"))


def test_files_that_are_all_bad_are_refused_as_the_first_is_and_decoded_once(engine, monkeypatch):
    flat = dicom_file(np.full((50, 40), 7, np.uint8))
    decoded, decode = [], engine.decoder.decode

    async def once(data):
        decoded.append(data)
        return await decode(data)

    monkeypatch.setattr(engine.decoder, "decode", once)
    for level in ("image", "patch"):
        with pytest.raises(RefusedError, match="LOW_CONTRAST") as refusal:
            run(engine.embed([flat, b"GIF89a"], level))
        assert refusal.value.status == 422
    assert len(decoded) == 4


def test_similar_studies_are_of_other_patients(engine):
    found = run(engine.neighbors("test-0", 8, ALL, only_shown=True))
    shown = found.shown
    assert sorted(one.place[1] for one in shown) == [2, 3, 4]
    assert [len(one.views) for one in sorted(shown, key=lambda one: one.place)] == [3, 1, 3]
    assert found.missing == ()
    by_key = run(engine.neighbors(shown[0].match.item.key, 1, ALL)).shown
    assert by_key[0].match.item.key != shown[0].match.item.key


def test_an_upload_is_looked_at_like_a_study(engine, files):
    name = run(engine.upload(files, "mine"))
    assert run(engine.pixels(name, 2, "mine")).shape == (140, 230)
    encoded = run(engine.encoded(name, 0, "mine", 0))
    assert run(engine.encoded(name, 0, "mine", 0)) is encoded
    shown = run(engine.neighbors(name, 1, ALL, session="mine")).shown
    searched = run(engine.search(run(engine.embed(files, "study")).vectors, 1, [[]], ALL))
    assert [one.match for one in shown] == searched.matches[0]
    for session in ("", "other"):
        with pytest.raises(NotHereError):
            run(engine.encoded(name, 0, session, 0))
        with pytest.raises(NotHereError):
            run(engine.neighbors(name, 1, ALL, session=session))


def test_a_view_is_encoded_once(engine):
    assert run(engine.encoded("test-0", 0, "", 0)) is run(engine.encoded("test-0", 0, "", 0))


def test_the_similarity_of_two_views_has_a_row_for_each_patch(engine):
    views = [run(engine.encoded("test-0", view, "", 0)) for view in (0, 2)]
    matrix, low, high = run(engine.similarity_matrix(views))
    assert (np.frombuffer(matrix, np.uint8).reshape(128, 128).diagonal() == 255).all()
    assert -1 <= low < high <= 1.001
    match = engine.patch_match(*views, patch=9, k=5)
    assert match.cosines.shape == (64,)
    assert [box.score for box in match.best] == sorted((box.score for box in match.best), reverse=True)
    with pytest.raises(RefusedError, match="patch 64 of 0 to 63"):
        engine.patch_match(*views, patch=64, k=5)


@pytest.mark.parametrize("head", ["mean", "all", "0", "2"])
def test_attention_is_a_jpeg(engine, head):
    encoded, pixels = run(engine.encoded("test-0", 0, "", 0)), run(engine.pixels("test-0", 0, ""))
    assert run(engine.attention_picture(pixels, encoded, head, 64)).startswith(b"\xff\xd8")


@pytest.mark.parametrize("head", ["3", "-1", "most", "9" * 400])
def test_an_unknown_head_is_refused(engine, head):
    encoded, pixels = run(engine.encoded("test-0", 0, "", 0)), run(engine.pixels("test-0", 0, ""))
    with pytest.raises(NotHereError, match="no such head"):
        run(engine.attention_picture(pixels, encoded, head, 64))


def test_a_click_builds_no_index(engine, monkeypatch):
    import faiss

    def refuse(*_):
        raise AssertionError("an index is built")

    for name in ("IndexFlatIP", "index_factory"):
        monkeypatch.setattr(faiss, name, refuse)
    assert run(engine.neighbors("test-0", 3, ALL))


@pytest.mark.parametrize("number", [-1, 3, 10**20])
def test_an_unknown_backbone_is_refused(engine, number):
    with pytest.raises(NotHereError, match="choose 0 to 2"):
        run(engine.embed([b"x"], "study", number))


def test_of_an_upload_that_is_deleted_nothing_is_kept(engine, files):
    name = run(engine.upload(files, "mine"))
    run(engine.encoded(name, 0, "mine", 0))
    run(engine.encoded(name, 1, "mine", 0))
    assert engine._encoded.get((0, name, 1)) is not None
    engine.uploads.remove(name, "mine")
    assert [key for key in engine._encoded._views if key[1] == name] == []

    async def deleted_meanwhile():
        again = await engine.upload(files, "mine")
        encoding = asyncio.create_task(engine.encoded(again, 0, "mine", 0))
        encode = engine.models[0].encode
        with pytest.MonkeyPatch.context() as patch:

            async def slow(views):
                engine.uploads.remove(again, "mine")
                return await encode(views)

            patch.setattr(engine.models[0], "encode", slow)
            with pytest.raises(NotHereError):
                await encoding
        assert engine._encoded.get((0, again, 0)) is None

    run(deleted_meanwhile())


class ManyMatches:
    """A gallery of so many rows that the shards do not hold."""

    def __init__(self, vectors: str) -> None:
        self.vectors, self.wanted = vectors, []

    async def manifest(self):
        return SimpleNamespace(level="study", digest="v")

    async def similar(self, key, view, k, where, allow_partial):
        self.wanted.append(k)
        if key != "key":
            raise NotHereError("There is no study of this name in the gallery.")
        items = [GalleryItem(id, f"x{id}", "", "p", "test", (), {}) for id in range(k)]
        return SearchAnswer([[GalleryMatch(item, 0.5) for item in items]], self.vectors, "version")


@pytest.fixture
def instead(engine, monkeypatch):
    """Puts another gallery in the place of the first."""

    def put(index):
        monkeypatch.setattr(engine, "indexes", [index])
        monkeypatch.setitem(engine._checked, 0, "v")
        return index

    return put


def test_a_search_for_what_the_shards_hold_ends(engine, instead):
    index = instead(ManyMatches(engine.models[0].card.vectors))
    found = run(engine.neighbors("key", 8, ALL, only_shown=True))
    assert found.shown == []
    assert index.wanted == [8, 32, 128, 512, 1000]
    assert (found.digest, found.gallery) == (engine.models[0].card.vectors, "version")


def test_a_search_that_another_backbone_s_gallery_answered_is_409(engine, instead):
    instead(ManyMatches("f" * 64))
    with pytest.raises(RefusedError) as refusal:
        run(engine.neighbors("key", 3, ALL))
    assert (refusal.value.status, refusal.value.kind) == (409, "BackboneMismatch")
    assert "ffffffffffff" in str(refusal.value)
    assert engine.models[0].card.vectors[:12] in str(refusal.value)


def test_a_key_of_the_gallery_is_looked_up_before_the_name_of_a_place(engine, instead, studies):
    index = instead(ManyMatches(engine.models[0].card.vectors))
    with pytest.raises(NotHereError, match="of this name in the gallery"):
        run(engine.neighbors("nobody", 3, ALL))
    with pytest.raises(NotHereError, match="test-77"):
        run(engine.neighbors("test-77", 3, ALL))
    keys = []

    async def similar(key, *_):
        keys.append(key)
        raise RefusedError(404, "NotFound", "as a deployment of Ray says it")

    index.similar = similar
    with pytest.raises(RefusedError):
        run(engine.neighbors("test-0", 3, ALL))
    assert keys == ["test-0", studies[0].key]


def test_a_gallery_that_does_not_answer_in_time_is_503(engine, instead, monkeypatch):
    class Silent(ManyMatches):
        async def manifest(self):
            await asyncio.sleep(60)

        async def page(self, where, after, count, counted):
            await asyncio.sleep(60)

    index = instead(Silent("f" * 64))
    monkeypatch.setattr(engine, "limits", replace(engine.limits, inference_s=0.05))
    calls = [engine.check, engine.manifest, lambda number: engine.page(ALL, -1, 5, number, True)]
    calls.append(lambda number: engine.search(np.ones((1, 48)), 3, [[]], ALL, backbone=number))
    for call in calls:
        with pytest.raises(RefusedError) as refusal:
            run(call(0))
        assert (refusal.value.status, refusal.value.limit) == (503, "inference_s")
    assert index.wanted == []


def test_disks_are_read_beside_the_event_loop(engine, studies, monkeypatch):
    threads = set()

    def watched(function):
        def call(*arguments):
            threads.add(threading.current_thread())
            return function(*arguments)

        return call

    for thing, name in ((engine.places, "find"), (engine.places, "key"), (engine.browser, "load")):
        monkeypatch.setattr(thing, name, watched(getattr(thing, name)))
    assert run(engine.neighbors("test-0", 3, ALL, only_shown=True)).shown
    assert run(engine.find_places([studies[1].key])) == [("test", 1)]
    assert threads
    assert threading.main_thread() not in threads


def test_a_shard_that_is_gone_is_503_without_its_path(engine, monkeypatch):
    def gone(place):
        raise FileNotFoundError(2, "No such file", "/home/CANARY7/shard.tar")

    monkeypatch.setattr(engine.browser, "load", gone)
    with pytest.raises(ShardError) as error:
        run(engine.study("test-0", ""))
    refusal = refusal_of(error.value)
    assert (refusal.status, refusal.kind) == (503, "ShardsDamaged")
    assert "CANARY7" not in str(refusal) + str(error.value)
