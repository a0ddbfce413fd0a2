"""The one reader of picture files: upright, white is high, what is hidden is black, and every bit of a value is kept.

Pillow decodes, OpenCV the plain gray JPEG of shards. What Pillow leaves to its callers is done here: EXIF orientation,
alpha channels, TIFF with white as 0, 16 bits in color, and labels of 2 and 4 bits, which it stretches.
"""

# H, W pixels of a picture.

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import PictureError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

ORIENTATION, NEW_SUBFILE_TYPE, BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 274, 254, 258, 262, 339
"""Tags of EXIF and TIFF."""

PREVIEW_OR_MASK = 1 | 4
"""Bits of NewSubfileType: a page of a TIFF that is no picture of its own."""

STRETCHED = {"L;2": 85, "L;4": 17}
"""Raw mode -> factor by which Pillow stretches gray values of fewer than 8 bits."""

NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
"""Raw mode of a big-endian TIFF -> that of this machine. Pillow 12.3 swaps the bytes of a compressed one twice: libtiff
has turned them already."""

GRAY_WEIGHTS = (19595, 38470, 7471)
"""Red, green and blue in a gray value, in 1/65536 (ITU-R 601-2), as in Pillow."""


def read_gray(source: bytes | Path) -> np.ndarray:
    """A picture's gray values, (H, W) uint8, or the stored type where that is wider (NaN stays); color becomes gray.

    Raises PictureError, without a path, where the source is not one whole picture.
    """
    with _quiet():
        return _pixels(_content(source), gray=True)


def read_color(source: bytes | Path) -> np.ndarray:
    """A picture as stored: (H, W) where it is gray, else (H, W, 3) for red, green, blue.

    Raises PictureError, without a path.
    """
    with _quiet():
        return _pixels(_content(source), gray=False)


def read_labels(source: bytes | Path) -> np.ndarray:
    """A picture's label numbers exactly as stored, (H, W); of a palette, its indices; of 1 bit, 0 and 1.

    Raises PictureError, without a path, also where it is not clear which number a pixel has.
    """
    with _quiet():
        opened = _open(_content(source))
    mode = opened.picture.mode
    if mode not in ("1", "L", "LA", "P") and not opened.is_wide:
        raise PictureError(f"labels in color ({mode}); give one number a pixel")
    labels_HW = np.asarray(opened.picture.getchannel(0)) if mode == "LA" else opened.values()
    if mode == "1":
        labels_HW = labels_HW.astype(np.uint8)
    elif opened.is_white_zero and not np.isin(labels_HW, (0, 255)).all():
        raise PictureError("labels in a TIFF whose 0 is white (WhiteIsZero); save it with 0 as black")
    if mode == "L":
        labels_HW = labels_HW // STRETCHED.get(opened.raw_mode.rstrip("IR"), 1)
    alpha_HW = opened.alpha()
    if alpha_HW is not None and labels_HW[alpha_HW < 255].any():
        raise PictureError("labels that the alpha channel hides; flatten it")
    return _upright(labels_HW, opened.orientation)


def decode_grey(encoded: bytes) -> np.ndarray:
    """Pixels of a shard's JPEG or PNG, (H, W) uint8 (a 16-bit PNG: uint16); color becomes gray.

    Raises ValueError where the bytes are not a whole picture.
    """
    if (pixels_HW := _plain_jpeg(encoded)) is not None:
        return pixels_HW
    try:
        return _pixels(encoded, gray=True)
    except PictureError as error:
        raise ValueError(str(error)) from None


def _plain_jpeg(encoded: bytes) -> np.ndarray | None:
    """A gray JPEG without EXIF or XMP, (H, W) uint8, by OpenCV, a fifth faster than Pillow with the same pixels.

    None where it is anything else, or not whole: Pillow then says what it is.
    """
    header = encoded[: encoded.find(b"\xff\xda")]  # up to the start of the scan
    if not header.startswith(b"\xff\xd8\xff\xe0") or b"\xff\xe1" in header:
        return None
    import cv2

    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels is not None and pixels.ndim == 2 and pixels.dtype == np.uint8 else None


def _content(source: bytes | Path) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise PictureError(f"a file that cannot be read ({error.strerror or type(error).__name__})") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow without its warnings: of large pictures (it refuses the largest) and of damaged EXIF."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A decoded picture as Pillow has it, with what its header says.

    raw_mode: how values lie in the file. orientation: that of EXIF, still to be undone. is_signed: integers of a TIFF.
    """

    picture: Image
    raw_mode: str
    orientation: int = 1
    is_white_zero: bool = False
    is_signed: bool = False
    bits: int = 0

    @property
    def is_wide(self) -> bool:
        """Whether it has one channel of more than 8 bits."""
        return self.picture.mode == "F" or self.picture.mode.startswith("I")

    @property
    def is_deep_color(self) -> bool:
        """Whether it has several channels of 16 bits, of which Pillow keeps 8."""
        return ";16" in self.raw_mode and self.picture.mode in ("RGB", "RGBA")

    def values(self) -> np.ndarray:
        """The values of its one channel in their stored type, (H, W), white high (up to 8 bits, Pillow does that)."""
        values_HW = np.asarray(self.picture)
        values_HW = values_HW.astype(values_HW.dtype.newbyteorder("="), copy=False)
        if self.picture.mode == "I" and self.bits == 32 and not self.is_signed:
            values_HW = values_HW.view(np.uint32)
        elif self.picture.mode == "L" and self.is_signed:
            values_HW = values_HW.view(np.int8).astype(np.int16)
        if not self.is_white_zero or not self.is_wide:
            return values_HW
        return -values_HW if values_HW.dtype.kind == "f" else np.iinfo(values_HW.dtype).max - values_HW

    def alpha(self) -> np.ndarray | None:
        """How visible each pixel is, (H, W) uint8, 0 for hidden; None where all are visible."""
        picture = self.picture
        if picture.mode in ("LA", "PA", "RGBA"):
            alpha_HW = np.asarray(picture.getchannel("A"))
        elif "transparency" not in picture.info:
            return None
        elif self.is_wide:
            alpha_HW = np.where(np.asarray(picture) == picture.info["transparency"], 0, 255).astype(np.uint8)
        else:
            with_alpha = picture.convert("LA" if picture.mode in ("1", "L") else "RGBA")
            alpha_HW = np.asarray(with_alpha.getchannel("A"))
        return None if alpha_HW.min() == 255 else alpha_HW


def _open(content: bytes) -> _Opened:
    """The decoded picture. Raises PictureError where there is not one whole picture."""
    from PIL import Image

    try:
        return _decode(Image.open(io.BytesIO(content)))
    except (PictureError, MemoryError):
        raise
    except Exception as error:  # Pillow raises many kinds where a file is damaged
        text = str(error).partition(" <")[0]  # what follows is the address of an object
        raise PictureError(f"not a readable picture ({text or type(error).__name__})") from None


def _decode(picture: ImageFile) -> _Opened:
    _check_single(picture)
    raw_mode = ""
    if picture.tile:
        tile = picture.tile[0]
        raw_mode, *others = [tile.args] if isinstance(tile.args, str) else tile.args or [""]
        if tile.codec_name == "libtiff" and raw_mode in NATIVE:
            picture.tile = [tile._replace(args=(NATIVE[raw_mode], *others))]
    if picture.format == "TIFF":
        tags = picture.tag_v2  # type: ignore[attr-defined]
        picture.load()  # turns it upright, too
        return _Opened(
            picture,
            raw_mode,
            is_white_zero=tags.get(PHOTOMETRIC) == 0,
            is_signed=2 in tags.get(SAMPLE_FORMAT, ()),
            bits=tags.get(BITS_PER_SAMPLE, (1,))[0],
        )
    picture.load()
    orientation = 1
    with suppress(Exception):  # EXIF that is damaged is no reason to lose the picture
        orientation = picture.getexif().get(ORIENTATION, 1)
    return _Opened(picture, raw_mode, orientation)


def _check_single(picture: ImageFile) -> None:
    """Raises PictureError where one file holds several pictures; previews and masks of a TIFF do not count."""
    if picture.format not in ("TIFF", "PNG", "GIF", "WEBP"):
        return
    count = frames = getattr(picture, "n_frames", 1)
    if picture.format == "TIFF" and frames > 1:
        for page in range(1, frames):
            picture.seek(page)
            kind = picture.tag_v2.get(NEW_SUBFILE_TYPE, 0)  # type: ignore[attr-defined]
            count -= bool(kind & PREVIEW_OR_MASK)
        picture.seek(0)
    if count > 1:
        raise PictureError(f"{count} pictures in one file; give each its own file")


def _pixels(content: bytes, *, gray: bool) -> np.ndarray:
    """(H, W) or, in color, (H, W, 3), upright, what is hidden black; gray: color becomes gray."""
    opened = _open(content)
    picture = opened.picture
    is_gray = picture.mode in ("1", "L", "LA")
    if opened.is_deep_color:
        pixels = _deep_color(content, opened.raw_mode)
    elif opened.is_wide or picture.mode == "L":
        pixels = _visible(opened.values(), opened.alpha())
    elif (alpha_HW := opened.alpha()) is None:
        pixels = np.asarray(_converted(picture, "L" if gray or is_gray else "RGB"))
    else:
        pixels = _visible(np.asarray(_converted(picture, "L" if is_gray else "RGB")), alpha_HW)
    pixels = _upright(pixels, opened.orientation)
    return _to_gray(pixels) if gray and pixels.ndim == 3 else pixels


def _converted(picture: Image, mode: str) -> Image:
    try:
        return picture.convert(mode)
    except ValueError:  # such as LAB
        raise PictureError(f"{picture.mode} pixels; save it gray or as RGB") from None


def _deep_color(content: bytes, raw_mode: str) -> np.ndarray:
    """Color or gray with alpha of 16 bits a channel, (H, W, 3) uint16, what is hidden black; a TIFF upright."""
    import cv2

    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise PictureError("color of 16 bits that cannot be read; save it gray")
    has_alpha = raw_mode.startswith(("LA", "RGBA"))  # RGBa is black already where it is hidden, RGBX has none
    return _visible(pixels[..., 2::-1], pixels[..., 3] if has_alpha else None)


def _visible(pixels: np.ndarray, alpha_HW: np.ndarray | None) -> np.ndarray:
    """The pixels before black, by their alpha. Raises PictureError where nothing is to be seen."""
    if alpha_HW is None:
        return pixels
    highest = int(np.iinfo(alpha_HW.dtype).max)
    alpha = alpha_HW if pixels.ndim == 2 else alpha_HW[..., None]
    if pixels.dtype == alpha.dtype:
        shown = ((pixels.astype(np.uint64) * alpha + highest // 2) // highest).astype(pixels.dtype)
    else:  # one value of a wide channel is hidden
        shown = np.where(alpha == 0, pixels.dtype.type(0), pixels)
    if not shown.any() and alpha_HW.min() < highest:
        raise PictureError("black wherever its alpha channel hides nothing; flatten it")
    return shown


def _to_gray(color: np.ndarray) -> np.ndarray:
    return ((color.astype(np.uint64) @ np.array(GRAY_WEIGHTS, np.uint64) + 0x8000) >> 16).astype(color.dtype)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3) as they are to be shown, by their EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
