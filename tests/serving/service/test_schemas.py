"""What requests may hold: no text where a key belongs, no number that is none, nothing more than is asked for."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from vetdino.serving.service.schemas import NewItem, SearchQuery, SimilarityQuery


def test_a_new_row_is_unknown_where_it_says_nothing():
    item = NewItem.model_validate_json('{"key": "k", "patient": "p", "vector": [1]}')
    assert (item.split, item.view, item.findings, item.projections) == ("train", "", {}, [])


@pytest.mark.parametrize(
    "changes",
    [{"key": "a.b"}, {"patient": "Rex Miller"}, {"split": "all"}, {"view": "../x"}, {"projections": ["vd"]},
     {"vector": []}, {"findings": {"mass": 1}}, {"name": "Rex"}],
)  # fmt: skip
def test_a_row_with_anything_else_is_refused(changes):
    row = {"key": "k", "patient": "p", "vector": [1.0]} | changes
    with pytest.raises(ValidationError):
        NewItem.model_validate(row)


def test_queries_take_numbers_and_names_alone():
    with pytest.raises(ValidationError):
        SearchQuery.model_validate_json('{"vectors": [[true]]}')
    with pytest.raises(ValidationError):
        SimilarityQuery.model_validate_json('{"a": "test-0/0"}')
