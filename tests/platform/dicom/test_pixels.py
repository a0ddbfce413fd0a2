"""Decoding, windowing and shrinking: one file becomes one view."""

from __future__ import annotations

import struct
from collections import Counter
from io import BytesIO

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.platform.data.picture_files import png_file, tiff_file
from tests.platform.ingest.radiographs import RAMP, radiograph, saved, the_code, the_view, view_in
from vetdino.platform.core.errors import DicomError
from vetdino.platform.dicom import pixels as pixels_module
from vetdino.platform.dicom.config import DicomConfig
from vetdino.platform.dicom.header import (
    CODES,
    read_header,
)
from vetdino.platform.dicom.pixels import (
    normalized_view,
    picture_pixels,
    picture_view,
    raw_pixels,
    read_view,
    shrunk,
    windowed,
)


def test_a_radiograph_becomes_a_view(tmp_path):
    path = tmp_path / "no-extension"
    path.write_bytes(saved(radiograph()))
    view = read_view(path)
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
    assert raw_pixels(read_header(saved(dataset))).min() == -2000
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
        ("MONOCHROME1", "UNKNOWN", True),
    ],
)
def test_greys_are_inverted_once_or_not_at_all(photometric, shape, inverted):
    view = the_view(radiograph(PhotometricInterpretation=photometric, PresentationLUTShape=shape))
    assert (view.pixels[0, 0] > view.pixels[-1, -1]) == inverted
    contradicts = (photometric, shape) in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY"))
    assert ("PresentationLUTShape" in view.facts.get("doubts", "")) == contradicts


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


def encoded(pixels: np.ndarray, suffix: str) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, suffix)
    return file.getvalue()


@pytest.mark.parametrize(("suffix", "kind"), [("png", np.uint8), ("png", np.uint16), ("tiff", np.uint16)])
def test_a_plain_picture_keeps_its_pixels(suffix, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(kind)
    assert np.array_equal(picture_pixels(encoded(pixels, suffix)), pixels)


def test_a_color_picture_becomes_gray():
    assert picture_pixels(encoded(np.full((20, 30, 3), 90, np.uint8), "png")).tolist() == [[90] * 30] * 20


@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_what_is_no_picture_has_its_code(data):
    with pytest.raises(DicomError, match="NOT_PICTURE"):
        picture_pixels(data)


def test_eight_bits_stay_and_more_are_stretched_between_percentiles():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    view = picture_view(pixels, DicomConfig())
    assert np.array_equal(view.pixels, pixels)
    deep = picture_view(pixels.astype(np.uint16) * 200, DicomConfig(percentiles=(0, 100)))
    assert (deep.facts["voi"], deep.pixels.dtype) == ("percentiles", np.uint8)
    assert (deep.pixels.min(), deep.pixels.max()) == (0, 255)


def test_nan_is_padding_of_a_float_tiff():
    tissue = np.random.default_rng(0).normal(100, 20, (40, 30)).astype(np.float32)
    bordered = tissue.copy()
    bordered[:, :6] = np.nan
    view = picture_view(picture_pixels(tiff_file(bordered, photometric="minisblack")), DicomConfig())
    assert (view.pixels[:, :6] == 0).all()
    assert np.array_equal(view.pixels[:, 6:], picture_view(tissue[:, 6:], DicomConfig()).pixels)


def test_a_turned_picture_becomes_an_upright_view():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    view = picture_view(picture_pixels(png_file(pixels, orientation=6)), DicomConfig())
    assert np.array_equal(view.pixels, pixels)


@pytest.mark.parametrize(
    ("pixels", "code"),
    [
        (np.zeros((40, 40), np.uint8), "LOW_CONTRAST"),
        (np.zeros((40, 3), np.uint8), "NOT_RADIOGRAPH"),
        (np.full((40, 40), np.nan, np.float32), "LOW_CONTRAST"),
        (np.where(np.eye(40) > 0, np.inf, 3).astype(np.float32), "LOW_CONTRAST"),
    ],
)
def test_a_plain_picture_may_be_refused(pixels, code):
    with pytest.raises(DicomError, match=code):
        picture_view(pixels, DicomConfig())


def test_the_collimated_border_is_cut_off_and_said():
    pixels = np.zeros((100, 80), np.uint16)
    pixels[10:90, 20:80] = np.random.default_rng(0).integers(500, 4000, (80, 60))
    edges = {"CollimatorLeftVerticalEdge": 21, "CollimatorRightVerticalEdge": 80}
    edges |= {"CollimatorUpperHorizontalEdge": 11, "CollimatorLowerHorizontalEdge": 90}
    assert "crop" not in the_view(radiograph(pixels)).facts
    for tags, source in (({}, "pixels"), (edges, "header")):
        view = the_view(radiograph(pixels, **tags), crop=True, side=40)
        assert view.facts["crop"] == f"{source} 0.1000 0.1000 0.2500 0.0000"
        assert view.pixels.shape == (40, 30)
        assert view.spacing == (0.2, 0.4)
    picture = (pixels >> 4).astype(np.uint8)
    cropped = picture_view(picture, DicomConfig(crop=True))
    assert np.array_equal(cropped.pixels, picture[10:90, 20:80])
    assert cropped.facts["crop"] == "pixels 0.1000 0.1000 0.2500 0.0000"
    assert picture_view(picture[10:90, 20:80], DicomConfig(crop=True)).facts["crop"] == "none"


def test_a_damaged_stream_that_decodes_to_noise_is_doubted():
    random = np.random.default_rng(0)
    v, u = np.mgrid[:300, :320]
    smooth = 2000 + 1500 * np.sin(v / 25) * np.cos(u / 31) + random.normal(0, 60, v.shape)
    dataset = radiograph(smooth.clip(0, 4095).astype(np.uint16))
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    assert "doubts" not in the_view(dataset).facts
    data, doubted = saved(dataset), 0
    start, length = len(data) - len(dataset.PixelData) + 100, len(dataset.PixelData)
    for place in random.integers(start, start + length // 5, 20):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        doubted += "differ as in noise" in view_in(bytes(damaged), DicomConfig()).facts.get("doubts", "")
    assert doubted >= 5


def test_a_decoder_that_panics_is_a_refusal_like_others():
    dataset = radiograph()
    dataset.compress(RLELossless, generate_instance_uid=False)
    data = bytearray(saved(dataset))
    random, codes = np.random.default_rng(0), Counter()
    for _ in range(40):
        damaged = bytearray(data)
        for place in random.integers(len(data) - len(dataset.PixelData) + 80, len(data) - 20, 10):
            damaged[place] = random.integers(256)
        try:
            view_in(bytes(damaged), DicomConfig())
        except DicomError as error:
            codes[error.code] += 1
    assert codes["DECODE_FAILED"] > 0
    assert set(codes) <= {"DECODE_FAILED", "INVALID_PIXEL_TAG", "TRUNCATED_PIXEL_DATA"}


def test_16_bits_are_those_that_8_are_rounded_from():
    dataset = radiograph(WindowCenter=2048, WindowWidth=4096)
    raw = raw_pixels(dataset)
    deep, shallow = (normalized_view(dataset, raw, DicomConfig(), bits) for bits in (16, 8))
    assert deep.pixels.dtype == np.uint16
    assert len(np.unique(deep.pixels)) > 1.5 * len(np.unique(shallow.pixels))
    assert np.array_equal(deep.decode().pixels, shallow.pixels)
    floats = np.linspace(0, 1, 6000, dtype=np.float32).reshape(60, 100)
    deep, shallow = (picture_view(floats, DicomConfig(), bits) for bits in (16, 8))
    assert len(np.unique(deep.pixels)) > 5000
    assert np.abs(deep.decode().pixels.astype(int) - shallow.pixels).max() <= 1


def test_a_damaged_run_length_stream_is_refused_and_ends_no_process():
    """pylibjpeg-rle panics over it, and a panic of Rust is no Exception."""
    dataset = radiograph()
    dataset.PixelData = encapsulate([struct.pack("<16L", 2, 64, 66, *[0] * 13) + b"\x81\0" * 4000])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = RLELossless
    assert the_code(dataset) == "DECODE_FAILED"


@settings(max_examples=50, deadline=None)
@given(
    dtype=st.sampled_from(["u1", "i1", "<u2", ">u2", "<i2", ">i2"]),
    low=st.integers(-32768, 65535),
    span=st.integers(1, 65535),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    border=st.sampled_from([0.0, 0.05, 0.3]),
)
def test_levels_and_their_counts_are_those_of_numpy(dtype, low, span, shape, border):
    limits = np.iinfo(dtype)
    low, high = np.clip([low, low + span], limits.min, limits.max)
    raw_HW = np.random.default_rng(0).integers(low, high, shape, endpoint=True).astype(dtype)
    index_HW, levels_N = pixels_module._levels(raw_HW)
    assert (levels_N[index_HW] == raw_HW).all()
    assert (levels_N[0], levels_N[-1]) == (raw_HW.min(), raw_HW.max())
    counts_N = pixels_module._counts_inside(index_HW, len(levels_N), border)
    top, left = (int(side * border) for side in shape)
    inside = raw_HW[top : shape[0] - top, left : shape[1] - left]
    values, counts = np.unique(inside, return_counts=True)
    expected_N = np.zeros(len(levels_N), int)
    expected_N[values.astype(int) - levels_N[0]] = counts
    assert (counts_N == expected_N).all()


def test_counts_are_exact_beyond_what_float32_can_count():
    index_HW = np.zeros((4200, 4200), np.uint16)
    index_HW[7, 7] = 9
    assert pixels_module._counts_inside(index_HW, 10, 0.0)[[0, 9]].tolist() == [4200 * 4200 - 1, 1]


@pytest.mark.parametrize("bits", [9, 10, 12, 16])
@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.201"]
)
def test_lossless_streams_are_read_without_pydicom_and_exactly(syntax, bits, monkeypatch):
    pixels = np.random.default_rng(bits).integers(0, 2**bits, (40, 56)).astype(np.uint16)
    if syntax.endswith(".201"):
        frame = imagecodecs.htj2k_encode(pixels)
    else:
        predictor = 1 if syntax.endswith(".70") else 5
        frame = imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=bits, predictor=predictor)
    dataset = radiograph(pixels, BitsStored=bits, HighBit=bits - 1, PixelData=encapsulate([frame]))
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    monkeypatch.setattr(pixels_module, "_decode_with_pydicom", lambda dataset: pytest.fail("by pydicom"))
    assert (raw_pixels(read_header(saved(dataset))) == pixels).all()
