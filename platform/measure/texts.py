"""Columns of texts with a row for each study: a tuple of str, or `Texts` where a table is too long for that.

The functions here take either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 16_384
"""Rows that become Python objects at a time."""


class Texts(Sequence[str]):
    """A column that keeps each distinct text once, and an integer for each row instead of a Python object.

    values: the distinct texts, an Arrow array. codes: (N,) integers, the place of each row's text there.
    """

    def __init__(self, values: pa.Array, codes: np.ndarray) -> None:
        self.values, self.codes = values, codes

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray) -> Texts:
        """The texts of an Arrow column without nulls."""
        import pyarrow as pa

        # 32-bit offsets would end at 2 GiB of distinct texts.
        encoded = column.cast(pa.large_string()).dictionary_encode().combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):  # of an empty column
            encoded = pa.array([], pa.large_string()).dictionary_encode()
        return cls(encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False))

    def take(self, rows: np.ndarray | slice) -> Texts:
        """The texts of these rows."""
        return Texts(self.values, self.codes[rows])

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> Texts: ...

    def __getitem__(self, row: int | slice) -> str | Texts:
        return self.take(row) if isinstance(row, slice) else self.values[int(self.codes[row])].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from self.values.take(self.codes[start : start + BLOCK]).to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Texts({len(self)} rows, {len(np.unique(self.codes))} of them different)"


Column = Sequence[str]
"""A tuple of str, or `Texts`."""


def text_codes(column: Column) -> np.ndarray:
    """(N,) integers from 0, equal where the texts are equal.

    >>> text_codes(("b", "a", "b"))
    array([0, 1, 0])
    """
    if isinstance(column, Texts):
        return column.codes
    numbers: dict[str, int] = {}
    return np.fromiter((numbers.setdefault(text, len(numbers)) for text in column), np.int64, len(column))


def text_count(column: Column) -> int:
    """The number of different texts.

    >>> text_count(("b", "a", "b"))
    2
    """
    return len(np.unique(text_codes(column)))


def rows_of(column: Column, texts: Any) -> np.ndarray:
    """The rows, (M,) int64 in order, whose text is in `texts` (anything that `in` can ask).

    >>> rows_of(("b", "a", "b"), {"b"})
    array([0, 2])
    """
    if isinstance(column, Texts):
        present = np.unique(column.codes)
        wanted = [text in texts for text in Texts(column.values, present)]
        return np.flatnonzero(np.isin(column.codes, present[wanted]))
    return np.array([row for row, text in enumerate(column) if text in texts], np.int64)


def common_count(one: Column, other: Column) -> int:
    """The number of different texts that occur in both.

    >>> common_count(("b", "a", "b"), ("b", "c"))
    1
    """
    if isinstance(one, Texts) and isinstance(other, Texts) and one.values is other.values:
        return len(np.intersect1d(one.codes, other.codes))
    return len(set(one) & set(other))


def take_rows(column: Column, rows: Sequence[int] | np.ndarray | slice) -> Column:
    """The texts of these rows, in this order, as the kind of column that it is."""
    if isinstance(column, Texts):
        return column.take(rows if isinstance(rows, slice) else np.asarray(rows, np.int64))
    column = tuple(column)
    return column[rows] if isinstance(rows, slice) else tuple(column[row] for row in rows)


def group_starts(column: Column) -> np.ndarray:
    """The rows at which a run of equal texts begins, (M,) int64.

    >>> group_starts(("b", "b", "a", "b"))
    array([0, 2, 3])
    """
    codes_N = text_codes(column)
    return np.flatnonzero(np.concatenate([[True], codes_N[1:] != codes_N[:-1]])) if len(codes_N) else codes_N
