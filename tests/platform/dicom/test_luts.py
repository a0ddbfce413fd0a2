"""Lookup tables and rescaling: what the standard says, and what to do where a table contradicts itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Sequence
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi

from tests.platform.ingest.radiographs import RAMP, lut_item, radiograph, saved, the_code, the_view
from vetdino.platform.dicom.config import DicomConfig
from vetdino.platform.dicom.header import read_header
from vetdino.platform.dicom.luts import modality_values, rescale, rescale_doubt, voi_luts
from vetdino.platform.dicom.pixels import windowed
from vetdino.platform.dicom.tags import quiet

CURVE = np.rint(np.linspace(0, 1, 4096) ** 0.7 * 4095)
"""A rising LUT of 12 bits."""


def with_lut(name: str, *items: Dataset, **tags: object) -> Dataset:
    return radiograph(**{name: Sequence(items)}, **tags)


def test_a_voi_lut_that_uses_fewer_bits_than_its_descriptor_says_is_as_bright_as_one_that_uses_all():
    full = the_view(with_lut("VOILUTSequence", lut_item(CURVE)))
    quarter = the_view(with_lut("VOILUTSequence", lut_item(CURVE, bits=14)))
    assert quarter.facts["voi"] == full.facts["voi"] == "lut"
    assert np.array_equal(quarter.pixels, full.pixels)
    assert full.pixels.max() > 200


def test_a_voi_lut_that_uses_more_bits_than_its_descriptor_says_does_not_run_over():
    full = the_view(with_lut("VOILUTSequence", lut_item(CURVE)))
    assert np.array_equal(the_view(with_lut("VOILUTSequence", lut_item(CURVE, bits=10))).pixels, full.pixels)


def test_a_voi_lut_that_ends_a_little_below_white_stays_below_white():
    view = the_view(with_lut("VOILUTSequence", lut_item(CURVE * 0.75)))
    highest = CURVE[RAMP.max()] * 0.75 / 4095 * 255
    assert abs(int(view.pixels.max()) - highest) <= 1


@pytest.mark.parametrize(("first", "written"), [(-1500, 64036), (-1500, -1500)])
def test_the_first_value_of_a_lut_has_the_sign_of_the_values(first, written):
    pixels = RAMP.astype(np.int16) - 1500
    item = lut_item(CURVE, first=written, vr="US" if written > 0 else "SS")
    view = the_view(radiograph(pixels, VOILUTSequence=Sequence([item])))
    assert view.facts["voi"] == "lut"
    expected = np.rint(CURVE[pixels - first] / 4095 * 255)
    assert np.abs(view.pixels - expected).max() <= 1


def test_entries_of_eight_bits_may_be_two_to_a_word():
    curve = (CURVE[::16] / 4095 * 255).astype(np.uint8)
    packed, wide = lut_item(curve, bits=8), lut_item(curve, bits=8)
    packed["LUTData"].value = curve.tobytes()
    views = [
        the_view(radiograph((RAMP // 16).astype(np.uint16), VOILUTSequence=Sequence([item])))
        for item in (packed, wide)
    ]
    assert views[0].facts["voi"] == views[1].facts["voi"] == "lut"
    assert np.array_equal(views[0].pixels, views[1].pixels)


def test_a_lut_of_eight_bits_may_have_more_than_256_entries():
    full = the_view(with_lut("VOILUTSequence", lut_item(CURVE)))
    eight = the_view(with_lut("VOILUTSequence", lut_item(np.rint(CURVE / 4095 * 255), bits=8)))
    assert eight.facts["voi"] == "lut"
    assert np.abs(eight.pixels.astype(int) - full.pixels).max() <= 1


@pytest.mark.parametrize(
    "tags",
    [
        {"LUTDescriptor": None},
        {"LUTData": None},
        {"LUTData": b""},
        {"LUTData": CURVE[:100].astype("<u2").tobytes()},
    ],
)
def test_a_voi_lut_that_contradicts_itself_is_left_aside(tags):
    item = lut_item(CURVE)
    for name, value in tags.items():
        if value is None:
            delattr(item, name)
        else:
            item[name].value = value
    assert the_view(with_lut("VOILUTSequence", item)).facts["voi"] == "percentiles"
    assert the_code(with_lut("ModalityLUTSequence", item)) == "INVALID_PIXEL_TAG"


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_modality_lut_of_any_bits_is_applied(bits):
    curve = np.rint(CURVE / 4095 * (2**bits - 1))
    dataset = with_lut("ModalityLUTSequence", lut_item(curve, bits=bits))
    assert np.array_equal(modality_values(dataset, RAMP), curve[RAMP])


@pytest.mark.parametrize(
    ("tags", "expected", "doubt"),
    [
        ({}, (1, 0), ""),
        ({"RescaleSlope": "2", "RescaleIntercept": "-100"}, (2, -100), ""),
        ({"RescaleSlope": "", "RescaleIntercept": ""}, (1, 0), "RescaleSlope and RescaleIntercept"),
        ({"RescaleIntercept": "-1024"}, (1, -1024), ""),
        ({"RescaleSlope": "2"}, (2, 0), ""),
        ({"RescaleSlope": "", "RescaleIntercept": "-1024"}, (1, -1024), "RescaleSlope without"),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, (1, 0), "RescaleSlope without"),
        ({"RescaleSlope": "-1", "RescaleIntercept": "nan"}, (-1, 0), "RescaleIntercept without"),
    ],
)
def test_an_empty_or_impossible_rescale_tag_is_one_or_nothing(tags, expected, doubt):
    dataset = radiograph()
    with quiet():
        for name, value in tags.items():
            dataset.add_new(name, "DS", value)
        read = read_header(saved(dataset))
    assert rescale(read) == expected
    assert rescale_doubt(read).startswith(doubt)
    assert bool(rescale_doubt(read)) == bool(doubt)
    with quiet():
        view = the_view(dataset)
    assert (view.facts.get("doubts", "") != "") == bool(doubt)
    if expected[0] > 0:
        assert np.array_equal(view.pixels, the_view(radiograph()).pixels)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_luts_are_those_of_pydicom_where_it_reads_them(data):
    check_luts(data)


def check_luts(data: st.DataObject) -> None:
    """Modality and VOI LUTs with a right descriptor, and rescaling: pydicom's values."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    bits, count = data.draw(st.sampled_from([8, 16])), data.draw(st.integers(2, 5000))
    is_signed = data.draw(st.booleans())
    values = random.integers(-3000 if is_signed else 0, 6000, (7, 9)).astype(
        np.int16 if is_signed else np.uint16
    )
    first = data.draw(st.integers(int(values.min()) + 1 - count, int(values.max())))
    first = first if is_signed else max(0, first)
    entries = random.integers(0, 2**bits, count)
    entries[0] = 2**bits - 1
    dataset = radiograph(values)
    if data.draw(st.booleans()):
        dataset.ModalityLUTSequence = Sequence([lut_item(entries, first, bits, "SS" if is_signed else "US")])
    else:
        dataset.RescaleSlope = str(data.draw(st.integers(-30, 30).filter(bool)) / 8)
        dataset.RescaleIntercept = str(data.draw(st.integers(-2000, 2000)))
    ours = modality_values(dataset, values)
    assert np.array_equal(ours, apply_modality_lut(values, dataset))
    bits = data.draw(st.sampled_from([8, *range(10, 17)]))
    entries = random.integers(0, 2**bits, 4096)
    entries[0] = 2**bits - 1
    first = int(np.clip(ours.min() - 1, -32768, 65535))
    dataset.VOILUTSequence = Sequence([lut_item(entries, first, bits, "SS" if first < 0 else "US")])
    (grey,) = voi_luts(dataset, ours)
    integers = np.rint(ours).astype(np.int64)
    if bits == 8:  # pydicom 3.0.2 counts the entries of such a LUT in 8 bits, too
        theirs = np.array([[entries[min(max(v - first, 0), 4095)] for v in row] for row in integers.tolist()])
    else:
        theirs = apply_voi(integers, dataset)
    assert np.allclose(grey, theirs / (2**bits - 1))


def reference_grey(values: np.ndarray, dataset: Dataset, curve: np.ndarray | None) -> np.ndarray:
    """Each pixel's grey, 0 to 1, straight from the standard, without tables of levels."""
    numbers = values * float(dataset.get("RescaleSlope") or 1) + float(dataset.get("RescaleIntercept") or 0)
    if curve is not None:
        first = dataset.VOILUTSequence[0].LUTDescriptor[1]
        places = np.clip(np.rint(numbers).astype(int) - first, 0, len(curve) - 1)
        grey = curve[places] / curve.max()
    else:
        grey = windowed(numbers, float(dataset.WindowCenter), float(dataset.WindowWidth))
    return 1 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


def check_views(data: st.DataObject) -> None:
    """Radiographs of any bits, sign, alignment, polarity, rescaling, window or LUT: the standard's grey values."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    bits, is_signed = data.draw(st.integers(9, 16)), data.draw(st.booleans())
    y, x = np.mgrid[:40, :44]
    share = (y + x + 5 * np.sin(x / random.uniform(3, 9)) + random.uniform(0, 1, y.shape)) / 95
    share = (share - share.min()) / np.ptp(share)
    lowest = -(2 ** (bits - 1)) if is_signed else 0
    values = np.rint(lowest + share * (2**bits - 1)).astype(np.int64)
    words = values.astype(np.int16 if is_signed else np.uint16)
    is_left = data.draw(st.booleans())
    tags: dict[str, object] = {"BitsStored": bits, "HighBit": 15 if is_left else bits - 1}
    tags["PhotometricInterpretation"] = data.draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))
    slope, intercept = data.draw(st.sampled_from([(None, None), ("2", "-50"), ("", ""), ("1", None)]))
    tags |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    numbers = values * float(slope or 1) + float(intercept or 0)
    curve = None
    if data.draw(st.booleans()) and abs(numbers).max() < 32000 and np.ptp(numbers) < 65000:
        used = data.draw(st.integers(9, 14))
        curve = np.rint(np.linspace(0, 1, int(np.ptp(numbers)) + 1) ** 0.8 * (2**used - 1))
        item = lut_item(curve, int(numbers.min()), data.draw(st.integers(9, 16)), "SS")
        tags["VOILUTSequence"] = Sequence([item])
    else:
        tags["WindowCenter"] = f"{numbers.mean():.6g}"
        tags["WindowWidth"] = f"{np.ptp(numbers) * random.uniform(0.8, 3):.6g}"
    dataset = radiograph(words << (16 - bits) if is_left else words, **tags)
    view = the_view(dataset, max_saturated=DicomConfig().max_saturated)
    assert view.facts["voi"] == ("window" if curve is None else "lut")
    expected = reference_grey(values, dataset, curve) * 255
    assert np.abs(view.pixels - expected).max() <= 0.51


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_view_has_the_grey_values_of_the_standard(data):
    check_views(data)
