"""Picture files as arrays."""

from __future__ import annotations

import io

import numpy as np


def decode_grey(encoded: bytes) -> np.ndarray:
    """Pixels of a JPEG or PNG, (H, W) uint8 (a 16-bit PNG: uint16); color becomes gray.

    Raises ValueError where the bytes are not a whole picture.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            if picture.mode in ("L", "I;16"):
                return np.asarray(picture)
            return np.asarray(picture.convert("L"))
    except OSError as error:  # so Pillow reports bytes that are not a picture, or only a part of one
        raise ValueError(str(error).partition(" <")[0]) from None
