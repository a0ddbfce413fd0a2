"""Uploads decoded in processes: the same pixels as ingest, and nothing that a file does reaches the service."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom.filewriter import dcmwrite

from tests.platform.ingest.radiographs import radiograph
from tests.serving.conftest import CANARY, dicom_file, picture
from vetdino.platform.core.errors import DicomError
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.dicom.config import DicomConfig
from vetdino.platform.dicom.file_view import file_view
from vetdino.serving.config import Limits, ServiceConfig
from vetdino.serving.engine.decoding import UploadDecoder, decode_file
from vetdino.serving.engine.errors import RefusedError

LIMITS = Limits(decode_gib=0.5, decode_s=20, megapixels=4, decode_queue=4)
CONFIG = ServiceConfig(backbones=(), decoders=1, limits=LIMITS)


@pytest.fixture(scope="module")
def pool():
    pool = UploadDecoder(CONFIG)
    yield pool
    pool.close()


def refused(pool, data: bytes) -> DicomError:
    with pytest.raises(DicomError) as refusal:
        asyncio.run(pool.decode(data))
    return refusal.value


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["dicom", "PNG", "JPEG"])
def test_the_view_is_the_one_that_ingest_stores(pool, kind):
    pixels = picture(700, 400, 1)
    data = dicom_file(pixels) if kind == "dicom" else png(pixels, kind)
    view = asyncio.run(pool.decode(data))
    stored = file_view(data, DicomConfig(), ShardConfig())
    assert view.encoded == stored.encoded
    assert view.decode().pixels.shape == (512, 293)
    assert (view.projection, view.modality) == (("VD", "DX") if kind == "dicom" else ("UNKNOWN", ""))
    assert view.facts == {}
    assert CANARY.encode() not in view.encoded


def deflated_bomb(unpacked_mib: int) -> bytes:
    """A DICOM file whose deflated data set unpacks to so many MiB of pixels."""
    side = 1024
    dataset = radiograph(np.zeros((side, side), np.uint8))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    plain = BytesIO()
    dcmwrite(plain, dataset, enforce_file_format=True)
    content = plain.getvalue()
    length = int.from_bytes(content[140:144], "little")
    head, body = content[: 144 + length], content[144 + length :]
    deflated = head.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    # the length of the UID's element and of the group grow by two
    at = deflated.index(b"\x02\x00\x10\x00UI") + 6
    deflated = deflated[:at] + (22).to_bytes(2, "little") + deflated[at + 2 :]
    deflated = deflated[:140] + (length + 2).to_bytes(4, "little") + deflated[144:]
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(body)
    zeros = bytes(1 << 20)
    for _ in range(unpacked_mib):
        packed += packer.compress(zeros)
    return deflated + packed + packer.flush()


def test_a_deflated_bomb_costs_an_error_and_no_memory_of_the_service(pool):
    bomb = deflated_bomb(1100)
    assert len(bomb) < 1_500_000
    error = refused(pool, bomb)
    assert "more memory than allowed" in error.detail
    assert asyncio.run(pool.decode(dicom_file(picture(60, 50, 0))))


def test_a_header_that_promises_too_many_pixels_is_refused_before_they_are_decoded(pool):
    lying = radiograph(np.zeros((8, 8), np.uint8), Rows=65535, Columns=65535)
    lying.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"  # RLE
    file = BytesIO()
    lying.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x08\0\0\0" + b"\x01\0\0\0\0\0\0\0"
    lying["PixelData"].VR = "OB"
    dcmwrite(file, lying, enforce_file_format=True)
    assert refused(pool, file.getvalue()).code == "INVALID_PIXEL_TAG"
    lying.Rows = lying.Columns = 3000
    file = BytesIO()
    dcmwrite(file, lying, enforce_file_format=True)
    error = refused(pool, file.getvalue())
    assert (error.code, error.detail) == ("TOO_LARGE", "3000x3000 pixels, the limit is 4 million")


@pytest.mark.parametrize("side", [2100, 13_000, 20_000])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(pool, side):
    file = BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    assert refused(pool, file.getvalue()).code == "TOO_LARGE"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\x1f\x8b\x08 gzip",
        b"PK\x03\x04 zip",
        b"II*\0 tiff",
        b"GIF89a",
        b"<svg/>",
        b"BM" + bytes(200),
    ],
)
def test_other_kinds_of_files_never_reach_a_decoder(pool, data, monkeypatch):
    monkeypatch.setattr(pool._pool, "schedule", None)
    assert refused(pool, data).code == "NOT_PICTURE"


def test_a_process_that_dies_costs_its_file_alone(pool, monkeypatch):
    async def killed():
        running = asyncio.create_task(pool.decode(dicom_file(picture(60, 50, 0))))
        await asyncio.sleep(0)
        pid = await asyncio.wrap_future(pool._pool.schedule(os.getpid))
        await running
        busy = pool._pool.schedule(signal.pause)
        await asyncio.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        try:
            await asyncio.wrap_future(busy)
        except Exception as error:
            return type(error).__name__

    assert asyncio.run(killed()) == "ProcessExpired"
    assert asyncio.run(pool.decode(dicom_file(picture(60, 50, 0))))


def test_a_file_that_takes_too_long_is_given_up_and_the_next_is_decoded():
    pool = UploadDecoder(replace(CONFIG, limits=replace(LIMITS, decode_s=0.5)))
    try:
        with pytest.MonkeyPatch.context() as patch:
            schedule = pool._pool.schedule
            patch.setattr(
                pool._pool, "schedule", lambda _, __, timeout: schedule(time.sleep, (60,), timeout=timeout)
            )
            error = refused(pool, dicom_file(picture(60, 50, 0)))
        assert (error.code, error.detail) == ("DECODER_CRASHED", "no answer within 0.5 s")
        assert asyncio.run(pool.decode(dicom_file(picture(60, 50, 0))))
    finally:
        pool.close()


def test_processes_that_are_killed_between_two_files_are_replaced(pool):
    pid = pool._pool.schedule(os.getpid).result()
    os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    assert asyncio.run(pool.decode(dicom_file(picture(60, 50, 0))))
    assert asyncio.run(pool.alive())


def test_the_files_of_a_request_find_room_together_or_are_refused_together(pool):
    with pool.room(3):
        assert pool.waiting == 3
        with pool.room(1), pytest.raises(RefusedError, match="4 files wait") as refusal, pool.room(1):
            pass
        with pytest.raises(RefusedError), pool.room(2):
            pass
    assert pool.waiting == 0
    assert (refusal.value.status, refusal.value.limit) == (503, "decode_queue")


def test_no_error_quotes_the_file():
    for data in (b"\0" * 128 + b"DICM" + CANARY.encode() * 9, b"\xff\xd8\xff" + CANARY.encode()):
        code, detail = decode_file(data, DicomConfig(), ShardConfig(), 4)
        assert code
        assert CANARY not in detail
