"""Which bits of a word are the stored value, and which values are padding: the header where the pixels agree."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from tests.platform.ingest.radiographs import RAMP, compressed, radiograph, saved, the_code, the_view
from vetdino.platform.core.errors import DicomError
from vetdino.platform.dicom.header import read_header
from vetdino.platform.dicom.pixels import raw_pixels
from vetdino.platform.dicom.stored import bits_doubt, padding_range, stored_values

SIGNED = RAMP.astype(np.int16) - 2000
SYNTAXES = [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless]


def values_in(dataset: pydicom.Dataset, syntax: str = ExplicitVRLittleEndian) -> np.ndarray:
    if syntax != ExplicitVRLittleEndian:
        compressed(dataset, syntax)
    return raw_pixels(read_header(saved(dataset)))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("values", [RAMP, SIGNED])
def test_left_justified_values_are_shifted_down(values, syntax):
    assert np.array_equal(values_in(radiograph(values << 4, HighBit=15), syntax), values)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("values", [RAMP, SIGNED])
def test_a_high_bit_that_the_values_deny_shifts_nothing(values, syntax):
    assert np.array_equal(values_in(radiograph(values, HighBit=15), syntax), values)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("values", [RAMP * 4, SIGNED * 4, SIGNED + 1000])
def test_values_that_need_more_bits_than_bits_stored_keep_them(values, syntax):
    dataset = radiograph(values)
    assert np.array_equal(values_in(dataset, syntax), values)
    assert "BitsStored 12" in bits_doubt(dataset, values)
    assert "BitsStored 12" in the_view(dataset).facts["doubts"]


@pytest.mark.parametrize("overlay", [0x1000, 0x8000, 0x9000])
def test_an_overlay_in_the_bits_above_is_no_part_of_the_value(overlay):
    drawn = RAMP.copy()
    drawn[20:40, 30:32] |= overlay
    assert np.array_equal(values_in(radiograph(drawn)), RAMP)
    assert bits_doubt(radiograph(), RAMP) == ""


def test_dirt_in_the_bits_below_left_justified_values_is_cut_off():
    drawn = (RAMP << 4) | (np.indices(RAMP.shape).sum(0) % 3 == 0)
    assert np.array_equal(values_in(radiograph(drawn.astype(np.uint16), HighBit=15)), RAMP)


def test_an_overlay_above_values_with_an_impossible_high_bit_is_cut_off():
    drawn = RAMP.copy()
    drawn[20:40, 30:32] |= 0x8000
    assert np.array_equal(values_in(radiograph(drawn, HighBit=15)), RAMP)


def test_noise_in_all_bits_is_refused():
    noise = np.random.default_rng(0).integers(0, 65536, (60, 80)).astype(np.uint16)
    assert the_code(radiograph(noise)) == "INVALID_PIXEL_TAG"


def test_signed_values_may_lack_the_bits_above():
    assert np.array_equal(values_in(radiograph(SIGNED & 0xFFF)), SIGNED)
    some = SIGNED & 0xFFF
    some[:2] = SIGNED[:2]
    assert np.array_equal(values_in(radiograph(some)), SIGNED)


def test_the_sign_of_a_jpeg_2000_stream_is_believed_where_the_values_show_it():
    dataset = compressed(radiograph(SIGNED, BitsStored=16, HighBit=15), JPEG2000Lossless)
    dataset.PixelRepresentation = 0
    assert np.array_equal(values_in(dataset), SIGNED)


def test_padding_that_needs_more_bits_than_bits_stored_is_not_mixed_up_with_tissue():
    wide, narrow = RAMP.copy(), RAMP.copy()
    wide[:, :20] = 63536  # & 0xFFF: 2096, a value of tissue
    narrow[:, :20] = 4095
    view = the_view(radiograph(wide, PixelPaddingValue=63536))
    assert (view.pixels[:, :20] == 0).all()
    assert np.array_equal(view.pixels, the_view(radiograph(narrow, PixelPaddingValue=4095)).pixels)


@pytest.mark.parametrize(
    ("pixels", "vr", "value", "expected"),
    [
        (SIGNED, "US", 63536, (-2000, -2000)),
        (SIGNED, "SS", -2000, (-2000, -2000)),
        (RAMP, "SS", -1, (65535, 65535)),
        (RAMP, "US", 65535, (65535, 65535)),
        (RAMP, "LO", "no number", None),
    ],
)
def test_padding_of_the_wrong_vr_has_the_sign_of_the_pixels(pixels, vr, value, expected):
    dataset = radiograph(pixels)
    dataset.add_new("PixelPaddingValue", vr, value)
    assert padding_range(dataset) == expected


def test_padding_of_the_wrong_vr_is_black_and_leaves_the_tissue_alone():
    pixels = SIGNED.copy()
    pixels[:, :20] = -2000
    right, wrong = radiograph(pixels), radiograph(pixels)
    right.add_new("PixelPaddingValue", "SS", -2000)
    wrong.add_new("PixelPaddingValue", "US", 63536)
    assert np.array_equal(the_view(right).pixels, the_view(wrong).pixels)
    assert not np.array_equal(the_view(right).pixels, the_view(radiograph(pixels)).pixels)


@st.composite
def pictures(draw: st.DrawFn) -> tuple[np.ndarray, int, bool]:
    """(values (H, W) int64, bits that hold them, whether signed): blobs, a gradient and noise in the whole range."""
    bits, is_signed = draw(st.integers(8, 16)), draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(32, 48)), draw(st.integers(32, 48))
    y, x = np.mgrid[:height, :width]
    waves = random.uniform(-1, 1, 3)
    image = waves[0] * y / height + waves[1] * x / width
    image = image + np.sin((x + y * waves[2]) / random.uniform(4, 9)) * random.uniform(0.1, 0.6)
    image = image + random.normal(0, draw(st.sampled_from([0, 0.002, 0.01])), image.shape)
    image = (image - image.min()) / np.ptp(image)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    return np.rint(low + image * (high - low)).astype(np.int64), bits, is_signed


def words_of(values: np.ndarray, is_signed: bool) -> np.ndarray:
    return values.astype(np.int16 if is_signed else np.uint16)


def check_bit_layouts(data: st.DataObject) -> None:
    """Plain, left-justified, with an overlay or with too small a BitsStored: the drawn values, or a refusal."""
    values, bits, is_signed = data.draw(pictures())
    layout = data.draw(st.sampled_from(["plain", "unextended", "left", "overlay", "few bits", "high bit"]))
    syntax = data.draw(st.sampled_from(SYNTAXES))
    words, declared = words_of(values, is_signed), {"BitsStored": bits, "HighBit": bits - 1}
    if layout == "unextended":
        words = words & ((1 << bits) - 1) if bits < 16 else words
    elif layout == "left":
        words, declared["HighBit"] = words << (16 - bits), 15
    elif layout == "overlay":
        assume(bits < 16 and not is_signed)
        top, left = data.draw(st.integers(0, 12)), data.draw(st.integers(0, 12))
        words[top : top + 5, left : left + 2] |= np.uint16(1 << data.draw(st.integers(bits, 15)))
    elif layout == "few bits":
        stored = bits - data.draw(st.integers(1, 4))
        assume(stored >= 8)
        declared = {"BitsStored": stored, "HighBit": stored - 1}
    elif layout == "high bit":
        declared["HighBit"] = data.draw(st.integers(0, 15))
        assume(not (words & ((1 << max(0, declared["HighBit"] + 1 - bits)) - 1) == 0).all())
    dataset = radiograph(words, **declared)
    may_be_refused = layout in ("overlay", "few bits")
    try:
        read = values_in(dataset, syntax)
    except DicomError as error:
        read = values if may_be_refused and error.code == "INVALID_PIXEL_TAG" else None
    assert np.array_equal(read, values), layout


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_bit_layout_gives_its_values_or_is_refused(data):
    check_bit_layouts(data)


def check_simpleitk(data: st.DataObject, folder: Path) -> None:
    """Uncompressed files with HighBit = BitsStored - 1, which SimpleITK reads rightly: the same stored values."""
    values, bits, is_signed = data.draw(pictures())
    words = words_of(values, is_signed)
    if data.draw(st.booleans()) and bits < 16:
        dirt = data.draw(st.integers(0, 1)) << 15
        words = (values & ((1 << bits) - 1) | dirt).astype(np.uint16).view(words.dtype)
    content = saved(radiograph(words, BitsStored=bits, HighBit=bits - 1))
    (folder / "a.dcm").write_bytes(content)
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(folder / "a.dcm"))[0]
    assert np.array_equal(raw_pixels(read_header(content)), theirs)
    assert np.array_equal(theirs, values)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_simpleitk_reads_the_same_stored_values(tmp_path_factory, data):
    check_simpleitk(data, tmp_path_factory.getbasetemp())


def test_words_in_the_other_byte_order_are_read_the_same():
    dataset = radiograph(RAMP << 4, HighBit=15)
    assert np.array_equal(stored_values(dataset, (RAMP << 4).astype(">u2")), RAMP)
    assert pydicom.dcmread(BytesIO(saved(dataset))).HighBit == 15
