"""Probes: eight generated pictures and a backbone's vectors of them.

A digest says that two backbones have the same weights and settings. Probes say that they also compute the same: they
catch another version of a library, a damaged build, or a changed preparation of images.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.pictures import decode_grey

# P probes, D dimensions; H, W of a picture.

SIZES = ((96, 64), (64, 96), (80, 80), (96, 48), (48, 96), (72, 88), (88, 72), (64, 64))
"""Height and width of each picture: tall, wide and square ones, since preparation letterboxes them."""


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """pictures: P encoded PNGs. vectors: (P, D) float32 of length 1, as a backbone embedded them.

    The pictures are kept with the vectors, so that they stay the same whatever later versions draw.
    """

    pictures: tuple[bytes, ...]
    vectors: np.ndarray

    def views(self) -> list[np.ndarray]:
        """The pictures as views, (H, W) uint8 each."""
        return [decode_grey(picture) for picture in self.pictures]

    def to_json(self) -> dict[str, Any]:
        """As JSON types; seven digits of each number, which is more than two machines agree on."""
        rows = [[round(float(number), 7) for number in vector] for vector in self.vectors]
        return {"png": [base64.b64encode(png).decode() for png in self.pictures], "vectors": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Probes:
        """What `to_json` gave. Raises KeyError or ValueError for anything else."""
        pictures = tuple(base64.b64decode(text, validate=True) for text in data["png"])
        vectors = np.asarray(data["vectors"], np.float32)
        if vectors.ndim != 2 or len(vectors) != len(pictures):
            raise ValueError(f"{len(pictures)} pictures, vectors of shape {vectors.shape}")
        return cls(pictures, vectors)

    def cosines(self, other_PD: np.ndarray) -> np.ndarray:
        """Cosine of each vector here with the same probe's vector there, (P,) float64."""
        here_PD, there_PD = (np.asarray(part, np.float64) for part in (self.vectors, other_PD))
        lengths_P = np.linalg.norm(here_PD, axis=1) * np.linalg.norm(there_PD, axis=1)
        return (here_PD * there_PD).sum(axis=1) / lengths_P

    def __repr__(self) -> str:
        return f"Probes({len(self.pictures)} pictures, {self.vectors.shape[-1]} dimensions)"


def probe_pictures() -> tuple[bytes, ...]:
    """The eight pictures as PNG: a body with waves of its own in it, and a bright spot."""
    from PIL import Image

    pictures = []
    for number, (height, width) in enumerate(SIZES, start=1):
        y, x = np.mgrid[:height, :width].astype(np.float64)
        body = ((x - width / 2) / (0.4 * width)) ** 2 + ((y - height / 2) / (0.45 * height)) ** 2 < 1
        waves = np.cos(x * number / 9) + np.cos(y * (9 - number) / 11)
        spot = np.hypot(y - height * number / 9, x - width / 2) < height / 10
        pixels = (20 + body * (70 + 25 * waves) + 90 * spot).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        pictures.append(file.getvalue())
    return tuple(pictures)
