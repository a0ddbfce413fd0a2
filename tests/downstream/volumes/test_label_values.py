"""Label values become class numbers, or are refused; none is changed without a word."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.volumes.label_values import LabelValues, to_class_numbers
from vetdino.platform.core.errors import DataError


def test_dust_of_a_slope_does_not_spoil_labels():
    np.testing.assert_array_equal(to_class_numbers(np.float32([0, 0.9999, 2.00001])), [0, 1, 2])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 0.5, 1], "no whole numbers"),
        ([-1, 0], "from -1 to 0"),
        ([0, 300], "above 255 \\(300\\)"),
        ([np.nan], "NaN"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(values, said):
    with pytest.raises(DataError, match=said):
        to_class_numbers(np.float32(values))


def test_values_above_255_become_the_numbers_of_their_classes():
    values = np.array([[0, 500], [600, 200]], np.int16)
    result = to_class_numbers(values, {200: 1, 500: 2, 600: 3})
    assert result.dtype == np.uint8
    assert result.tolist() == [[0, 2], [3, 1]]


def test_a_value_that_has_no_number_is_refused_not_dropped():
    with pytest.raises(DataError, match=r"without a name \(820\)"):
        to_class_numbers(np.array([0, 200, 820]), {200: 1})
    with pytest.raises(DataError, match=r"without a name \(7\)"):
        to_class_numbers(np.array([0, 7], np.uint8), {200: 1})


def test_the_values_of_classes_are_found_back():
    assert LabelValues(numbers={200: 1, 500: 2}).values == {1: 200, 2: 500}
    assert LabelValues().values == {}
