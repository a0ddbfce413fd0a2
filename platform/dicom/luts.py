"""The lookup tables and the rescaling of a DICOM header: modality values, and grey values by a VOI LUT.

A table's descriptor is believed where its data agree: how many bits its entries use, and the sign of the first value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import DicomError
from .tags import tag_items, tag_numbers

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True, slots=True, eq=False)
class Lut:
    """A lookup table (PS3.3 C.11.1.1.1): entries (N,), of which the first is for the value `first` and all below."""

    first: int
    entries: np.ndarray
    bits: int

    def apply(self, values: np.ndarray) -> np.ndarray:
        """The entry of each value, rounded; values outside take the first or the last entry."""
        places = np.rint(values).astype(np.int64) - self.first
        return self.entries[np.clip(places, 0, len(self.entries) - 1)]

    @property
    def white(self) -> float:
        """The entry that is white: the highest that the descriptor's bits allow, or the table's highest where that
        needs other bits than these."""
        highest = int(self.entries.max())
        return float(2**self.bits - 1 if highest.bit_length() == self.bits else max(1, highest))


def modality_values(dataset: Dataset, values: np.ndarray) -> np.ndarray:
    """Stored values through the modality LUT or slope and intercept (PS3.3 C.11.1), float64 of the same shape.

    Raises DicomError INVALID_PIXEL_TAG for a LUT that cannot be applied.
    """
    items = tag_items(dataset, "ModalityLUTSequence")
    if not items:
        slope, intercept = rescale(dataset)
        return values.astype(np.float64) * slope + intercept
    lut = _read_lut(dataset, items[0], values)
    if lut is None:
        raise DicomError("INVALID_PIXEL_TAG", "the modality LUT cannot be applied")
    return lut.apply(values).astype(np.float64)


def rescale(dataset: Dataset) -> tuple[float, float]:
    """(slope, intercept): 1 and 0 where a tag is absent, empty or no number, and for a slope of 0."""
    slope, intercept = (_one_number(dataset, name) for name in ("RescaleSlope", "RescaleIntercept"))
    return slope or 1.0, intercept or 0.0


def rescale_doubt(dataset: Dataset) -> str:
    """What is doubtful about the rescaling: a tag that is there without a usable number; empty where nothing is."""
    if tag_items(dataset, "ModalityLUTSequence"):
        return ""
    bad = [name for name in ("RescaleSlope", "RescaleIntercept") if name in dataset]
    bad = [
        name
        for name in bad
        if _one_number(dataset, name) in ((None, 0.0) if name == "RescaleSlope" else (None,))
    ]
    return f"{' and '.join(bad)} without a usable number" if bad else ""


def voi_luts(dataset: Dataset, values: np.ndarray) -> Iterator[np.ndarray]:
    """Modality values through each usable VOI LUT, float64 from 0 (black) to 1 (white), of the same shape."""
    for item in tag_items(dataset, "VOILUTSequence"):
        lut = _read_lut(dataset, item, values)
        if lut is not None:  # a LUT that contradicts itself is no reason to lose the picture
            yield lut.apply(values) / lut.white


def _one_number(dataset: Dataset, name: str) -> float | None:
    numbers = tag_numbers(dataset, name)
    return numbers[0] if len(numbers) == 1 and np.isfinite(numbers[0]) else None


def _read_lut(dataset: Dataset, item: Dataset, values: np.ndarray) -> Lut | None:
    """The table in an item of a sequence, None where it contradicts itself or lacks entries for the values."""
    descriptor = tag_numbers(item, "LUTDescriptor")
    if len(descriptor) != 3 or not 1 <= descriptor[2] <= 16 or not np.isfinite(values).all():
        return None
    count, first, bits = int(descriptor[0]) % 65536 or 65536, int(descriptor[1]), int(descriptor[2])
    entries = _lut_entries(dataset, item, count, bits)
    if not len(entries):
        return None
    low, high = float(values.min()), float(values.max())
    for other_sign in (first - 65536, first + 65536):
        if -32768 <= other_sign < 65536 and not _meets(first, count, low, high):
            first = other_sign if _meets(other_sign, count, low, high) else first
    if len(entries) < count and high >= first + len(entries):
        return None
    return Lut(first, entries, bits)


def _meets(first: int, count: int, low: float, high: float) -> bool:
    """Whether the values from low to high meet those that a table has entries for."""
    return first <= high and low < first + count


def _lut_entries(dataset: Dataset, item: Dataset, count: int, bits: int) -> np.ndarray:
    """Up to `count` entries of LUTData, (N,) int64; entries of 8 bits may be two to a word."""
    data = item.get("LUTData")
    is_little = dataset.file_meta.TransferSyntaxUID.is_little_endian
    if not isinstance(data, bytes):
        words = np.array(tag_numbers(item, "LUTData"), np.int64) & 0xFFFF
    elif bits == 8 and count <= len(data) < 2 * count:
        words = np.frombuffer(data, np.uint8).astype(np.int64)
    else:
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if is_little else ">u2").astype(np.int64)
    if bits == 8 and len(words) < count <= 2 * len(words):
        words = np.stack([words & 0xFF, words >> 8], axis=1).ravel()
    return words[:count]
