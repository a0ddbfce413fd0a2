"""A request's files: in memory, in order, without their names, within limits."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from vetdino.serving.config import Limits
from vetdino.serving.engine.errors import RefusedError
from vetdino.serving.service.body import read_files, read_json
from vetdino.serving.service.schemas import NewItems, SearchQuery

LIMITS = Limits(files=3)


def request(content_type: str, *parts: bytes) -> Request:
    left = list(parts)

    async def receive():
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    headers = [(b"content-type", content_type.encode("latin-1"))]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


def files_of(content_type: str, *parts: bytes, **more) -> list[bytes]:
    return asyncio.run(read_files(request(content_type, *parts), LIMITS, **more))


def form(*contents: bytes, boundary: bytes = b"b0") -> bytes:
    part = b'--%b\r\nContent-Disposition: form-data; name="CANARY"; filename="CANARY.dcm"\r\n\r\n%b\r\n'
    return b"".join(part % (boundary, content) for content in contents) + b"--%b--\r\n" % boundary


FORM = "multipart/form-data; boundary=b0"


def test_files_come_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    large = bytes(3 << 20)
    assert files_of(FORM, form(b"one", large, b"three")) == [b"one", large, b"three"]
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=3), st.integers(1, 40))
def test_however_the_form_is_cut_the_files_are_the_same(contents, size):
    whole = form(*contents, boundary=b"0123456789abcdef")
    parts = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert files_of("multipart/form-data; boundary=0123456789abcdef", *parts) == contents


@pytest.mark.parametrize("kind", ["application/dicom", "image/png", "Image/JPEG; q=1"])
def test_a_body_may_be_one_file(kind):
    assert files_of(kind, b"ab", b"c") == [b"abc"]


@pytest.mark.parametrize(
    ("kind", "content", "status"),
    [
        ("", b"x", 415),
        ("application/zip", b"x", 415),
        ("application/json", b'{"url": "http://example.org/x.dcm"}', 415),
        ("application/x-www-form-urlencoded", b"url=http://example.org", 415),
        ("application/dicom", b"", 400),
        ("multipart/form-data", form(b"x"), 400),
        ("multipart/form-data; boundary=", form(b"x"), 400),
        ("multipart/form-data; boundary=" + "b" * 71, form(b"x"), 400),
        (FORM, b"", 400),
        (FORM, b"nonsense", 400),
        (FORM, form(b"x")[:-9], 400),
        (FORM, form(b"x", b""), 400),
        (FORM, form(b"a", b"b", b"c", b"d"), 413),
        (FORM, form(b"x").replace(b"name=", b"n" * 5000 + b"="), 400),
    ],
)
def test_what_is_no_form_of_files_is_refused(kind, content, status):
    with pytest.raises(RefusedError) as refusal:
        files_of(kind, content)
    assert refusal.value.status == status


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_do_more_than_be_refused(data):
    for content in (data, b"--b0\r\n" + data, form(b"x")[:60] + data):
        with suppress(RefusedError):
            assert all(isinstance(file, bytes) for file in files_of(FORM, content))


def test_the_number_of_files_may_be_fixed():
    with pytest.raises(RefusedError, match="1 files; send 2"):
        files_of(FORM, form(b"x"), count=2)


def json_of(model, content: bytes, kind: str = "application/json", limits: Limits = LIMITS):
    return asyncio.run(read_json(request(kind, content), model, limits))


def test_json_is_what_the_model_says():
    assert json_of(SearchQuery, b'{"vectors": [[1, 2.5]]}').vectors == [[1.0, 2.5]]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b'{"vectors": []}',
        b'{"vectors": [[NaN]]}',
        b'{"vectors": [[Infinity]]}',
        b'{"vectors": [[1e999]]}',
        b'{"vectors": [["1"]]}',
        b'{"vectors": [[1]], "CANARY": 1}',
        b'{"vectors": ' + b"[" * 5000,
        b'{"vectors": [[' + b"9" * 5000 + b"]]}",
        b'{"vectors": [[1]], "exclude_patients": [{"CANARY": 1}]}',
        b"\xff\xfe",
    ],
)
def test_other_json_is_refused_without_quoting_it(content):
    with pytest.raises(RefusedError) as refusal:
        json_of(SearchQuery, content)
    assert refusal.value.status == 422
    assert "CANARY" not in str(refusal.value)


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/b", "a b", "", "ä", "x" * 65, "a\0"])
def test_keys_are_no_paths(key):
    item = {"key": key, "patient": "p", "vector": [1.0]}
    with pytest.raises(RefusedError, match=r"items.*key"):
        json_of(NewItems, json.dumps({"digest": "d", "items": [item]}).encode())


def test_another_type_is_415():
    with pytest.raises(RefusedError) as refusal:
        json_of(SearchQuery, b'{"vectors": [[1]]}', "text/plain")
    assert refusal.value.status == 415


def test_json_of_more_bytes_than_allowed_is_refused_while_it_comes(monkeypatch):
    limits = Limits(json_mib=1)
    content = json.dumps({"vectors": [[1.0] * 200_000]}).encode()
    assert len(content) < 1 << 20
    assert json_of(SearchQuery, content, limits=limits)
    read = []

    async def receive():
        read.append(bytes(1 << 18))
        return {"type": "http.request", "body": read[-1], "more_body": True}

    headers = [(b"content-type", b"application/json")]
    endless = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    with pytest.raises(RefusedError, match="larger than 1 MiB") as refusal:
        asyncio.run(read_json(endless, SearchQuery, limits))
    assert (refusal.value.status, refusal.value.limit, len(read)) == (413, "json_mib", 5)
    promised = Request({**endless.scope, "headers": [*headers, (b"content-length", b"2000000")]}, receive)
    with pytest.raises(RefusedError):
        asyncio.run(read_json(promised, SearchQuery, limits))
    assert len(read) == 5


def test_large_json_is_parsed_beside_the_event_loop(monkeypatch):
    threads = []
    parse = SearchQuery.model_validate_json

    def parsed(body):
        threads.append(threading.current_thread())
        return parse(body)

    monkeypatch.setattr(SearchQuery, "model_validate_json", parsed)
    json_of(SearchQuery, b'{"vectors": [[1]]}')
    assert threads != [threading.main_thread()]


def test_patients_are_one_or_several_for_each_vector():
    query = {"vectors": [[1], [2], [3]], "exclude_patients": ["a", ["b", "c"], None]}
    assert json_of(SearchQuery, json.dumps(query).encode()).patients(3) == [["a"], ["b", "c"], []]
    del query["exclude_patients"]
    assert json_of(SearchQuery, json.dumps(query).encode()).patients(3) == [[], [], []]
