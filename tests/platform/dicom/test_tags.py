"""A damaged or missing tag gives nothing, and a needed one an error."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from tests.platform.ingest.radiographs import radiograph
from vetdino.platform.core.errors import DicomError
from vetdino.platform.dicom.tags import needed_integer, tag_items, tag_numbers, tag_text, tag_value


class Broken(dict):
    """A data set whose values cannot be converted."""

    def get(self, name):
        raise ValueError("damaged")


def test_an_absent_tag_gives_nothing():
    dataset = Dataset()
    assert tag_value(dataset, "Rows") is None
    assert tag_text(dataset, "Modality") == ""
    assert tag_items(dataset, "ViewCodeSequence") == []
    assert tag_numbers(dataset, "WindowCenter") == []


def test_a_damaged_tag_gives_nothing():
    assert tag_value(Broken(), "Rows") is None
    assert tag_text(Broken(), "Modality") == ""
    assert tag_items(Broken(), "ViewCodeSequence") == []
    assert tag_numbers(Broken(), "WindowCenter") == []


def test_one_number_and_several_are_a_list():
    dataset = radiograph(WindowCenter=7, WindowWidth=[1, 2.5])
    assert tag_numbers(dataset, "WindowCenter") == [7.0]
    assert tag_numbers(dataset, "WindowWidth") == [1.0, 2.5]
    assert tag_numbers(dataset, "Modality") == []


def test_a_tag_that_is_no_sequence_has_no_items():
    assert tag_items(radiograph(), "Modality") == []


@pytest.mark.parametrize(
    ("dataset", "code"),
    [({}, "MISSING_PIXEL_TAG"), ({"Rows": 0}, "INVALID_PIXEL_TAG"), (Broken(), "INVALID_PIXEL_TAG")],
)
def test_a_needed_integer_is_in_its_range(dataset, code):
    with pytest.raises(DicomError, match=code):
        needed_integer(dataset, "Rows", 1, 9)
    assert needed_integer({"Rows": 9}, "Rows", 1, 9) == 9
    assert needed_integer({}, "Rows", 1, 9, default=3) == 3
