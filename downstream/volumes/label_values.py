"""How the values of label maps become class numbers from 0 to 255."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...platform.core.errors import DataError
from .names import first_few

MAX_CLASS = 255


@dataclass(frozen=True, slots=True)
class LabelValues:
    """How the values of label maps become class numbers, in the same way for all scans of a folder.

    organs: class number of each file by its stem, for labels of one file per organ. numbers: value -> class number,
    where values are above 255; empty: a value is its number. white: whether 255 is class 1 where it is the only one.
    """

    organs: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[int, int] = field(default_factory=dict)
    white: bool = True

    @property
    def values(self) -> dict[int, int]:
        """Class number -> the value that stands for it in the files, where it is another."""
        return {number: value for value, number in self.numbers.items()}


def to_class_numbers(values: np.ndarray, numbers: Mapping[int, int] | None = None) -> np.ndarray:
    """Label values as uint8 class numbers. numbers: see `LabelValues`.

    Raises DataError for values that are not whole numbers of 0 or more, above 255 without `numbers`, or not among them.
    """
    if values.dtype == np.uint8 and not numbers:
        return values
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise DataError(f"{bad} voxels of the label are NaN or infinite; labels are whole numbers")
    rounded = np.rint(values)
    fractions = np.abs(values - rounded) > 1e-3  # a stored slope may leave rounding errors on a whole number
    if fractions.any():
        examples = first_few(np.unique(values[fractions]))
        raise DataError(f"label values that are no whole numbers ({examples}); was it resampled? use nearest")
    low, high = float(rounded.min()), float(rounded.max())
    if low < 0:
        raise DataError(f"label values from {low:g} to {high:g}; classes are numbered from 0")
    if not numbers:
        if high > MAX_CLASS:
            examples = first_few(np.unique(rounded[rounded > MAX_CLASS]))
            raise DataError(f"label values above {MAX_CLASS} ({examples}); name all of them in --classes")
        return rounded.astype(np.uint8)
    present, places = np.unique(rounded, return_inverse=True)
    unnamed = [value for value in present if value and int(value) not in numbers]
    if unnamed:
        raise DataError(
            f"label values without a name ({first_few(np.array(unnamed))}); name them in --classes"
        )
    table = np.array([numbers.get(int(value), 0) for value in present], np.uint8)
    return table[places].reshape(values.shape)
