"""Arrays over HTTP: .npy (application/x-npy) both ways, and JSON for the small ones. Nothing is ever unpickled."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config import Limits
from ..engine.errors import RefusedError

NPY = "application/x-npy"


def wants_npy(accept: str) -> bool:
    """Whether an Accept header asks for .npy."""
    return any(part.partition(";")[0].strip().lower() == NPY for part in accept.split(","))


def npy_bytes(array: np.ndarray) -> bytes:
    """The array as a .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def npy_vectors(data: bytes, limits: Limits) -> np.ndarray:
    """Query vectors (M, D) from a .npy file of float16, float32 or float64.

    Its header is read first and compared with the bytes that follow, so that a lying one allocates nothing. Raises
    RefusedError.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
    except Exception:  # a header is Python's text of a dictionary: what it raises has many types
        raise RefusedError(400, "BadNpy", "not a .npy file") from None
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise RefusedError(
            415, "BadNpy", "a .npy file of vectors holds float16, float32 or float64 numbers, no objects"
        )
    shape = (1, *shape) if len(shape) == 1 else shape
    if len(shape) != 2:
        raise RefusedError(
            422, "BadShape", f"vectors have the shape (vectors, dimensions), not {len(shape)} axes"
        )
    _check_count(shape[0], limits)
    if shape[0] * shape[1] * dtype.itemsize != len(data) - file.tell():
        raise RefusedError(400, "BadNpy", "the .npy file's header does not fit its size")
    file.seek(0)
    vectors = np.load(file, allow_pickle=False)
    return np.atleast_2d(vectors).astype(np.float32)


def json_vectors(rows: Sequence[Sequence[float]], limits: Limits) -> np.ndarray:
    """Query vectors (M, D) from lists of numbers. Raises RefusedError."""
    _check_count(len(rows), limits)
    lengths = {len(row) for row in rows}
    if len(lengths) != 1:
        raise RefusedError(422, "BadShape", "the vectors differ in length")
    with np.errstate(over="ignore"):
        return np.array(rows, np.float64).astype(np.float32)


def _check_count(count: int, limits: Limits) -> None:
    if not 1 <= count <= limits.vectors:
        limit = "vectors" if count else None
        raise RefusedError(
            413 if count else 422, "BadCount", f"{count} vectors; send 1 to {limits.vectors}", limit
        )


def check_vectors(vectors_MD: np.ndarray, dimensions: int) -> None:
    """Raises RefusedError for vectors that have no direction, or of other dimensions than the gallery."""
    if vectors_MD.shape[1] != dimensions:
        raise RefusedError(
            422,
            "BadShape",
            f"the vectors have {vectors_MD.shape[1]} dimensions, the gallery has {dimensions}",
        )
    lengths_M = np.linalg.norm(vectors_MD.astype(np.float64), axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths_M) | (lengths_M == 0))
    if len(bad):
        raise RefusedError(
            422, "NoDirection", f"vector {bad[0]} is NaN, infinite or zero and has no direction"
        )


def json_numbers(array: np.ndarray, limits: Limits) -> Any:
    """The array as lists. Raises RefusedError (413) where that would be a huge answer."""
    if array.size > limits.json_numbers:
        raise RefusedError(
            413,
            "TooLarge",
            f"{array.size:,} numbers are too many for JSON; ask for them with Accept: {NPY}",
            "json_numbers",
        )
    return array.tolist()
