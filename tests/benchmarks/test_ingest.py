"""Both sides of the benchmark of ingest make the same pictures of the same files; nothing here is timed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.ingest.__main__ import (
    ENCODERS,
    compare,
    dicom_file,
    difference,
    interval,
    ours,
    radiograph_like,
    table,
)


def test_all_transfer_syntaxes_are_compared_and_make_the_same_pictures():
    results = compare(side=600, files=1, rounds=2)
    assert list(results) == [syntax.name for syntax in ENCODERS]
    assert len(results) == 8
    assert all(found["difference"] < 1.0 for found in results.values() if found["ours"])
    assert sum(found["ours"] is not None for found in results.values()) >= 7
    assert table(results).count("\n") == 8


@pytest.mark.parametrize("syntax", ENCODERS)
def test_every_file_becomes_a_view_of_512_pixels(syntax):
    picture = Image.open(io.BytesIO(ours(dicom_file(radiograph_like(600, 0), syntax))))
    assert picture.size == (512, 512)
    assert np.ptp(np.asarray(picture)) > 100


def test_another_picture_is_another_and_an_interval_holds_its_median():
    pictures = [ours(dicom_file(radiograph_like(600, seed), next(iter(ENCODERS)))) for seed in (0, 1)]
    assert difference(*pictures) > 5
    low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert low <= 3 <= high
