"""Which status an error of the engine becomes."""

from __future__ import annotations

import pickle

import pytest

from vetdino.platform.core.errors import DicomError, FeaturesError, GalleryError, ShardError, StorageError
from vetdino.serving.engine.errors import RefusedError, overloaded, refusal_of
from vetdino.serving.gallery.bundle import BusyGalleryError
from vetdino.serving.gallery.manifest import BackboneMismatchError
from vetdino.serving.gallery.sharded import MissingShardsError
from vetdino.serving.studies import NotHereError


@pytest.mark.parametrize(
    ("error", "status", "limit"),
    [
        (NotHereError("x"), 404, None),
        (MissingShardsError("x"), 503, None),
        (BusyGalleryError("x"), 503, None),
        (DicomError("TOO_LARGE", "x"), 413, "megapixels"),
        (DicomError("NOT_PICTURE", "x"), 415, None),
        (DicomError("DECODE_FAILED", "it needs more memory than allowed"), 413, "decode_gib"),
        (DicomError("LOW_CONTRAST", "x"), 422, None),
        (GalleryError("x"), 422, None),
        (BackboneMismatchError("/home/x: y", "y"), 409, None),
        (StorageError("s3://bucket/shards: refused"), 503, None),
        (ShardError("/home/shards/test-0.tar: damaged"), 503, None),
        (FeaturesError("x"), 422, None),
        (overloaded("busy", "queue"), 503, "queue"),
    ],
)
def test_an_error_has_its_status_and_limit(error, status, limit):
    refusal = refusal_of(error)
    assert (refusal.status, refusal.limit) == (status, limit)
    assert (refusal.retry_after is None) == (status != 503)
    assert "/" not in str(refusal)


def test_a_fault_of_ours_is_no_refusal():
    assert refusal_of(KeyError("x")) is None


def test_a_refusal_travels_between_processes():
    refusal = RefusedError(503, "Overloaded", "busy", "queue", 2)
    copy = pickle.loads(pickle.dumps(refusal))
    assert (copy.status, copy.kind, str(copy), copy.limit, copy.retry_after) == (
        503,
        "Overloaded",
        "busy",
        "queue",
        2,
    )
