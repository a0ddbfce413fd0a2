"""Picture files of every kind, written byte by byte or by tifffile, so that no reader under test made them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import tifffile

COLOR_TYPES = {"gray": 0, "rgb": 2, "palette": 3, "la": 4, "rgba": 6}


def lying(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """How upright pixels lie in a file of an EXIF orientation (EXIF 2.3, table 4: sides of row 0 and column 0)."""
    return {
        1: lambda upright: upright,
        2: lambda upright: upright[:, ::-1],
        3: lambda upright: upright[::-1, ::-1],
        4: lambda upright: upright[::-1],
        5: lambda upright: upright.swapaxes(0, 1),
        6: lambda upright: np.rot90(upright),
        7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
        8: lambda upright: np.rot90(upright, -1),
    }[orientation](pixels)


def png_file(
    pixels: np.ndarray,
    kind: str = "gray",
    *,
    depth: int = 8,
    orientation: int = 1,
    palette: bytes = b"",
    transparency: bytes = b"",
) -> bytes:
    """A PNG of upright pixels (H, W) or (H, W, C); they are stored turned by the orientation that its EXIF names."""
    stored = lying(pixels, orientation)
    height, width = stored.shape[:2]
    flat = stored.reshape(height, -1).astype(np.int64)
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in flat]
    else:
        bits = (flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", width, height, depth, COLOR_TYPES[kind], 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if palette:
        chunks.append((b"PLTE", palette))
    if transparency:
        chunks.append((b"tRNS", transparency))
    if orientation != 1:
        chunks.append((b"eXIf", exif(orientation)))
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def exif(orientation: int) -> bytes:
    """The TIFF structure of an EXIF with one tag, the orientation."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)


def tiff_file(pixels: np.ndarray, *, orientation: int = 1, **settings: object) -> bytes:
    """A TIFF of upright pixels; settings go to tifffile: photometric, compression, byteorder, extrasamples."""
    file = io.BytesIO()
    tag = [(274, "H", 1, orientation, True)] if orientation != 1 else []
    tifffile.imwrite(file, np.ascontiguousarray(lying(pixels, orientation)), extratags=tag, **settings)
    return file.getvalue()
