"""Results survive the end of a process, with their views."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vetdino.platform.data.study import StoredView
from vetdino.platform.ingest.decoding import DecodeResult
from vetdino.platform.ingest.discovery import DecodeTask
from vetdino.platform.ingest.store import RETRIED, ResultStore, result_key

VIEW = StoredView(b"jpeg", "VD", "L", "DX", (0.1, 0.2), {"voi": "window"})


def test_an_empty_store_has_no_keys(tmp_path):
    assert ResultStore(tmp_path / "r.sqlite").keys() == set()


def test_results_come_back_from_a_store_that_was_opened_again(tmp_path):
    results = {
        "a": DecodeResult(patient="p", study="s", file_hash="f", pixel_hash="x", view=VIEW),
        "b": DecodeResult(code="NOT_DICOM", detail="text"),
        "c": DecodeResult(patient="p", study="s", view=replace(VIEW, spacing=None)),
    }
    store = ResultStore(tmp_path / "r.sqlite")
    for key, result in results.items():
        store.put(key, result)
    store.commit()
    store.close()
    again = ResultStore(tmp_path / "r.sqlite")
    assert again.keys() == set(results)
    for key, result in results.items():
        assert again.without_view(key) == replace(result, view=None)
    view = again.view("a")
    assert (view.encoded, view.projection, view.laterality) == (b"jpeg", "VD", "L")
    assert (view.modality, view.spacing, view.facts) == ("DX", (0.1, 0.2), {"voi": "window"})
    assert again.view("c").spacing is None
    again.close()


def test_a_result_put_again_replaces_the_first(tmp_path):
    store = ResultStore(tmp_path / "r.sqlite")
    store.put("a", DecodeResult(code="NOT_DICOM"))
    store.put("a", DecodeResult(code="DUPLICATE"))
    assert store.without_view("a").code == "DUPLICATE"


@pytest.mark.parametrize("code", RETRIED)
def test_what_more_time_or_a_permission_may_change_is_tried_again(tmp_path, code):
    store = ResultStore(tmp_path / "r.sqlite")
    store.put("a", DecodeResult(code=code))
    store.put("b", DecodeResult(code="NOT_DICOM"))
    assert store.keys() == {"b"}
    assert store.without_view("a").code == code


def test_a_key_changes_with_the_file_the_table_and_the_secret(tmp_path):
    path = tmp_path / "a"
    path.write_text("1")
    keys = {
        result_key(tmp_path, DecodeTask("a"), b"key"),
        result_key(tmp_path, DecodeTask("a", ("p", "s", "VD")), b"key"),
        result_key(tmp_path, DecodeTask("a", ("p", "s", "VD"), "L"), b"key"),
        result_key(tmp_path, DecodeTask("a"), b"other"),
        result_key(tmp_path, DecodeTask("gone"), b"key"),
    }
    path.write_text("22")
    keys.add(result_key(tmp_path, DecodeTask("a"), b"key"))
    assert len(keys) == 6
    assert not any(key == "a" for key in keys)
