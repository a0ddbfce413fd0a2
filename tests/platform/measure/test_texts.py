"""A column without a Python object for each row says what the tuple of its texts says."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.platform.measure.texts import (
    Texts,
    common_count,
    group_starts,
    rows_of,
    take_rows,
    text_codes,
    text_count,
)


def column(texts, chunk=3):
    chunks = [pa.array(texts[start : start + chunk], pa.string()) for start in range(0, len(texts), chunk)]
    return Texts.from_arrow(pa.chunked_array(chunks, pa.string()))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b", "é", "p17"]), max_size=12), st.data())
def test_a_column_is_the_tuple_of_its_texts(texts, data):
    texts, ours = tuple(texts), column(texts)
    assert (tuple(ours), len(ours), ours == texts, texts == ours) == (texts, len(texts), True, True)
    assert [ours[row] for row in range(len(texts))] == list(texts)
    assert ours[1:4] == texts[1:4]
    assert text_count(ours) == text_count(texts) == len(set(texts))
    assert rows_of(ours, {"a", "é"}).tolist() == rows_of(texts, {"a", "é"}).tolist()
    assert group_starts(ours).tolist() == group_starts(texts).tolist()
    codes, same = text_codes(ours), text_codes(texts)
    assert [codes[0] == code for code in codes] == [same[0] == code for code in same]
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=6)) if texts else []
    assert take_rows(ours, rows) == take_rows(texts, rows) == tuple(texts[row] for row in rows)
    some, others = take_rows(ours, rows), take_rows(ours, slice(2, 5))
    assert common_count(some, others) == common_count(tuple(some), others) == len({*some} & {*others})


def test_an_empty_column_is_empty():
    assert column([]) == ()
    assert (text_count(column([])), rows_of(column([]), {""}).tolist(), group_starts(()).tolist()) == (
        0,
        [],
        [],
    )


def test_columns_that_differ_are_not_equal():
    assert column(["a", "b"]) != ("a",)
    assert column(["a", "b"]) != ("a", "c")
    assert column(["a"]) != "a"


def test_a_column_introduces_itself_without_its_texts():
    assert repr(column(["a", "b", "a"])) == "Texts(3 rows, 2 of them different)"
    with pytest.raises(IndexError):
        column(["a"])[1]


def test_a_row_takes_a_few_bytes():
    ours = column([f"{row % 7:032d}" for row in range(70_000)], chunk=5_000)
    assert ours.codes.nbytes + ours.values.nbytes < 5 * 70_000
    assert np.array_equal(np.unique(ours.codes), np.arange(7))
