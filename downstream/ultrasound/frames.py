"""B-mode frames: read from picture files with their masks, and turned into a network's input.

A file that cannot be used is left out with a reason, never silently. Masks hold 0 and 255, or 0 and 1.
"""

# H, W height and width of a frame as stored; h, w those of the network's input.

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...platform.core.errors import DataError, PictureError
from ...platform.data.pictures import read_color
from ..common.shapes import shape_text

if TYPE_CHECKING:
    from torch import Tensor

    from ...platform.models.backbone import Backbone

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Endings of picture files."""

COLORED_FROM = 40
"""A pixel is colored where its strongest and its weakest channel differ by at least this (of 255)."""

PAINTED_SHARE = 0.1
"""A label counts as painted into a frame where more of the mask than this is colored, and twice the share outside."""

SHORT = 224
"""Shorter side of a network's input in pixels, where neither a setting nor its backbone says it."""

MAX_ASPECT = 10
"""A picture more than this many times longer than wide is a strip or a table, not a frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One b-mode frame as stored: pixels (H, W) uint8, mask (H, W) bool or None where there is no truth.

    >>> Frame("0007", "arm", np.zeros((4, 6), np.uint8), np.ones((4, 6), bool))
    Frame(arm/0007, 4x6, mask 100 %)
    """

    name: str
    domain: str
    pixels: np.ndarray
    mask: np.ndarray | None = None

    @property
    def key(self) -> str:
        """Domain and name, which identify a frame among all domains."""
        return f"{self.domain}/{self.name}"

    @property
    def truth(self) -> np.ndarray:
        """The mask of a frame that is known to have one."""
        assert self.mask is not None, self.key
        return self.mask

    @property
    def digest(self) -> str:
        """sha256 of size and pixels: two files of the same picture have the same one."""
        size = f"{self.pixels.shape}".encode()
        return hashlib.sha256(size + np.ascontiguousarray(self.pixels).tobytes()).hexdigest()

    def __repr__(self) -> str:
        mask = "no mask" if self.mask is None else f"mask {100 * self.mask.mean():.0f} %"
        return f"Frame({self.key}, {shape_text(self.pixels.shape)}, {mask})"


class FrameError(Exception):
    """Why a file is not a usable frame; readers turn it into a `left_out` entry."""


def network_input(frame: Frame, backbone: Backbone, short: int | None = None) -> Tensor:
    """A frame as the network's input: (1, h, w) float32, normalized as the backbone's card says.

    The shorter side becomes `short` pixels (None: `ZeroshotConfig.short` says which), proportions are kept; shrunk by
    area, enlarged linearly.
    """
    import torch

    short = short or backbone.card.input_side or SHORT
    height, width = frame.pixels.shape
    scale = short / min(height, width)
    rows, columns = max(short, round(height * scale)), max(short, round(width * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(frame.pixels, (columns, rows), interpolation=interpolation)
    return backbone.normalize(torch.from_numpy(resized))[None]


def read_frames(sources: Sequence[Path | str]) -> tuple[tuple[Frame, ...], dict[str, str]]:
    """(frames without truth, file -> why it was left out) from picture files and folders.

    Of a folder its own pictures are read, or those in its `images/`. Files of equal names carry their folder's name.
    Raises DataError where there is no frame.
    """
    paths: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = list_pictures(source / "images" if (source / "images").is_dir() else source)
            if not inside:
                raise DataError(f"{source}: no picture here; expected {', '.join(SUFFIXES)}")
            paths += inside
        elif source.is_file():
            paths.append(source)
        else:
            raise DataError(f"{source}: no such file or folder; give pictures or folders of them")
    paths = sorted({path.resolve(): path for path in paths}.values())
    frames, left_out = [], {}
    for path, name in zip(paths, _unique_names(paths), strict=True):
        try:
            frames.append(Frame(name, "", _to_gray(_read_picture(path))))
        except FrameError as reason:
            left_out[str(path)] = str(reason)
    if not frames:
        file, why = next(iter(left_out.items()))
        raise DataError(f"{len(paths)} files, none of them a usable frame; {file}: {why}")
    return tuple(frames), left_out


def read_frame(domain: str, stem: str, images: list[Path], masks: list[Path] | None) -> Frame:
    """One frame with its mask; masks None: the domain has none. Raises FrameError."""
    if len(images) > 1:
        raise FrameError(f"{len(images)} images of that name ({', '.join(path.name for path in images)})")
    pixels = _read_picture(images[0])
    if masks is None:
        return Frame(stem, domain, _to_gray(pixels))
    if len(masks) != 1:
        raise FrameError(f"{len(masks)} masks of that name in masks/" if masks else "no mask in masks/")
    mask = _read_mask(masks[0])
    if mask.shape != pixels.shape[:2]:
        sizes = f"the image is {shape_text(pixels.shape[:2])}, its mask {shape_text(mask.shape)}"
        raise FrameError(f"{sizes} (height x width)")
    share = _painted_share(pixels, mask)
    if share:
        raise FrameError(
            f"{100 * share:.0f} % of what the mask covers is colored: a label seems painted into the image"
        )
    return Frame(stem, domain, _to_gray(pixels), mask)


def list_pictures(folder: Path) -> list[Path]:
    """The picture files of a folder by their endings, sorted, without hidden ones; none where there is no folder."""
    if not folder.is_dir():
        return []
    pictures = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in pictures if path.is_file() and not path.name.startswith("."))


def _read_picture(path: Path) -> np.ndarray:
    """A picture as (H, W) or (H, W, 3) uint8. Raises FrameError."""
    try:
        pixels = read_color(path)
    except PictureError as error:
        raise FrameError(str(error)) from None
    if pixels.dtype != np.uint8:
        raise FrameError(f"{pixels.dtype} pixels; export it with 8 bits a channel")
    height, width = pixels.shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise FrameError(f"{shape_text(pixels.shape[:2])} pixels is a strip, no frame")
    return pixels


def _read_mask(path: Path) -> np.ndarray:
    """A mask file as (H, W) bool. Of 0 and 255, values between (a smoothed edge) are foreground from 128 on."""
    try:
        gray = _to_gray(_read_picture(path))
    except FrameError as reason:
        raise FrameError(f"its mask: {reason}") from None
    highest = int(gray.max())
    if 1 < highest < 128:
        values = ", ".join(map(str, np.unique(gray)[:4]))
        raise FrameError(f"its mask holds the values {values} …; expected 0 and 255, or 0 and 1")
    return gray >= (128 if highest > 1 else 1)


def _to_gray(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def _painted_share(pixels: np.ndarray, mask: np.ndarray) -> float:
    """Share of the mask that is colored where a label seems painted into the picture, else 0.

    It is compared with the share outside of the mask, since a device may tint the whole frame.
    """
    if pixels.ndim == 2 or not mask.any():
        return 0.0
    colored = pixels.max(axis=2).astype(int) - pixels.min(axis=2) >= COLORED_FROM
    inside = float(colored[mask].mean())
    outside = float(colored[~mask].mean()) if not mask.all() else 0.0
    return inside if inside > PAINTED_SHARE and inside > 2 * outside else 0.0


def _unique_names(paths: Sequence[Path]) -> Iterator[str]:
    """A name for each file: its stem, with its folder's name and then a number where that is taken."""
    stems = [path.stem for path in paths]
    taken: set[str] = set()
    for path in paths:
        parent = path.resolve().parent
        folder = parent.parent.name if parent.name == "images" else parent.name
        plain = path.stem if stems.count(path.stem) == 1 else f"{folder}_{path.stem}"
        name, number = plain, 2
        while name in taken:
            name, number = f"{plain}-{number}", number + 1
        taken.add(name)
        yield name
