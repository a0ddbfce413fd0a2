"""What must not change by accident: bytes of generated shards, and features of the shipped backbone.

A change that is meant to alter them writes the new values here and says so in the changelog. The bytes also depend
on the versions in `requirements.lock` (JPEG encoder).
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import vetdino

SHARDS = {
    "test-000000.tar": "e879298a6406511f7098a9360c03d8dc3461f1c37c6e37d7f53b7498ef85ebf2",
    "train-000000.tar": "a88d215a3b1b9cc9e3a81d6c646187295d98e037b5be70b4881b5539038cbca7",
    "val-000000.tar": "7071068ed246980ab710ec94061bc14598624367151e92b0db3490fdd47c360c",
}
FIRST = [0.09136, -0.10050, 0.00220, 0.01792]
"""First numbers of the first study's vector."""
TOTAL = 135.424
"""Sum of the magnitudes of all vectors, (12, 192)."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("golden")
    archive = vetdino.phantom(work / "dogs", studies=12, side=96, seed=3)
    secret = work / "secret"
    secret.write_bytes(b"generated studies".ljust(32, b"."))
    labels = archive / "labels.csv"
    vetdino.ingest(archive / "dicom", work / "shards", secret=secret, labels=labels, val=0.2, test=0.3)
    return work / "shards"


def test_the_bytes_of_shards_are_those_on_record(shards):
    assert {path.name: sha256(path.read_bytes()).hexdigest() for path in shards.glob("*.tar")} == SHARDS


def test_the_features_of_the_shipped_backbone_are_those_on_record(shards, tmp_path):
    vectors = vetdino.embed(vetdino.SHIPPED, shards, tmp_path / "features").vectors
    assert vectors.shape == (12, 192)
    np.testing.assert_allclose(vectors[0, :4], FIRST, atol=2e-5)
    assert np.abs(vectors.astype(float)).sum() == pytest.approx(TOTAL, abs=0.01)
