"""Arrays over HTTP: what is written is read, and nothing else is."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.serving.config import Limits
from vetdino.serving.engine.errors import RefusedError
from vetdino.serving.service.wire import (
    check_vectors,
    json_numbers,
    json_vectors,
    npy_bytes,
    npy_vectors,
    wants_npy,
)

LIMITS = Limits(vectors=8, json_numbers=100)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_is_written_is_read(dtype, order):
    array = np.asarray(np.random.default_rng(0).normal(size=(3, 5)), dtype, order=order)
    np.testing.assert_array_equal(npy_vectors(npy_bytes(array), LIMITS), array.astype(np.float32))
    assert npy_vectors(npy_bytes(array[0]), LIMITS).shape == (1, 5)


def header(text: str, data: bytes = b"") -> bytes:
    padded = text.encode().ljust(118 - 10) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + data


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"PK\x03\x04", 400),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 900000000000), }"), 400),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", bytes(15)), 400),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -2), }", bytes(16)), 400),
        (header("__import__('os').system('true')"), 400),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }", pickle.dumps([1])), 415),
        (header("{'descr': '<i8', 'fortran_order': False, 'shape': (1, 1), }", bytes(8)), 415),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1), }", bytes(4)), 422),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", bytes(4)), 422),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 1), }", bytes(36)), 413),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4), }"), 422),
    ],
)
def test_a_file_that_lies_or_holds_objects_is_refused(data, status):
    with pytest.raises(RefusedError) as refusal:
        npy_vectors(data, LIMITS)
    assert refusal.value.status == status


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(data):
    for content in (data, b"\x93NUMPY\x01\x00" + data):
        with pytest.raises(RefusedError) as refusal:
            npy_vectors(content, LIMITS)
        assert refusal.value.status in (400, 413, 415, 422)


def test_an_object_array_is_never_unpickled(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    file = io.BytesIO()
    np.save(file, np.array([[Attack()]], object), allow_pickle=True)
    with pytest.raises(RefusedError):
        npy_vectors(file.getvalue(), LIMITS)
    assert list(tmp_path.iterdir()) == []


def test_vectors_in_json_have_one_length_and_a_direction():
    assert json_vectors([[1, 2.5], [3, 4]], LIMITS).dtype == np.float32
    with pytest.raises(RefusedError, match="differ"):
        json_vectors([[1.0], [1.0, 2.0]], LIMITS)
    check_vectors(np.ones((2, 3), np.float32), 3)
    for bad in (np.nan, np.inf, 0.0):
        vectors = np.ones((3, 2), np.float32)
        vectors[1] = bad
        with pytest.raises(RefusedError, match="vector 1 "):
            check_vectors(vectors, 2)
    with pytest.raises(RefusedError, match="2 dimensions, the gallery has 3"):
        check_vectors(np.ones((1, 2), np.float32), 3)
    with pytest.raises(RefusedError, match="vector 0 "):
        check_vectors(json_vectors([[1e308, 1.0]], LIMITS), 2)


def test_a_huge_answer_is_not_given_as_json():
    assert json_numbers(np.zeros((10, 10)), LIMITS) == [[0.0] * 10] * 10
    with pytest.raises(RefusedError, match="application/x-npy") as refusal:
        json_numbers(np.zeros(101), LIMITS)
    assert refusal.value.limit == "json_numbers"


def test_npy_is_given_to_those_who_ask():
    assert wants_npy("text/html, Application/X-NPY;q=0.9")
    assert not wants_npy("*/*")
    assert not wants_npy("")
