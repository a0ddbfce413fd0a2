"""Pictures for a browser: reduced in size and encoded as JPEG."""

from __future__ import annotations

import cv2
import numpy as np


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture with its longer side at most `side` pixels."""
    scale = side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def jpeg(picture: np.ndarray, quality: int = 92) -> bytes:
    """Gray (H, W) or RGB (H, W, 3), uint8, as JPEG."""
    bgr = picture if picture.ndim == 2 else picture[..., ::-1]
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()
