"""The stored values of a DICOM image: which bits of a decoded word are the value, and which values are padding.

BitsStored and HighBit are believed only where the pixels agree. Where they do not, the reading is taken that makes a
picture: neighbouring pixels are nearly equal in it. Where no reading does, the file is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import DicomError
from .tags import tag_numbers

if TYPE_CHECKING:
    from pydicom import Dataset

SMOOTH = 8
"""Neighbours are nearly equal where they differ by less than one part in this many of a reading's range."""

MIN_SMOOTH = 0.5
"""Of the neighbours that two readings give different distances for, the fraction that the better one makes nearly
equal."""

CLEARER = 9
"""How many times more of them the better reading makes nearly equal than the other."""

MIN_CORRELATION = 0.9
"""Correlation of neighboring pixels below which a picture may be what a decoder made of damaged bytes."""

MIN_SIDE = 256
"""Smaller pictures may be rough themselves; those of detectors are larger."""

FEW = 1e-3
"""Where fewer neighbours than this fraction of the pixels differ, the header decides."""


def stored_values(dataset: Dataset, decoded: np.ndarray) -> np.ndarray:
    """The stored values in decoded words with all their bits, (..., H, W) of the words' width.

    Bits outside of BitsStored and HighBit may be those of an overlay (PS3.5 8.1.1) or a part of the value that
    the header denies. Padding that needs more bits than BitsStored keeps them. Raises DicomError INVALID_PIXEL_TAG
    where neither reading makes a picture.
    """
    stored, below = int(dataset.BitsStored), bits_below(dataset)
    kind = "i" if dataset.PixelRepresentation else "u"
    if not below and _is_within(decoded, stored, kind):
        return decoded if decoded.dtype.kind == kind else decoded.astype(f"{kind}{decoded.itemsize}")
    whole = decoded.astype(decoded.dtype.newbyteorder("="), copy=False)
    is_padding = _wide_padding(dataset, whole, stored)
    bits = whole.view(f"u{whole.itemsize}")
    tissue_bits = bits[~is_padding]
    low = _bit_field(bits, 0, stored, kind)
    if below and not (tissue_bits & ((1 << below) - 1)).any():
        values = _bit_field(bits, below, stored, kind)  # left-justified, as the header says
    elif whole.dtype.kind == kind and not (tissue_bits >> stored).any():
        values = low
    else:
        comparison = _compare(whole, low, is_padding)
        is_sign = (
            (whole == low) | (bits >> stored == 0) | is_padding
        )  # the bits above repeat the sign, or are empty
        if comparison.is_first_smoother:
            values = _bit_field(bits, below, stored, kind) if below else whole
        elif comparison.differing < FEW * bits.size or comparison.is_second_smoother or is_sign.all():
            values = low
        else:
            used = int(tissue_bits.max()).bit_length()
            raise DicomError(
                "INVALID_PIXEL_TAG",
                f"BitsStored {stored} with HighBit {stored + below - 1} does not fit pixels of {used} bits",
            )
    return np.where(is_padding, whole, values) if is_padding.any() else values


def bits_below(dataset: Dataset) -> int:
    """How many bits lie below the value by HighBit, 0 where HighBit is absent or impossible."""
    high = tag_numbers(dataset, "HighBit")
    below = int(high[0]) + 1 - int(dataset.BitsStored) if len(high) == 1 else 0
    return below if 0 < below <= int(dataset.BitsAllocated) - int(dataset.BitsStored) else 0


def bits_doubt(dataset: Dataset, values: np.ndarray) -> str:
    """What is doubtful about BitsStored and HighBit, given the values of `stored_values`; empty where nothing is."""
    if values.dtype.kind not in "iu" or "BitsStored" not in dataset:
        return ""
    stored, kind = int(dataset.BitsStored), "i" if dataset.PixelRepresentation else "u"
    is_padding = _wide_padding(dataset, values, stored)
    tissue = values[~is_padding] if is_padding.any() else values
    if tissue.size and not _is_within(tissue, stored, kind):
        return f"values outside of BitsStored {stored} and PixelRepresentation {int(kind == 'i')}"
    if bits_below(dataset):
        return f"HighBit is not BitsStored {stored} - 1"
    return ""


def noise_doubt(values_HW: np.ndarray) -> str:
    """What is doubtful where neighbors differ as in noise: a damaged JPEG-LS stream decodes so without an error.

    Of generated and real radiographs the correlation of neighbors is 0.95 or more; of three in five JPEG-LS
    streams with one wrong bit it is less than `MIN_CORRELATION`. Damaged JPEG 2000 stays smooth and is not noticed.
    """
    if values_HW.ndim != 2 or min(values_HW.shape) < MIN_SIDE:
        return ""
    for lines in (values_HW[::4], values_HW[:, ::4].T):
        lines = lines.astype(np.float32)
        variance = float(lines.var())
        if variance and 1 - float(np.square(np.diff(lines)).mean()) / (2 * variance) < MIN_CORRELATION:
            return "neighboring pixels differ as in noise, perhaps a damaged stream"
    return ""


def padding_range(dataset: Dataset) -> tuple[float, float] | None:
    """(lowest, highest) stored value that means: nothing was measured (PS3.3 C.7.5.1.1.2); None where none does.

    A value whose sign PixelRepresentation forbids was written with the other VR (US or SS): it is read again.
    """
    value = tag_numbers(dataset, "PixelPaddingValue")
    limit = tag_numbers(dataset, "PixelPaddingRangeLimit") or value
    if len(value) != 1 or len(limit) != 1:
        return None
    ends = [_with_sign(dataset, number) for number in (*value, *limit)]
    return min(ends), max(ends)


def _with_sign(dataset: Dataset, number: float) -> float:
    """A padding value of 16 bits, signed as PixelRepresentation says."""
    if dataset.get("PixelRepresentation"):
        return number - 65536 if 32768 <= number < 65536 else number
    return number + 65536 if -32768 <= number < 0 else number


def _wide_padding(dataset: Dataset, whole: np.ndarray, stored: int) -> np.ndarray:
    """Which pixels hold a padding value that needs more bits than BitsStored, bool."""
    padding = padding_range(dataset)
    if padding is None or -(2 ** (stored - 1)) <= padding[0] <= padding[1] < 2**stored:
        return np.zeros(whole.shape, bool)
    return (whole >= padding[0]) & (whole <= padding[1])


def _is_within(values: np.ndarray, stored: int, kind: str) -> bool:
    """Whether `stored` bits, signed (i) or not (u), can hold all values."""
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1)) if kind == "i" else (0, 2**stored)
    return low <= int(values.min()) and int(values.max()) < high


def _bit_field(bits: np.ndarray, below: int, stored: int, kind: str) -> np.ndarray:
    """`stored` bits of unsigned words from bit `below` on, their sign extended to the words' width for kind i."""
    spare = bits.itemsize * 8 - stored
    return (bits << (spare - below)).view(f"{kind}{bits.itemsize}") >> spare


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Neighbours that two readings give different distances for, and how many are nearly equal in the nearer one."""

    differing: int
    first: int
    second: int

    @property
    def is_first_smoother(self) -> bool:
        return self.first > CLEARER * self.second and self.first >= MIN_SMOOTH * self.differing

    @property
    def is_second_smoother(self) -> bool:
        return self.second > CLEARER * self.first and self.second >= MIN_SMOOTH * self.differing


def _compare(first: np.ndarray, second: np.ndarray, ignored: np.ndarray) -> _Comparison:
    """Compares two readings of one image that differ by multiples of a power of 2.

    Between most neighbours both have the same distance. Where they have not, a wrong one jumps.
    """
    counts = np.zeros(3, int)
    limits = [np.ptp(reading[~ignored].astype(np.int64)) / SMOOTH for reading in (first, second)]
    for turn in (np.asarray, lambda image: np.swapaxes(image, -1, -2)):
        steps = [np.abs(np.diff(turn(reading).astype(np.int64))) for reading in (first, second)]
        is_kept = ~turn(ignored)
        is_differing = (steps[0] != steps[1]) & is_kept[..., 1:] & is_kept[..., :-1]
        is_nearer = [is_differing & (steps[0] < steps[1]), is_differing & (steps[1] < steps[0])]
        smooth = [
            np.count_nonzero(nearer & (step < limit))
            for nearer, step, limit in zip(is_nearer, steps, limits, strict=True)
        ]
        counts += [np.count_nonzero(is_differing), *smooth]
    return _Comparison(*counts.tolist())
