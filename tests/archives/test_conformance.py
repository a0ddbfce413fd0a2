"""202 real and damaged DICOM files beside the checkout: each comes out as their index says, or as argued here.

The files are not part of the repository: where they are absent, there is nothing to test.
"""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vetdino.platform.archive.dicomdir import is_dicomdir
from vetdino.platform.archive.discovery import DecodeTask, ListedFile
from vetdino.platform.core.errors import DicomError
from vetdino.platform.dicom.config import DicomConfig
from vetdino.platform.dicom.header import read_header
from vetdino.platform.dicom.pixels import raw_pixels
from vetdino.platform.ingest.assembly import QUARANTINE
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import decode
from vetdino.platform.ingest.ingest import ingest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "index.csv").is_file(), reason=f"{DATA}: no conformance files there"),
]

CUT_IN_PIXELS = {
    "pydicom-data/emri_small_jpeg_2k_lossless_too_short.dcm",
    "fo-dicom/GH1339.dcm",
}
"""The end of the encapsulated pixel data is cut off. The index says NO_PIXEL_DATA, since pydicom then gives an empty
data set; for derived/j2k_cut.dcm, cut in the same place, it says TRUNCATED_FILE, and so does ingest for all three."""

DECODED_HERE = {
    "cornerstone3D/CTImage.dcm_JPEGProcess10_12TransferSyntax_1.2.840.10008.1.2.4.55.dcm": "cornerstone3D/CTImage.dcm",
    "cornerstone3D/CTImage.dcm_JPEGProcess6_8TransferSyntax_1.2.840.10008.1.2.4.53.dcm": "cornerstone3D/CTImage.dcm",
    "dicom-test-files/MR1_JPLY": "dicom-test-files/MR1_J2KR",
    "dicom-test-files/MR3_JPLY": "dicom-test-files/MR3_JPLL",
    "dicom-test-files/MR4_JPLY": "dicom-test-files/MR4_RLE",
}
"""12-bit and progressive JPEG that no plugin of pydicom reads, and imagecodecs does -> the same image without loss."""

REFUSED_BY_MODALITY = {
    *DECODED_HERE,
    "pydicom-data/liver_nonbyte_aligned_rle.dcm",
    "pydicom-data/liver_rle.dcm",
    "fo-dicom/genFile.dcm",
}
"""The index decodes first. Ingest asks the header first, and never decodes what is no radiograph."""

SIGNED_HERE = {"pylibjpeg-data/TOSHIBA_J2K_SIZ1_PixRep0.dcm"}
"""The header says unsigned, the JPEG 2000 stream signed: taken as signed, -2048 to 1717, the range of a CT. The bits
are the same as the index's."""

MULTIFRAME = {"derived/cr_two_frames.dcm"}
"""The index's MULTIFRAME is no reason code: NOT_RADIOGRAPH with its number of frames."""


def rows() -> list[dict[str, str]]:
    if not (DATA / "index.csv").is_file():
        return []
    with open(DATA / "index.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_becomes_a_view_or_has_the_reason_of_the_index():
    others: dict[str, tuple[str, str]] = {}
    for row in rows():
        expected = "" if row["radiograph_gate"] == "accept" else row["radiograph_gate"]
        expected = re.sub(r"reject:(\w+).*", r"\1", expected)
        code = decode(DATA, ListedFile(DecodeTask(row["file"])), b"key", IngestConfig()).code
        if code != expected:
            others[row["file"]] = expected, code
    assert others == {
        **dict.fromkeys(CUT_IN_PIXELS, ("NO_PIXEL_DATA", "TRUNCATED_FILE")),
        **dict.fromkeys(REFUSED_BY_MODALITY, ("DECODE_FAILED", "NOT_RADIOGRAPH")),
        **dict.fromkeys(MULTIFRAME, ("MULTIFRAME", "NOT_RADIOGRAPH")),
    }


def test_every_file_decodes_to_the_pixels_of_the_index():
    others: dict[str, str] = {}
    for row in rows():
        try:
            raw = raw_pixels(read_header((DATA / row["file"]).read_bytes()))
        except DicomError as error:
            if error.code != row["reason"]:
                others[row["file"]] = error.code
            continue
        seen = [str(raw.shape), str(raw.dtype), hashlib.sha1(raw.tobytes()).hexdigest()[:10]]
        if seen != [row[name] for name in ("decoded_shape", "decoded_dtype", "decoded_sha1_10")]:
            others[row["file"]] = "pixels"
    assert others == {
        **dict.fromkeys(CUT_IN_PIXELS, "TRUNCATED_FILE"),
        **dict.fromkeys(DECODED_HERE, "pixels"),
        **dict.fromkeys(SIGNED_HERE, "pixels"),
    }


@pytest.mark.parametrize(("lossy", "lossless"), DECODED_HERE.items())
def test_what_only_imagecodecs_reads_is_the_image_it_should_be(lossy, lossless):
    seen, true = (
        raw_pixels(read_header((DATA / file).read_bytes())).astype(float) for file in (lossy, lossless)
    )
    assert np.corrcoef(seen.ravel(), true.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("kind", ["radiographs", "all"])
def test_every_file_is_accounted_for(tmp_path, config, kind):
    config = replace(config, min_views=1)
    if kind == "all":
        modalities = tuple({row["modality"] for row in rows()} - {""})
        config = replace(config, dicom=DicomConfig(modalities=modalities))
    manifest = ingest(DATA, tmp_path / "out", config)
    with open(tmp_path / "out" / QUARANTINE, newline="") as file:
        table = list(csv.DictReader(file))
    files = [path for path in DATA.rglob("*") if path.is_file()]
    indexes = sum(is_dicomdir(path.read_bytes()[:512]) for path in files)
    missing = sum(row["code"] == "MISSING_FILE" for row in table)
    assert (indexes, missing) == (4, 113)  # they name files that are not here
    assert manifest.counts["files"] == len(files) - indexes + missing
    assert len(table) == manifest.counts["files"] - manifest.counts["views"]
    assert manifest.counts["views"] >= (8 if kind == "radiographs" else 40)
