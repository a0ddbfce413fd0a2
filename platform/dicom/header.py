"""The header of a DICOM file: whether its pixels can be decoded, whether it is a radiograph, and whose it is.

Everything here happens before a pixel is decoded. A file that gives no view raises DicomError with one of CODES.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING

from ..core.errors import DicomError
from .config import DicomConfig
from .tags import needed_integer, quiet, tag_text, tag_value

if TYPE_CHECKING:
    from pydicom import Dataset

CODES: Mapping[str, str] = {
    "NOT_DICOM": "the content is no DICOM",
    "UNREADABLE_HEADER": "the header cannot be parsed",
    "TRUNCATED_FILE": "the file ends before its data set does",
    "NO_PIXEL_DATA": "a DICOM object without a picture",
    "TRUNCATED_PIXEL_DATA": "fewer bytes of pixel data than the header promises",
    "MISSING_PIXEL_TAG": "the header lacks a tag that decoding needs",
    "INVALID_PIXEL_TAG": "a tag that decoding needs holds an impossible value",
    "UNSUPPORTED_TRANSFER_SYNTAX": "no decoder for this compression",
    "NO_TRANSFER_SYNTAX": "the header does not say how the pixels are compressed",
    "DECODE_FAILED": "no decoder could read the pixels",
    "DECODER_CRASHED": "the decoder died or did not answer in time",
    "NOT_RADIOGRAPH": "another modality, several frames or colour",
    "LOW_CONTRAST": "constant or nearly constant pixels",
    "BURNED_IN": "the header says that text is burned into the pixels",
    "NO_IDENTITY": "no patient or no study is named, so it cannot be split by patient",
    "PATIENT_CLASH": "one study under two patients",
    "TOO_LARGE": "more pixels than one request may ask for",
    "TOO_FEW_VIEWS": "its study has fewer views than demanded",
    "DUPLICATE": "the same file or the same pixels as another file of the archive",
    "MISSING_FILE": "a table, a link or a DICOMDIR names a file that is not there",
    "FILE_CHANGED": "the file changed while the archive was read",
    "NOT_PICTURE": "neither DICOM nor a picture that can be read",
    "DAMAGED_CONTAINER": "a zip or tar, or a file in it, is damaged; what is whole in it is read",
    "ENCRYPTED": "a file in a zip that needs a password",
    "NESTED_CONTAINER": "a zip or tar inside of another one",
    "OVERSIZED_MEMBER": "a file in a zip or tar, or all of them, larger than allowed when unpacked",
    "UNSAFE_MEMBER": "a link, a device, or a name that leads out of its zip or tar",
    "UNSUPPORTED_CONTAINER": "a container of files that is not read (rar, 7z, a gzip without a tar)",
}
"""The closed list of reasons for which a file gives no view."""

STORAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.2": "MG",
    "1.2.840.10008.5.1.4.1.1.1.2.1": "MG",
}
"""SOP class -> modality, where the Modality tag is absent (PS3.4 table B.5-1)."""

MODALITY = re.compile(
    "ANN|AR|ASMT|AU|BDUS|BI|BMD|CD|CF|CP|CR|CS|CT|CTPROTOCOL|DD|DF|DG|DM|DMS|DOC|DS|DX|EC|ECG|EEG|EMG|"
    "EOG|EPS|ES|FA|FID|FS|GM|HC|HD|IO|IOL|IVOCT|IVUS|KER|KO|LEN|LP|LS|M3D|MA|MG|MR|MS|NM|OAM|OCT|OP|OPM|"
    "OPR|OPT|OPTBSV|OPTENF|OPV|OSS|OT|PA|PLAN|POS|PR|PT|PX|REG|RESP|RF|RG|RTDOSE|RTIMAGE|RTINTENT|"
    "RTPLAN|RTRAD|RTRECORD|RTSEGANN|RTSTRUCT|RWV|SEG|SM|SMR|SR|SRF|ST|STAIN|TEXTUREMAP|TG|US|VA|VF|XA|"
    "XAPROTOCOL|XC"
)
"""Defined terms of Modality (PS3.3 C.7.3.1.1.1), retired ones too."""

PIXEL_BYTES_LIMIT = 1 << 30
"""Bytes of decoded pixels that a header may promise; the largest stitched radiographs need a quarter."""

PIXEL_TAGS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

IMAGECODECS = {
    "1.2.840.10008.1.2.4.50": "jpeg8_decode",
    "1.2.840.10008.1.2.4.51": "jpeg8_decode",
    "1.2.840.10008.1.2.4.53": "jpeg8_decode",
    "1.2.840.10008.1.2.4.55": "jpeg8_decode",
    "1.2.840.10008.1.2.4.57": "jpeg8_decode",
    "1.2.840.10008.1.2.4.70": "jpeg8_decode",
    "1.2.840.10008.1.2.4.80": "jpegls_decode",
    "1.2.840.10008.1.2.4.81": "jpegls_decode",
    "1.2.840.10008.1.2.4.90": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.91": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.201": "htj2k_decode",
    "1.2.840.10008.1.2.4.202": "htj2k_decode",
}
"""Transfer syntax -> the imagecodecs function for one frame of one channel, twice as fast as pydicom's default."""

_FIRST_TAGS = {
    group.to_bytes(2, order) + element.to_bytes(2, order)
    for group, elements in {2: (0, 1, 2, 0x10), 8: (0, 1, 5, 8, 0x12, 0x16, 0x18, 0x20)}.items()
    for element in elements
    for order in ("little", "big")
}


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these bytes (132 or more) may be DICOM.

    Part 10 has DICM at 128; older files begin at once with group 2 or 8 in either byte order.
    """
    return head[128:132] == b"DICM" or head[:4] in _FIRST_TAGS


def read_header(data: bytes) -> Dataset:
    """The data set of a file, its tags for decoding checked. Raises DicomError, a code for each check."""
    import pydicom

    if not is_dicom(data[:132]):
        raise DicomError("NOT_DICOM", "no DICM mark and no leading tag")
    try:
        with quiet():
            dataset = pydicom.dcmread(BytesIO(data), force=True)
    except MemoryError:
        raise DicomError("UNREADABLE_HEADER", "it needs more memory than allowed") from None
    except Exception as error:
        raise DicomError("UNREADABLE_HEADER", type(error).__name__) from None
    if data[128:132] != b"DICM" and "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise DicomError("NOT_DICOM", "no DICM mark, no SOP class, no rows")
    if not len(dataset):
        raise DicomError("TRUNCATED_FILE", "nothing follows the file's meta header")
    with quiet():
        pixels = next((tag_value(dataset, name) for name in PIXEL_TAGS if name in dataset), None)
        if pixels is None:
            raise DicomError("NO_PIXEL_DATA")
        check_pixel_tags(dataset, len(pixels))
    return dataset


def check_pixel_tags(dataset: Dataset, stored: int) -> None:
    """Raises DicomError where a tag that decoding needs is missing or impossible. stored: bytes of pixel data."""
    from pydicom.uid import UID

    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if not syntax:
        raise DicomError("NO_TRANSFER_SYNTAX")
    if not isinstance(syntax, UID):  # several values, or another VR
        raise DicomError("INVALID_PIXEL_TAG", "TransferSyntaxUID is not one UID")
    if not _is_decodable(syntax):
        # Another text might name somebody.
        is_standard = re.fullmatch(r"1\.2\.840\.10008(\.\d{1,3})+", str(syntax))
        raise DicomError("UNSUPPORTED_TRANSFER_SYNTAX", str(syntax) if is_standard else "a private one")
    rows, columns = needed_integer(dataset, "Rows", 1, 65535), needed_integer(dataset, "Columns", 1, 65535)
    samples = needed_integer(dataset, "SamplesPerPixel", 1, 4)
    allocated = needed_integer(dataset, "BitsAllocated", 1, 64)
    frames = needed_integer(dataset, "NumberOfFrames", 1, 1 << 31, default=1)
    if allocated != 1 and allocated % 8:
        raise DicomError("INVALID_PIXEL_TAG", f"BitsAllocated is {allocated}")
    is_float = "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset
    if "PixelData" in dataset or not is_float:  # a header alone has neither
        needed_integer(dataset, "BitsStored", 1, allocated)
        needed_integer(dataset, "PixelRepresentation", 0, 1)
    photometric = tag_text(dataset, "PhotometricInterpretation")
    if not photometric:
        raise DicomError("MISSING_PIXEL_TAG", "PhotometricInterpretation")
    promised = -(-rows * columns * samples * frames * allocated // 8)
    if promised > PIXEL_BYTES_LIMIT:
        raise DicomError("INVALID_PIXEL_TAG", f"{promised} bytes of pixels, the limit is {PIXEL_BYTES_LIMIT}")
    if not syntax.is_encapsulated and photometric != "YBR_FULL_422" and stored < promised:
        raise DicomError("TRUNCATED_PIXEL_DATA", f"{stored} of {promised} bytes")


def _is_decodable(syntax: str) -> bool:
    from pydicom.pixels import get_decoder

    try:
        return str(syntax) in IMAGECODECS or get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def check_radiograph(dataset: Dataset, config: DicomConfig) -> None:
    """Raises DicomError NOT_RADIOGRAPH or BURNED_IN where an intact file is not the kind of picture wanted."""
    modality = modality_of(dataset)
    if modality not in config.modalities:
        # Another text might name somebody.
        raise DicomError("NOT_RADIOGRAPH", modality if MODALITY.fullmatch(modality) else "no modality")
    if (frames := frame_count(dataset)) > 1:
        raise DicomError("NOT_RADIOGRAPH", f"{frames} frames")
    photometric = tag_text(dataset, "PhotometricInterpretation")
    if dataset.SamplesPerPixel != 1 or not photometric.startswith("MONOCHROME"):
        raise DicomError("NOT_RADIOGRAPH", "colour")
    if min(dataset.Rows, dataset.Columns) < config.min_side:
        raise DicomError("NOT_RADIOGRAPH", f"{dataset.Rows}x{dataset.Columns} pixels")
    if config.burned_in == "refuse" and tag_text(dataset, "BurnedInAnnotation").upper() == "YES":
        raise DicomError("BURNED_IN")


def identity_of(dataset: Dataset) -> tuple[str, str]:
    """(patient with its issuer, study) in clear text, to be hashed before they go anywhere; empty where not given."""
    patient, issuer = tag_text(dataset, "PatientID"), tag_text(dataset, "IssuerOfPatientID")
    return f"{issuer}\0{patient}" if patient else "", tag_text(dataset, "StudyInstanceUID")


def frame_count(dataset: Dataset) -> int:
    """Number of frames; 1 where the tag is absent."""
    return int(dataset.get("NumberOfFrames") or 1)


def modality_of(dataset: Dataset) -> str:
    """The modality by its tag, else by the SOP class; empty where neither decides."""
    modality = tag_text(dataset, "Modality").upper()
    return modality or STORAGE_CLASSES.get(tag_text(dataset, "SOPClassUID"), "")
