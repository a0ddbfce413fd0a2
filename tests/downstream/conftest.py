"""Folders of small drawn frames: a bright arc on speckle, the same bone somewhere else in each."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from vetdino.platform.models.backbone import Backbone


def arc(seed: int, height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """(pixels uint8, mask bool) of one frame: an arc as bright as bone over speckle that dims with depth."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    far = np.hypot(rows - height * random.uniform(0.7, 0.9), columns - width * random.uniform(0.35, 0.65))
    mask = (abs(far - height * 0.35) < height * 0.08) & (rows < height * 0.7)
    speckle = random.rayleigh(30, (height, width)) * (1 - 0.5 * rows / height)
    return np.clip(speckle + 150 * mask, 0, 255).astype(np.uint8), mask


def write_domain(folder: Path, frames: int = 4, seed: int = 0, **size: int) -> Path:
    """A domain folder of `frames` drawn frames, 00, 01 and so on."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(frames):
        pixels, mask = arc(100 * seed + number, **size)
        Image.fromarray(pixels).save(folder / "images" / f"{number:02}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{number:02}.png")
    return folder


@pytest.fixture(scope="session")
def drawn() -> Callable[..., Path]:
    """`write_domain`, for tests that make folders."""
    return write_domain


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    """A network of two blocks at random weights, patches of 8 pixels."""
    from vetdino.platform.models.backbone import random_backbone
    from vetdino.platform.models.config import BackboneConfig

    config = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, heads=2, depth=2)
    return random_backbone(config, seed=3).eval()


@pytest.fixture(scope="session")
def png_pixels() -> Callable[[bytes], np.ndarray]:
    """A function: the pixels of a PNG, (H, W, 3) uint8."""
    return lambda png: np.array(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.fixture(scope="session")
def shows_color(png_pixels: Callable[[bytes], np.ndarray]) -> Callable[..., bool]:
    """A function: whether a PNG has at least 20 pixels within `near` of a color such as `#0b62a8`."""

    def shows(png: bytes, color: str, near: int = 3) -> bool:
        rgb = tuple(bytes.fromhex(color[1:]))
        return int((np.abs(png_pixels(png).astype(int) - rgb).max(axis=2) <= near).sum()) >= 20

    return shows
