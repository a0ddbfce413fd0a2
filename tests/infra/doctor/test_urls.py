"""Folders on object storage, on a server of its protocol."""

from __future__ import annotations

import pytest

from vetdino.infra.doctor.urls import all_url_facts, url_facts
from vetdino.platform.core.storage import filesystem, write_bytes


@pytest.mark.slow
def test_a_bucket_is_written_to_and_left_as_it_was(s3):
    facts = url_facts("--out", f"{s3.bucket}/doctor", True)
    assert facts.error == ""
    files, path = filesystem(f"{s3.bucket}/doctor")
    assert files.find(path) == []


@pytest.mark.slow
def test_shards_at_a_url_are_known_by_their_manifest(s3):
    [missing] = all_url_facts([("--shards", f"{s3.bucket}/shards-of-doctor", False)])
    assert "manifest.json" in missing.error
    write_bytes(f"{s3.bucket}/shards-of-doctor/manifest.json", b"{}")
    facts = url_facts("--shards", f"{s3.bucket}/shards-of-doctor", False)
    assert (facts.error, len(facts.content)) == ("", 64)


@pytest.mark.slow
def test_what_the_storage_refuses_is_said(failing_s3):
    failing_s3(403, "AccessDenied", -1)
    facts = url_facts("--out", "s3://vetdino-tests/doctor", True)
    assert facts.error.startswith("access is denied")
    assert "check the credentials" in facts.error


def test_a_url_of_an_unknown_kind_is_said():
    assert "give a local path or a URL" in url_facts("--out", "ftps3x://bucket/out", True).error
