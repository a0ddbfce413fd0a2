"""One file as the view that ingest would store, with gates before its pixels."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.platform.dicom.test_burned_in import written
from tests.platform.ingest.radiographs import RAMP, radiograph
from vetdino.platform.archive.discovery import DecodeTask, ListedFile
from vetdino.platform.core.errors import DicomError
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.dicom.config import DicomConfig
from vetdino.platform.dicom.file_view import file_view
from vetdino.platform.dicom.header import CODES
from vetdino.platform.dicom.screening import with_known_search
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import decode


def dicom(pixels=RAMP, **tags) -> bytes:
    file = BytesIO()
    radiograph(pixels, **tags).save_as(file, enforce_file_format=True)
    return file.getvalue()


def png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def view(data: bytes, **more):
    return file_view(data, DicomConfig(), ShardConfig(encoding="png"), **more)


def test_a_dicom_file_becomes_a_stored_view_without_its_names():
    stored = view(dicom(PatientName="CANARY"))
    assert (stored.projection, stored.modality, stored.spacing) == ("VD", "DX", (0.1, 0.2))
    assert stored.decode().pixels.shape == (60, 80)
    assert "CANARY" not in repr(vars(type(stored))) + str(stored.facts)
    assert b"CANARY" not in stored.encoded


def test_a_picture_keeps_its_pixels():
    pixels = np.arange(80 * 60, dtype=np.uint32).reshape(80, 60).astype(np.uint8)
    assert (view(png(pixels)).decode().pixels == pixels).all()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (dicom(Modality="US"), "NOT_RADIOGRAPH"),
        (dicom(BurnedInAnnotation="YES"), "BURNED_IN"),
        (dicom(np.full((40, 40), 5, np.uint16)), "LOW_CONTRAST"),
        (png(np.zeros((40, 40), np.uint8)), "LOW_CONTRAST"),
        (b"", "NOT_PICTURE"),
        (b"\x89PNG\r\n\x1a\nrest", "NOT_PICTURE"),
    ],
)
def test_a_file_that_gives_no_view_has_a_code(data, code):
    with pytest.raises(DicomError) as refusal:
        view(data)
    assert refusal.value.code == code


@pytest.mark.parametrize("data", [dicom(), png(np.zeros((60, 80), np.uint8))], ids=["dicom", "png"])
def test_more_pixels_than_allowed_are_refused_by_the_header_alone(data, monkeypatch):
    for decoder in ("raw_pixels", "picture_pixels"):
        monkeypatch.setattr(f"vetdino.platform.dicom.file_view.{decoder}", None)
    with pytest.raises(DicomError, match="60x80 pixels") as refusal:
        view(data, megapixels=0.004)
    assert refusal.value.code == "TOO_LARGE"
    assert refusal.value.code in CODES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dicom_config", "encoding"),
    [
        (DicomConfig(), "jpeg"),
        (DicomConfig(burned_in="mask"), "png"),
        (DicomConfig(burned_in="report", side=300), "png16"),
        (DicomConfig(burned_in="keep", crop=True), "png16"),
    ],
)
def test_it_is_the_view_that_ingest_stores(tmp_path, dicom_config, encoding):
    shards = ShardConfig(encoding=encoding)
    config = IngestConfig(dicom=with_known_search(dicom_config), shards=shards)
    text = np.pad(written("REX CANARY 17.07.1977").astype(np.uint16) * 15, 30)
    wide = np.linspace(0, 4000, 500 * 400).reshape(500, 400).astype(np.uint16)
    contents = [dicom(pixels) for pixels in (RAMP, wide, text)]
    contents += [png(written("BELLO CANARY")), dicom(BurnedInAnnotation="NO")]
    for number, content in enumerate(contents):
        path = tmp_path / str(number)
        path.write_bytes(content)
        named = None if content[128:132] == b"DICM" else ("patient", "study", "UNKNOWN")
        result = decode(tmp_path, ListedFile(DecodeTask(path.name, named)), b"key", config)
        if result.view is None:
            with pytest.raises(DicomError) as refusal:
                file_view(content, dicom_config, shards)
            assert (refusal.value.code, refusal.value.detail) == (result.code, result.detail)
            continue
        ours = file_view(content, dicom_config, shards)
        assert ours.encoded == result.view.encoded
        assert ours.facts.get("text") == result.view.facts.get("text")
