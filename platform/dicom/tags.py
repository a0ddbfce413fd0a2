"""Values of DICOM tags from headers that may be damaged: only a tag that decoding needs may raise an error."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..core.errors import DicomError

if TYPE_CHECKING:
    from pydicom import Dataset


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom without its warnings: they quote values, and values name patients."""
    from pydicom import config as pydicom_config

    with warnings.catch_warnings(), pydicom_config.disable_value_validation():
        warnings.simplefilter("ignore")
        before, pydicom_config.logger.disabled = pydicom_config.logger.disabled, True
        try:
            yield
        finally:
            pydicom_config.logger.disabled = before


def tag_value(dataset: Dataset, name: str) -> Any:
    """A tag's value, None where it is absent or unreadable: a minor tag is no reason to lose a picture."""
    try:
        return dataset.get(name)
    except Exception:  # pydicom converts late, and a damaged value can raise anything
        return None


def tag_text(dataset: Dataset, name: str) -> str:
    """A tag as text without outer blanks, empty where it is absent or unreadable."""
    value = tag_value(dataset, name)
    return "" if value is None else str(value).strip()


def tag_items(dataset: Dataset, name: str) -> list[Dataset]:
    """The items of a sequence, none where it is absent or not a sequence."""
    from pydicom import Sequence

    value = tag_value(dataset, name)
    return list(value) if isinstance(value, Sequence) else []


def tag_numbers(dataset: Dataset, name: str) -> list[float]:
    """A tag's values as numbers, none where it is absent or holds anything else."""
    value = tag_value(dataset, name)
    values = [] if value is None else list(value) if hasattr(value, "__iter__") else [value]
    try:
        return [float(number) for number in values]
    except (TypeError, ValueError):
        return []


def needed_integer(dataset: Dataset, name: str, low: int, high: int, default: int | None = None) -> int:
    """An integer tag within low to high. Raises DicomError MISSING_PIXEL_TAG, INVALID_PIXEL_TAG."""
    try:
        value = dataset.get(name)
        number = default if value is None else int(value)
    except Exception:  # a value that its VR forbids
        raise DicomError("INVALID_PIXEL_TAG", f"{name} is no whole number") from None
    if number is None:
        raise DicomError("MISSING_PIXEL_TAG", name)
    if not low <= number <= high:
        raise DicomError("INVALID_PIXEL_TAG", f"{name} is {number}, expected {low} to {high}")
    return number
