"""Damaged and malicious DICOM files and containers, each decided by a number."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random

import imagecodecs
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.platform.ingest.packing import pack
from tests.platform.ingest.radiographs import lut_item, radiograph, saved
from vetdino.platform.dicom.tags import quiet

CONTAINERS = ("zip", "tar", "tgz")

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    "1.2.840.10008.1.2.4.53",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.100",
    "1.2.3",
    "",
)


def encoded(pixels_HW: np.ndarray, syntax: str) -> bytes:
    """One frame in a compression that imagecodecs writes."""
    if syntax == JPEGBaseline8Bit:
        return imagecodecs.jpeg8_encode(pixels_HW.astype(np.uint8))
    if syntax == JPEGExtended12Bit:
        return imagecodecs.jpeg8_encode(pixels_HW, bitspersample=12)
    if syntax == JPEGLosslessSV1:
        return imagecodecs.ljpeg_encode(pixels_HW, bitspersample=12)
    if syntax == JPEGLSLossless:
        return imagecodecs.jpegls_encode(pixels_HW)
    if syntax == HTJ2KLossless:
        return imagecodecs.htj2k_encode(pixels_HW)
    return imagecodecs.jpeg2k_encode(pixels_HW, codecformat="j2k", reversible=True, level=0)


def in_syntax(pixels_HW: np.ndarray, syntax: str, **tags: object) -> Dataset:
    """A radiograph of uint16 pixels in a transfer syntax; JPEG baseline has 8 bits."""
    if syntax == JPEGBaseline8Bit:
        pixels_HW = (pixels_HW >> 4).astype(np.uint8)
    dataset = radiograph(pixels_HW, **tags)
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    elif syntax in (ExplicitVRBigEndian,):
        dataset.PixelData = pixels_HW.astype(pixels_HW.dtype.newbyteorder(">")).tobytes()
    elif syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        dataset.PixelData = encapsulate([encoded(pixels_HW, syntax)])
        dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


@cache
def generated() -> tuple[bytes, ...]:
    """A radiograph in each transfer syntax, and some with tables, several frames, color, or a text in many tags."""
    random = np.random.default_rng(0)
    pixels_HW = (
        np.add.outer(np.arange(64) * 40, np.arange(48) * 30) + random.integers(0, 50, (64, 48))
    ).astype(np.uint16)
    identity = {"PatientID": "Rex", "StudyInstanceUID": "1.2.3"}
    files = [saved(in_syntax(pixels_HW, syntax, **identity)) for syntax in SYNTAXES[:11]]
    table = lut_item(np.arange(4096), bits=12)
    files += [
        saved(radiograph(pixels_HW, VOILUTSequence=[table], **identity)),
        saved(radiograph(pixels_HW, ModalityLUTSequence=[table], PixelPaddingValue=0, **identity)),
        saved(radiograph(pixels_HW, WindowCenter=["99", "2000"], WindowWidth=["1", "3000"], **identity)),
        saved(radiograph(np.stack([pixels_HW] * 3), NumberOfFrames=3, Rows=64, Columns=48, **identity)),
        saved(
            radiograph(
                pixels_HW, ViewCodeSequence=[table], PhotometricInterpretation="MONOCHROME1", **identity
            )
        ),
    ]
    return tuple(files)


def flip(data: bytearray, random: Random) -> bytearray:
    """Some bits, anywhere or in the first part, turned."""
    end = len(data) if random.random() < 0.5 else min(len(data), 1200)
    for _ in range(random.choice((1, 2, 8, 64))):
        data[random.randrange(end)] ^= 1 << random.randrange(8)
    return data


def cut(data: bytearray, random: Random) -> bytearray:
    return data[: random.randrange(len(data))]


def splice(data: bytearray, random: Random) -> bytearray:
    """A part removed, doubled, zeroed, or replaced by noise."""
    start = random.randrange(len(data))
    end = min(len(data), start + random.choice((1, 2, 4, 100, 5000)))
    part = random.choice((b"", data[start:end] * 2, bytes(end - start), random.randbytes(end - start)))
    return data[:start] + part + data[end:]


LENGTHS = (0, 1, 3, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


def lengthen(data: bytearray, random: Random) -> bytearray:
    """An element's length that is not that of its value."""
    tags = [
        b"\x10\x00\x10\x00",
        b"\x28\x00\x10\x00",
        b"\xe0\x7f\x10\x00",
        b"\xfe\xff\x00\xe0",
        b"\x02\x00\x10\x00",
    ]
    places = [data.find(tag) for tag in tags]
    place = random.choice([place for place in places if place >= 0] or [140 % len(data)])
    offset = place + random.choice((4, 6, 8))
    data[offset : offset + 4] = struct.pack("<I", random.choice(LENGTHS))
    return data


def retype(data: bytearray, random: Random) -> bytearray:
    """Another transfer syntax than that of the pixels, or none."""
    start = data.find(b"1.2.840.10008.1.2", 190)
    if start < 0:
        return flip(data, random)
    length = struct.unpack("<H", data[start - 2 : start])[0]
    other = str(random.choice(SYNTAXES)).encode()[:length].ljust(length, b"\0")
    data[start : start + length] = other
    return data


PIXEL_TAGS = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "SamplesPerPixel",
    "PixelRepresentation",
    "PlanarConfiguration",
    "PixelPaddingValue",
)

TEXT_TAGS = (
    ("NumberOfFrames", "IS"),
    ("WindowCenter", "DS"),
    ("WindowWidth", "DS"),
    ("RescaleSlope", "DS"),
    ("ImagerPixelSpacing", "DS"),
    ("PhotometricInterpretation", "CS"),
    ("SpecificCharacterSet", "CS"),
    ("PatientOrientation", "CS"),
)

NUMBERS = (0, 1, 2, 7, 8, 9, 12, 16, 17, 32, 64, 255, 4096, 30000, 32767, 65535)

TEXTS = ("", "0", "-1", "1e308", "nan", "inf", "1e-320", "99999999999", "x" * 99, "\\".join("1" * 3000), "\0")


def lie(data: bytearray, random: Random) -> bytearray:
    """Tags that say what the pixels are not, well-formed or not."""
    try:
        with quiet():
            dataset = dcmread(io.BytesIO(bytes(data)), force=True)
            for _ in range(random.choice((1, 2, 4))):
                name = random.choice(PIXEL_TAGS)
                setattr(dataset, name, random.choice(NUMBERS))
            name, vr = random.choice(TEXT_TAGS)
            dataset.add_new(name, "UN" if random.random() < 0.2 else vr, random.choice(TEXTS).encode())
            target = io.BytesIO()
            dataset.save_as(target)
            return bytearray(target.getvalue())
    except Exception:  # damaged before: another change then
        return flip(data, random)


def resize_stream(data: bytearray, random: Random) -> bytearray:
    """A bomb: a compressed stream that says it is huge."""
    side = struct.pack(">H", random.choice((0, 1, 20000, 65500)))
    for mark, place in ((b"\xff\xc0", 5), (b"\xff\xc1", 5), (b"\xff\xc3", 5), (b"\xff\xf7", 5)):
        start = data.find(mark, 600)
        if start >= 0:
            data[start + place : start + place + 4] = side * 2
            return data
    start = data.find(b"\xff\x4f\xff\x51", 600)
    if start >= 0:
        data[start + 8 : start + 16] = (b"\0\0" + side) * 2
        return data
    return lie(data, random)


CHANGES: Sequence[Callable[[bytearray, Random], bytearray]] = (
    flip,
    flip,
    cut,
    splice,
    lengthen,
    retype,
    lie,
    lie,
    resize_stream,
)


def deflate_bomb(gib: int) -> bytes:
    """A few MB of deflated data set whose pixels are `gib` GiB of zeros."""
    dataset = radiograph(PatientID="Rex", StudyInstanceUID="1.2.3", PixelData=b"")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    plain = radiograph(PatientID="Rex", StudyInstanceUID="1.2.3", PixelData=None)
    body = io.BytesIO()
    plain.save_as(body, implicit_vr=False, little_endian=True, enforce_file_format=False)
    whole = saved(dataset)
    start = 132 + 12 + struct.unpack("<I", whole[140:144])[0]
    packer = zlib.compressobj(9, wbits=-15)
    pixels = b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 0xFFFFFFFE)
    head = packer.compress(body.getvalue() + pixels) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(64 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return whole[:start] + head + block * (16 * gib) + packer.flush()


def rle_bomb() -> bytes:
    """A run-length stream that says: 15 segments of a large image, and holds a few bytes of repeats."""
    dataset = radiograph(PatientID="Rex", StudyInstanceUID="1.2.3")
    header = struct.pack("<16L", 15, *(64 + 8 * number for number in range(15)))
    dataset.PixelData = encapsulate([header + b"\x81\0" * 4000])
    dataset["PixelData"].VR = "OB"
    dataset.Rows = dataset.Columns = 20000
    dataset.file_meta.TransferSyntaxUID = RLELossless
    return saved(dataset)


def nested_sequences(depth: int) -> bytes:
    """Sequences of undefined length in one another."""
    data = bytearray(saved(radiograph(PatientID="Rex", PixelData=None)))
    data += (b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * depth
    return bytes(data)


def many_values() -> bytes:
    """A window of a million numbers, and a hundred thousand private tags."""
    numbers = b"1\\" * 1_000_000
    data = bytearray(saved(radiograph(PatientID="Rex", StudyInstanceUID="1.2.3", PixelData=None)))
    data += b"\x28\x00\x50\x10UN\0\0" + struct.pack("<I", len(numbers)) + numbers
    data += b"".join(b"\x29\x00" + struct.pack("<H", number) + b"SH\x02\x00ab" for number in range(1, 60_000))
    return bytes(data)


@cache
def bombs() -> dict[str, bytes]:
    """Name -> file, each of which would take gigabytes, minutes or the stack where it is believed."""
    zeros = io.BytesIO()
    with zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED) as container:
        container.writestr("IM0", bytes(256 << 20))
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as container:
        container.writestr("inner.zip", zeros.getvalue())
    return {
        "deflate": deflate_bomb(3),
        "rle": rle_bomb(),
        "sequences": nested_sequences(100_000),
        "values": many_values(),
        "zip": zeros.getvalue(),
        "nested": nested.getvalue(),
    }


def mutated(number: int, real: Sequence[bytes] = ()) -> bytes:
    """The damaged file of a number: a generated or a real one with one to three changes."""
    random = Random(number)
    data = bytearray(random.choice(real if real and random.random() < 0.5 else generated()))
    for _ in range(random.choice((1, 1, 2, 3))):
        if data:
            data = random.choice(CHANGES)(data, random)
    return bytes(data)


def mutated_container(number: int, path: Path) -> None:
    """Writes the damaged container of a number: of files as they are, damaged in its own structure, or both."""
    random = Random(number)
    files = {
        f"{place}/IM{place}": mutated(1000 * number + place) if random.random() < 0.5 else generated()[place]
        for place in range(random.randrange(1, 6))
    }
    pack(path, files, random.choice(CONTAINERS))
    data = bytearray(path.read_bytes())
    for _ in range(random.choice((0, 1, 1, 3))):
        if data:
            data = random.choice((flip, cut, splice))(data, random)
    path.write_bytes(data)
