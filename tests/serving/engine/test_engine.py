"""The answers of the service, without HTTP."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.serving.conftest import dicom_file
from vetdino.platform.data.study import StoredView
from vetdino.platform.models.loading import load
from vetdino.serving.engine.errors import RefusedError
from vetdino.serving.engine.index import SearchFilter
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
    with pytest.raises(RefusedError, match="LOW_CONTRAST"):
        run(engine.embed([flat], "image"))


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
