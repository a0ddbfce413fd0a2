"""The header alone decides: what can be decoded, what is a radiograph, and whose it is."""

from __future__ import annotations

import pytest
from pydicom.uid import (
    MPEG4HP41,
    JPEG2000Lossless,
)

from tests.platform.ingest.radiographs import radiograph, saved, the_code, the_view
from vetdino.platform.core.errors import DicomError
from vetdino.platform.dicom.header import (
    check_pixel_tags,
    frame_count,
    identity_of,
    is_dicom,
    modality_of,
)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "NOT_DICOM"),
        (b"<html>404</html>" * 20, "NOT_DICOM"),
        (b"\x08\x00\x05\x00" + bytes(400), "NOT_DICOM"),
        (bytes(128) + b"DICM", "TRUNCATED_FILE"),
    ],
)
def test_what_is_no_dicom_is_refused(data, code):
    assert the_code(data) == code


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"PixelData": None}, "NO_PIXEL_DATA"),
        ({"Rows": None}, "MISSING_PIXEL_TAG"),
        ({"PixelRepresentation": None}, "MISSING_PIXEL_TAG"),
        ({"PhotometricInterpretation": None}, "MISSING_PIXEL_TAG"),
        ({"Rows": 0}, "INVALID_PIXEL_TAG"),
        ({"BitsStored": 24}, "INVALID_PIXEL_TAG"),
        ({"Rows": 65000, "Columns": 65000}, "INVALID_PIXEL_TAG"),
        ({"NumberOfFrames": 10**9}, "INVALID_PIXEL_TAG"),
        ({"Rows": 61}, "TRUNCATED_PIXEL_DATA"),
        ({"Modality": "CT"}, "NOT_RADIOGRAPH"),
        ({"Modality": "REX 0412"}, "NOT_RADIOGRAPH"),
        ({"NumberOfFrames": 2, "Rows": 30}, "NOT_RADIOGRAPH"),
        ({"SamplesPerPixel": 3, "Rows": 20}, "NOT_RADIOGRAPH"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "NOT_RADIOGRAPH"),
        ({"BurnedInAnnotation": "YES"}, "BURNED_IN"),
        ({"PixelData": bytes(9600)}, "LOW_CONTRAST"),
    ],
)
def test_each_fault_has_its_code(tags, code):
    assert the_code(radiograph(**tags)) == code


def test_a_file_that_does_not_name_its_compression_is_refused():
    dataset = radiograph()
    data = saved(dataset)
    named = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"
    assert named in data
    assert the_code(data.replace(named, named[:6] + b"\x14\x00" + b"\x00" * 20)) == "NO_TRANSFER_SYNTAX"


def test_a_small_picture_is_refused():
    assert the_code(radiograph(), min_side=61) == "NOT_RADIOGRAPH"


def test_burned_in_text_may_be_kept():
    assert the_view(radiograph(BurnedInAnnotation="YES"), burned_in="keep").projection == "VD"


def test_an_unknown_compression_is_refused():
    data = saved(radiograph()).replace(b"1.2.840.10008.1.2.1\0", b"1.2.3.4.5.6.7.8.9.9\0")
    assert the_code(data) == "UNSUPPORTED_TRANSFER_SYNTAX"
    dataset = radiograph()
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = MPEG4HP41
    assert the_code(dataset) == "UNSUPPORTED_TRANSFER_SYNTAX"


def test_a_file_without_modality_is_known_by_its_class():
    assert the_view(radiograph(Modality=None)).modality == "DX"
    assert the_code(radiograph(Modality=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")) == "NOT_RADIOGRAPH"


def test_a_patient_is_issuer_and_id():
    first = identity_of(radiograph(IssuerOfPatientID="north"))
    second = identity_of(radiograph(IssuerOfPatientID="south"))
    assert first[1] == second[1]
    assert first[0] != second[0]
    assert identity_of(radiograph(PatientID=None))[0] == ""


def test_a_file_is_known_by_its_content():
    assert is_dicom(saved(radiograph())[:132])
    assert not is_dicom(b"\xff\xd8\xff\xe0" + bytes(200))


def test_issuer_and_id_are_both_in_the_patient():
    dataset = radiograph(IssuerOfPatientID="north", PatientID="7")
    assert identity_of(dataset) == ("north\x007", "2.25.2")


@pytest.mark.parametrize(("frames", "count"), [(None, 1), (1, 1), (3, 3)])
def test_frames_are_counted(frames, count):
    assert frame_count(radiograph(NumberOfFrames=frames)) == count


def test_a_modality_is_the_tag_before_the_class():
    assert modality_of(radiograph(Modality="CR")) == "CR"
    assert modality_of(radiograph(Modality=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2")) == "MG"
    assert modality_of(radiograph(Modality=None, SOPClassUID="1.2.3")) == ""


def test_the_detail_of_a_refusal_quotes_no_free_text():
    with pytest.raises(DicomError, match="no modality"):
        the_view(radiograph(Modality="REX 0412"))


def test_a_transfer_syntax_of_several_values_is_refused():
    dataset = radiograph()
    dataset.file_meta.add_new("TransferSyntaxUID", "UI", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
    with pytest.raises(DicomError, match="TransferSyntaxUID is not one UID"):
        check_pixel_tags(dataset, len(dataset.PixelData))
