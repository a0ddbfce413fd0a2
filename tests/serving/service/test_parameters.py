"""Parameters that routes share, and how bodies are documented."""

from __future__ import annotations

import json

import pytest

from vetdino.serving.engine.errors import RefusedError
from vetdino.serving.service.parameters import check_digest_given, json_body, search_filter
from vetdino.serving.service.schemas import NewItems


def test_a_filter_is_what_was_asked():
    chosen = search_filter(["mass"], ["cyst"], ["VD"], "test")
    assert chosen.arguments() == {
        "findings": {"mass": True, "cyst": False},
        "projections": ("VD",),
        "split": "test",
    }
    assert search_filter([], [], [], None).findings is None
    with pytest.raises(RefusedError):
        search_filter(["mass"], ["mass"], [], None)


def test_another_digest_is_409():
    check_digest_given(None, "abc")
    check_digest_given("abc", "abc")
    with pytest.raises(RefusedError) as refusal:
        check_digest_given("def", "abc")
    assert refusal.value.status == 409


def test_a_documented_body_refers_to_nothing_outside():
    schema = json_body(NewItems)["application/json"]["schema"]
    assert "$ref" not in json.dumps(schema)
    assert "vector" in schema["properties"]["items"]["items"]["properties"]
