"""Batches are read from the server in each of the ways that are timed; nothing here is timed."""

from __future__ import annotations

import pytest

from benchmarks.loader import s3


@pytest.mark.slow
def test_every_way_is_measured(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "x")  # restored afterwards
    for name in ("VETDINO_CACHE", s3.BOUND):
        monkeypatch.setenv(name, "1")
    with s3.served():
        found = s3.measure(8, 4, 1, tmp_path)
    assert {name: len(rates) for name, rates in found.items()} == dict.fromkeys(
        ("local", "none", "empty", "filled"), 1
    )
    assert all(rate > 0 for rates in found.values() for rate in rates)
    assert any((tmp_path / "cache0").rglob("*.tar*"))
