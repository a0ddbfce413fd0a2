"""The pixels of a DICOM file or a plain picture: decoded, windowed, cropped, shrunk to a View of 8 or 16 bits.

Grey values go from the stored value to these through one table of levels: level i is the i-th possible stored
value. The histogram over that table decides whether the file's own window can be trusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..core.errors import DicomError, PictureError
from ..data.pictures import read_gray
from ..data.study import View, with_bits
from .collimation import Field, collimated_field, field_of_shape
from .config import DicomConfig
from .header import IMAGECODECS, check_radiograph, frame_count, modality_of, read_header
from .luts import modality_values, rescale_doubt, voi_luts
from .projection import laterality_of, projection_of
from .stored import bits_doubt, noise_doubt, padding_range, stored_values
from .tags import quiet, tag_numbers, tag_text

if TYPE_CHECKING:
    from pydicom import Dataset

# N levels; H, W pixels of a picture.

PYDICOM_FIRST = {"1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"}
"""Lossy 12-bit JPEG: where a pydicom plugin can read it, its rounding is the one others compare with."""

MIN_LEVELS = 8
"""Different stored values between the percentiles, below which a picture counts as constant."""

MIN_CONTRAST = 0.1
"""Fraction of the grey scale that a trusted window must use between its 1st and 99th percentile."""

EPSILON = 1 / 512
"""Nearer than this to black or white, on a scale of 1, is saturated."""


def read_view(path: str | Path, config: DicomConfig | None = None) -> View:
    """The view in one file, pixels (H, W) uint8, bright is dense. Raises DicomError (see CODES), OSError."""
    config = config or DicomConfig()
    dataset = read_header(Path(path).read_bytes())
    check_radiograph(dataset, config)
    return normalized_view(dataset, raw_pixels(dataset), config)


def raw_pixels(dataset: Dataset) -> np.ndarray:
    """The stored values, nothing applied: (H, W), with frames first and samples last where there are any.

    Raises DicomError DECODE_FAILED, TRUNCATED_PIXEL_DATA, or INVALID_PIXEL_TAG (see `stored_values`).
    """
    with quiet():
        decoded = _decoded_words(dataset)
        if decoded.dtype.kind not in "iu" or dataset.SamplesPerPixel != 1:
            return decoded
        return stored_values(dataset, decoded)


def _decoded_words(dataset: Dataset) -> np.ndarray:
    """What a decoder gives, with all bits of each word: those beside the stored value are dealt with later."""
    first, second = _decode_with_imagecodecs, _decode_with_pydicom
    if str(dataset.file_meta.TransferSyntaxUID) in PYDICOM_FIRST:
        first, second = second, first
    _check_end_marker(dataset)
    try:
        return first(dataset)
    except Exception:  # whatever one decoder raises, the other may be able to read the file
        pass
    try:
        return second(dataset)
    except MemoryError:
        raise DicomError("DECODE_FAILED", "it needs more memory than allowed") from None
    except Exception as error:
        raise DicomError("DECODE_FAILED", type(error).__name__) from None


def _check_end_marker(dataset: Dataset) -> None:
    """A JPEG, JPEG-LS or JPEG 2000 stream without its end marker may decode to garbage without an error."""
    from pydicom.encaps import get_frame

    if str(dataset.file_meta.TransferSyntaxUID) not in IMAGECODECS or frame_count(dataset) != 1:
        return
    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    except Exception as error:  # fragments that are no fragments
        raise DicomError("DECODE_FAILED", type(error).__name__) from None
    if frame[:2] in (b"\xff\xd8", b"\xff\x4f") and b"\xff\xd9" not in frame[-64:]:
        raise DicomError("TRUNCATED_PIXEL_DATA", "the compressed stream has no end")


def _decode_with_pydicom(dataset: Dataset) -> np.ndarray:
    dataset.pixel_array_options(correct_unused_bits=False)
    try:
        return dataset.pixel_array
    except BaseException as error:  # a panic of a decoder in Rust is no Exception
        if isinstance(error, Exception | KeyboardInterrupt | SystemExit):
            raise
        raise ValueError("the decoder gave up") from None


def _decode_with_imagecodecs(dataset: Dataset) -> np.ndarray:
    """One frame of one channel, (H, W).

    Raises LookupError where it is something else, ValueError where decoder and header disagree, or whatever
    the decoder raises.
    """
    name = IMAGECODECS[str(dataset.file_meta.TransferSyntaxUID)]
    if dataset.SamplesPerPixel != 1 or frame_count(dataset) != 1:
        raise LookupError("not one frame of one channel")
    import imagecodecs
    from pydicom.encaps import get_frame

    pixels_HW = getattr(imagecodecs, name)(get_frame(dataset.PixelData, 0, number_of_frames=1))
    if pixels_HW.shape != (dataset.Rows, dataset.Columns) or pixels_HW.itemsize * 8 > dataset.BitsAllocated:
        raise ValueError("another shape or type than the header says")
    kind = (
        "i" if dataset.PixelRepresentation or pixels_HW.dtype.kind == "i" else "u"
    )  # JPEG 2000 has a sign itself
    return pixels_HW.astype(f"{kind}{dataset.BitsAllocated // 8}", copy=False)


def normalized_view(
    dataset: Dataset, raw_HW: np.ndarray, config: DicomConfig, bits: Literal[8, 16] = 8
) -> View:
    """The view from decoded pixels: modality LUT, window, inversion, crop, area resize to `config.side`, `bits`.

    Raises DicomError LOW_CONTRAST, INVALID_PIXEL_TAG.
    """
    with quiet():
        index_HW, levels_N = _levels(raw_HW)
        is_padding_N = _padding(dataset, levels_N)
        modality_values_N = _modality_values(dataset, levels_N)
        counts_N = _counts_inside(index_HW, len(levels_N), config.border)
        counts_N[is_padding_N] = 0
        grey_N, source_of_grey = _grey(dataset, modality_values_N, counts_N, config)
        if _is_inverted(dataset):
            grey_N = 1 - grey_N
        grey_N[is_padding_N] = 0
        table_N = np.rint(grey_N * 65535).astype(np.uint16)
        whole_HW = np.take(table_N, index_HW, mode="clip")
        field, crop = _crop(whole_HW, _header_field(dataset, raw_HW.shape), config)
        whole_HW = field.of(whole_HW)
        pixels_HW = shrunk(whole_HW, config.side)
        projection, source = projection_of(dataset)
        down, across = whole_HW.shape[0] / pixels_HW.shape[0], whole_HW.shape[1] / pixels_HW.shape[1]
        return View(
            pixels=with_bits(pixels_HW, bits),
            projection=projection,
            laterality=laterality_of(dataset),
            modality=modality_of(dataset),
            spacing=_spacing(dataset, down, across),
            facts={"projection_source": source, "voi": source_of_grey, **crop, **_doubts(dataset, raw_HW)},
        )


def _crop(grey_HW: np.ndarray, header: Field | None, config: DicomConfig) -> tuple[Field, dict[str, str]]:
    """(the part of a picture to keep, the fact `crop`).

    grey: (H, W) uint16. The fact says how the part was found and what is cut off at top, bottom, left, right.
    """
    if not config.crop:
        return Field(0, grey_HW.shape[0], 0, grey_HW.shape[1]), {}
    field, source = collimated_field(grey_HW, header)
    cut_off = f" {field.cut_off(grey_HW.shape)}" if source in ("header", "pixels") else ""
    return field, {"crop": source + cut_off}


def _header_field(dataset: Dataset, shape: tuple[int, ...]) -> Field | None:
    """What both collimator and shutter leave open by their tags; None where neither says or they contradict."""
    fields = []
    for name in ("Collimator", "Shutter"):
        edges = (
            f"{name}{side}Edge"
            for side in ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
        )
        rectangle = [number for edge in edges for number in tag_numbers(dataset, edge)]
        circle = [
            *tag_numbers(dataset, f"CenterOfCircular{name}"),
            *tag_numbers(dataset, f"RadiusOfCircular{name}"),
        ]
        polygon = tag_numbers(dataset, f"VerticesOfThePolygonal{name}")
        fields.append(field_of_shape(shape, rectangle, circle, polygon))
    known = [field for field in fields if field is not None]
    if not known:
        return None
    top, bottom = max(field.top for field in known), min(field.bottom for field in known)
    left, right = max(field.left for field in known), min(field.right for field in known)
    return Field(top, bottom, left, right) if top < bottom and left < right else None


def _levels(raw_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(index_HW uint16, levels_N): levels_N[index_HW] are the stored values; N is at most 65536."""
    if raw_HW.dtype.kind in "iu" and raw_HW.dtype.itemsize <= 2:
        raw_HW = raw_HW.astype(raw_HW.dtype.newbyteorder("="), copy=False)
        lowest, highest = int(raw_HW.min()), int(raw_HW.max())
        words_HW = raw_HW.astype(np.uint16, copy=False)  # -1 is 65535; what is subtracted turns round as well
        return words_HW - np.uint16(lowest % 65536), np.arange(lowest, highest + 1)
    low, high = float(raw_HW.min()), float(raw_HW.max())
    if not np.isfinite([low, high]).all() or low == high:
        raise DicomError("LOW_CONTRAST", "constant or not finite")
    scaled_HW = (raw_HW.astype(np.float64) - low) * (65535 / (high - low))
    return np.rint(scaled_HW).astype(np.uint16), np.linspace(low, high, 65536)


def _padding(dataset: Dataset, levels_N: np.ndarray) -> np.ndarray:
    """Which levels mean that nothing was measured, (N,) bool."""
    padding = padding_range(dataset)
    if padding is None:
        return np.zeros(len(levels_N), bool)
    return (levels_N >= padding[0]) & (levels_N <= padding[1])


def _modality_values(dataset: Dataset, levels_N: np.ndarray) -> np.ndarray:
    """Levels after the modality LUT or rescale, (N,) float64. Raises DicomError INVALID_PIXEL_TAG."""
    values_N = modality_values(dataset, levels_N)
    if not np.isfinite(values_N).all():
        raise DicomError(
            "INVALID_PIXEL_TAG", "RescaleSlope and RescaleIntercept give values that are not finite"
        )
    return values_N


def _counts_inside(index_HW: np.ndarray, count: int, border: float) -> np.ndarray:
    """How often each level occurs away from the border, (N,) int."""
    import cv2

    top, left = (int(side * border) for side in index_HW.shape)
    inside = index_HW[top : index_HW.shape[0] - top, left : index_HW.shape[1] - left]
    rows = max(1, (1 << 24) // inside.shape[1])  # cv2 counts in float32, exact up to here
    counts_N = np.zeros(65536, np.int64)
    for start in range(0, inside.shape[0], rows):
        part = inside[start : start + rows]
        counts_N += cv2.calcHist([part], [0], None, [65536], [0, 65536]).ravel().astype(np.int64)
    return counts_N[:count]


def _grey(
    dataset: Dataset, values_N: np.ndarray, counts_N: np.ndarray, config: DicomConfig
) -> tuple[np.ndarray, str]:
    """(grey 0 to 1 of each level, its source): by the file's first usable LUT or window, else by percentiles."""
    low, high = _percentiles(values_N, counts_N, config.percentiles)
    if not high > low or np.count_nonzero(counts_N[(values_N >= low) & (values_N <= high)]) < MIN_LEVELS:
        raise DicomError("LOW_CONTRAST", f"fewer than {MIN_LEVELS} grey levels")
    unclipped_N = counts_N.copy()  # what the detector itself saturated is not the window's fault
    unclipped_N[[0, -1]] = 0
    for source, grey_N in _windows(dataset, values_N):
        is_saturated_N = (grey_N <= EPSILON) | (grey_N >= 1 - EPSILON)
        saturated = unclipped_N[is_saturated_N].sum() / max(1, unclipped_N.sum())
        darkest, brightest = _percentiles(grey_N, counts_N, (1, 99))
        has_contrast = brightest - darkest >= MIN_CONTRAST
        if np.isfinite(grey_N).all() and saturated <= config.max_saturated and has_contrast:
            return grey_N, source
    return np.clip((values_N - low) / (high - low), 0, 1), "percentiles"


def _windows(dataset: Dataset, values_N: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(source, grey_N) for each VOI LUT and each window of the file, unusable ones left out."""
    for grey_N in voi_luts(dataset, values_N):
        yield "lut", grey_N
    function = tag_text(dataset, "VOILUTFunction").upper() or "LINEAR"
    centers, widths = tag_numbers(dataset, "WindowCenter"), tag_numbers(dataset, "WindowWidth")
    for center, width in zip(centers, widths, strict=False):
        if width > (1 if function == "LINEAR" else 0):
            yield "window", windowed(values_N, center, width, function)


def windowed(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Values through a window, 0 to 1 (PS3.3 C.11.2.1.2, C.11.2.1.3).

    function: LINEAR (width > 1), LINEAR_EXACT or SIGMOID.
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -50, 50)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return np.clip((values - center) / width + 0.5, 0, 1)


def _percentiles(
    values_N: np.ndarray, counts_N: np.ndarray, percents: tuple[float, float]
) -> tuple[float, float]:
    """Weighted percentiles: the least values with those parts of the counts at or below; 0 without counts."""
    order_N = np.argsort(values_N, kind="stable")
    below_N = np.cumsum(counts_N[order_N])
    if below_N[-1] == 0:
        return 0.0, 0.0
    places = np.searchsorted(below_N, np.asarray(percents) / 100 * below_N[-1])
    low, high = values_N[order_N][np.minimum(places, len(values_N) - 1)].tolist()
    return low, high


def _is_inverted(dataset: Dataset) -> bool:
    shape = tag_text(dataset, "PresentationLUTShape").upper()
    if shape in ("IDENTITY", "INVERSE"):
        return shape == "INVERSE"
    return tag_text(dataset, "PhotometricInterpretation") == "MONOCHROME1"


def _doubts(dataset: Dataset, raw_HW: np.ndarray) -> dict[str, str]:
    """Where the header contradicts itself or the pixels, so that another reading was possible: one fact, or none."""
    doubts = [bits_doubt(dataset, raw_HW), rescale_doubt(dataset), noise_doubt(raw_HW)]
    is_monochrome1 = tag_text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    if (
        _is_inverted(dataset) != is_monochrome1
    ):  # PS3.3 C.11.6.1.2: INVERSE where and only where it is MONOCHROME1
        doubts.append(
            "MONOCHROME1 with PresentationLUTShape IDENTITY, taken as not inverted"
            if is_monochrome1
            else "MONOCHROME2 with PresentationLUTShape INVERSE, taken as inverted"
        )
    return {"doubts": "; ".join(filter(None, doubts))} if any(doubts) else {}


def _spacing(dataset: Dataset, down: float, across: float) -> tuple[float, float] | None:
    """mm per stored pixel as (row, column), after a resize that made one of `down` x `across` pixels."""
    for name in ("ImagerPixelSpacing", "PixelSpacing"):
        numbers = tag_numbers(dataset, name)
        if len(numbers) == 2 and min(numbers) > 0 and np.isfinite(numbers).all():
            return round(numbers[0] * down, 6), round(numbers[1] * across, 6)
    return None


def shrunk(pixels_HW: np.ndarray, side: int) -> np.ndarray:
    """Pixels whose long side is at most `side`, by area averaging; never enlarged."""
    import cv2

    height, width = pixels_HW.shape
    scale = side / max(height, width)
    if scale >= 1:
        return pixels_HW
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels_HW, size, interpolation=cv2.INTER_AREA)


def picture_pixels(data: bytes) -> np.ndarray:
    """Pixels (H, W) of a JPEG, PNG or TIFF: uint8, or the stored type where that is wider; color becomes gray.

    Raises DicomError NOT_PICTURE.
    """
    try:
        return read_gray(data)
    except PictureError as error:
        raise DicomError("NOT_PICTURE", str(error)) from None


def picture_view(raw_HW: np.ndarray, config: DicomConfig, bits: Literal[8, 16] = 8) -> View:
    """The view of a picture without a window: 8 bits as they are, more between percentiles; bright is dense.

    NaN is padding: black, and without a say in the percentiles. Raises DicomError NOT_RADIOGRAPH, LOW_CONTRAST.
    """
    if min(raw_HW.shape) < config.min_side:
        raise DicomError("NOT_RADIOGRAPH", f"{raw_HW.shape[0]}x{raw_HW.shape[1]} pixels")
    is_padding_HW = np.isnan(raw_HW)
    tissue = raw_HW[~is_padding_HW]
    if not np.isfinite(tissue).all():
        raise DicomError("LOW_CONTRAST", "infinite pixels")
    low, high = np.percentile(tissue, config.percentiles) if tissue.size else (0, 0)
    if not high > low:
        raise DicomError("LOW_CONTRAST", "constant pixels")
    if raw_HW.dtype == np.uint8:
        field, crop = _crop(with_bits(raw_HW, 16), None, config)
        return View(with_bits(shrunk(field.of(raw_HW), config.side), bits), facts={"voi": "none", **crop})
    grey_HW = np.clip((raw_HW.astype(np.float32) - low) / (high - low), 0, 1)
    grey_HW[is_padding_HW] = 0
    field, crop = _crop((grey_HW * 65535).astype(np.uint16), None, config)
    highest = 2**bits - 1
    pixels_HW = np.rint(shrunk(field.of(grey_HW), config.side) * highest).astype(f"u{bits // 8}")
    return View(pixels=pixels_HW, facts={"voi": "percentiles", **crop})
