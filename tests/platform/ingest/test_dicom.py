"""One file, one view: what is accepted, how its greys are made, and why others are refused."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    MPEG4HP41,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from vetdino.platform.core.errors import DicomError
from vetdino.platform.data.study import PROJECTIONS, View
from vetdino.platform.ingest.dicom import (
    CODES,
    DicomConfig,
    gate,
    header_of,
    identity_of,
    is_dicom,
    normalised,
    projection_of,
    projection_of_text,
    raw_pixels,
    shrunk,
    view_of,
    windowed,
)

RAMP = np.add.outer(np.arange(60) * 30, np.arange(80) * 25).astype(np.uint16)
"""A grey wedge of 12 bits, 60 x 80."""


def radiograph(pixels: np.ndarray = RAMP, **tags: object) -> Dataset:
    """A DX data set; a tag given as None is left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    usual = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
        "SOPInstanceUID": "2.25.1",
        "Modality": "DX",
        "PatientID": "k9-0412",
        "StudyInstanceUID": "2.25.2",
        "ViewPosition": "VD",
        "ImagerPixelSpacing": [0.1, 0.2],
        "PixelSpacing": [9, 9],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": pixels.itemsize * 8,
        "BitsStored": 12 if pixels.itemsize == 2 else 8,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
    }
    usual["HighBit"] = usual["BitsStored"] - 1
    for name, value in {**usual, **tags}.items():
        if value is not None:
            setattr(dataset, name, value)
    return dataset


def saved(dataset: Dataset) -> bytes:
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def view_in(data: bytes, config: DicomConfig) -> View:
    dataset = header_of(data)
    gate(dataset, config)
    return normalised(dataset, raw_pixels(dataset), config)


def the_view(dataset: Dataset, **settings: object) -> View:
    return view_in(saved(dataset), DicomConfig(**settings))


def the_code(data: bytes | Dataset, **settings: object) -> str:
    data = data if isinstance(data, bytes) else saved(data)
    with pytest.raises(DicomError) as caught:
        view_in(data, DicomConfig(**settings))
    assert caught.value.code in CODES
    assert "0412" not in str(caught.value)
    return caught.value.code


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


def test_a_radiograph_becomes_a_view(tmp_path):
    path = tmp_path / "no-extension"
    path.write_bytes(saved(radiograph()))
    view = view_of(path)
    assert view.pixels.shape == (60, 80)
    assert view.pixels.dtype == np.uint8
    assert (view.projection, view.modality, view.spacing) == ("VD", "DX", (0.1, 0.2))
    assert view.facts == {"projection_source": "ViewPosition", "voi": "percentiles"}
    assert view.pixels[0, 0] == 0
    assert view.pixels[-1, -1] == 255


def test_a_view_is_shrunk_to_its_long_side_and_keeps_its_millimetres():
    view = the_view(radiograph(), side=40)
    assert view.pixels.shape == (30, 40)
    assert view.spacing == (0.2, 0.4)


def test_area_resize_is_the_mean_of_the_pixels_it_covers():
    pixels = np.random.default_rng(0).integers(0, 65536, (40, 60)).astype(np.uint16)
    means = pixels.reshape(20, 2, 30, 2).mean(axis=(1, 3))
    assert np.abs(shrunk(pixels, 30) - means).max() <= 1
    assert shrunk(pixels, 100) is pixels


@pytest.mark.parametrize("encode", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_every_lossless_syntax_gives_the_same_view(encode):
    dataset = radiograph()
    plain = the_view(dataset).pixels
    dataset.compress(encode, generate_instance_uid=False)
    assert np.array_equal(the_view(dataset).pixels, plain)


@pytest.mark.parametrize("encode", [ExplicitVRLittleEndian, JPEGLSLossless])
def test_signed_pixels_keep_their_sign(encode):
    dataset = radiograph(RAMP.astype(np.int16) - 2000)
    if encode is JPEGLSLossless:
        dataset.compress(encode, generate_instance_uid=False)
    assert raw_pixels(header_of(saved(dataset))).min() == -2000
    assert np.array_equal(the_view(dataset).pixels, the_view(radiograph()).pixels)


def test_bits_above_those_stored_are_masked():
    dirty = RAMP | 0x8000
    assert np.array_equal(the_view(radiograph(dirty)).pixels, the_view(radiograph()).pixels)


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", False),
    ],
)
def test_greys_are_inverted_once_or_not_at_all(photometric, shape, inverted):
    view = the_view(radiograph(PhotometricInterpretation=photometric, PresentationLUTShape=shape))
    assert (view.pixels[0, 0] > view.pixels[-1, -1]) == inverted


@pytest.mark.parametrize("shape", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@settings(max_examples=25, deadline=None)
@given(centre=st.floats(-500, 5000), width=st.floats(50, 5000))
def test_a_window_is_that_of_the_standard(shape, centre, width):
    dataset = Dataset()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsStored, dataset.PixelRepresentation = 12, 0
    dataset.WindowCenter, dataset.WindowWidth = f"{centre:.6g}", f"{width:.6g}"
    dataset.VOILUTFunction = shape
    values = np.arange(0, 4096, 7).astype(np.uint16)
    theirs = apply_windowing(values, dataset) / 4095
    ours = windowed(values, float(dataset.WindowCenter), float(dataset.WindowWidth), shape)
    assert np.abs(ours - theirs).max() < 1e-6


def test_a_good_window_is_used():
    view = the_view(radiograph(WindowCenter=1800, WindowWidth=3000))
    assert view.facts["voi"] == "window"
    assert np.array_equal(view.pixels, np.rint(windowed(RAMP, 1800, 3000) * 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("centre", "width"), [(9000, 10), (1800, 0), (1800, 1), (1800, 20), (1800, 100000), (None, 400)]
)
def test_a_bad_window_is_left_aside(centre, width):
    assert the_view(radiograph(WindowCenter=centre, WindowWidth=width)).facts["voi"] == "percentiles"


def test_what_the_detector_saturated_is_not_held_against_the_window():
    pixels = np.clip(RAMP, 1200, 2400)
    assert np.isin(pixels, (1200, 2400)).mean() > DicomConfig().max_saturated
    view = the_view(radiograph(pixels, WindowCenter=1800, WindowWidth=1200))
    assert view.facts["voi"] == "window"


def test_the_second_window_serves_where_the_first_does_not():
    view = the_view(radiograph(WindowCenter=[9000, 1800], WindowWidth=[10, 3000]))
    assert view.facts["voi"] == "window"


def test_rescale_comes_before_the_window():
    plain = the_view(radiograph(WindowCenter=1800, WindowWidth=3000))
    scaled = the_view(
        radiograph(RescaleSlope=2, RescaleIntercept=-100, WindowCenter=3499.5, WindowWidth=5999)
    )
    assert np.array_equal(plain.pixels, scaled.pixels)


def test_a_voi_lut_is_used():
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 12]
    item.LUTData = np.arange(4096).astype(np.uint16)[::-1].tolist()
    dataset = radiograph(VOILUTSequence=[item])
    dataset["VOILUTSequence"].value[0]["LUTData"].VR = "US"
    dataset["VOILUTSequence"].value[0]["LUTDescriptor"].VR = "US"
    view = the_view(dataset)
    assert view.facts["voi"] == "lut"
    assert view.pixels[0, 0] == 255


def test_padding_is_black_and_does_not_count():
    pixels = RAMP.copy() + 100
    pixels[:, :20] = 4095
    view = the_view(radiograph(pixels, PixelPaddingValue=4095))
    assert (view.pixels[:, :20] == 0).all()
    assert view.pixels[-1, -1] == 255
    assert view.pixels[:, 20:].std() > 60


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


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_a_cut_file_is_never_a_view(syntax, keep):
    noise = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    dataset = radiograph(noise)
    dataset.compress(syntax, generate_instance_uid=False)
    data = saved(dataset)
    start = len(saved(radiograph())) - 9600
    cut = data[: start + int((len(data) - start) * keep)]
    assert the_code(cut) in ("TRUNCATED_FILE", "TRUNCATED_PIXEL_DATA", "DECODE_FAILED", "NO_PIXEL_DATA")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_compressed_stream_without_end_is_refused(syntax):
    dataset = radiograph()
    dataset.compress(syntax, generate_instance_uid=False)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) * 3 // 4]])
    assert the_code(dataset) == "TRUNCATED_PIXEL_DATA"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_file_gives_a_view_or_a_code_and_nothing_else(data):
    content = bytearray(saved(radiograph(WindowCenter=1800, WindowWidth=3000)))
    head = len(content) - 9600
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(132, head - 1))] = data.draw(st.integers(0, 255))
    try:
        outcome = str(view_in(bytes(content), DicomConfig()).pixels.dtype)
    except DicomError as error:
        outcome = error.code
    assert outcome in {"uint8", *CODES}


@pytest.mark.parametrize(
    ("text", "projection"),
    [
        ("", "UNKNOWN"),
        ("FRONTAL", "UNKNOWN"),
        ("Smith", "UNKNOWN"),
        ("AP_SUPINE", "AP"),
        ("pa", "PA"),
        ("V/D", "VD"),
        ("ventro-dorsal", "VD"),
        ("Thorax DV", "DV"),
        ("LLAT", "LLAT"),
        ("L LAT", "LLAT"),
        ("Abdomen right lateral", "RLAT"),
        ("Lat R", "RLAT"),
        ("LAT", "LATERAL"),
        ("medio-lateral oblique", "MLO"),
        ("MLO", "MLO"),
        ("RAO", "OBLIQUE"),
        ("cranio-caudal", "CC"),
        ("LL", "LL"),
    ],
)
def test_words_name_a_projection(text, projection):
    assert projection_of_text(text) == projection
    assert projection in PROJECTIONS


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"ViewPosition": None}, ("UNKNOWN", "none")),
        ({"ViewPosition": "DV", "SeriesDescription": "VD"}, ("DV", "ViewPosition")),
        ({"ViewPosition": None, "SeriesDescription": "thorax VD"}, ("VD", "SeriesDescription")),
        ({"ViewPosition": "SPECIAL", "PatientOrientation": ["CD", "V"]}, ("LATERAL", "PatientOrientation")),
        ({"ViewPosition": None, "PatientOrientation": ["L", "F"]}, ("UNKNOWN", "none")),
        ({"ViewPosition": "LAT", "ImageLaterality": "R"}, ("RLAT", "ViewPosition+Laterality")),
        ({"ViewPosition": "LAT", "Laterality": "L", "BodyPartExamined": "KNEE"}, ("LATERAL", "ViewPosition")),
    ],
)
def test_the_projection_comes_from_the_first_tag_that_tells(tags, expected):
    assert projection_of(radiograph(**tags)) == expected


def test_a_view_code_names_the_projection():
    code = Dataset()
    code.CodeMeaning = "ventro-dorsal"
    assert projection_of(radiograph(ViewPosition=None, ViewCodeSequence=[code])) == ("VD", "ViewCodeSequence")


def test_a_patient_is_issuer_and_id():
    first = identity_of(radiograph(IssuerOfPatientID="north"))
    second = identity_of(radiograph(IssuerOfPatientID="south"))
    assert first.study == second.study
    assert first.patient != second.patient
    assert identity_of(radiograph(PatientID=None)).patient == ""


def test_a_file_is_known_by_its_content():
    assert is_dicom(saved(radiograph())[:132])
    assert not is_dicom(b"\xff\xd8\xff\xe0" + bytes(200))
