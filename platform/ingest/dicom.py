"""One DICOM file becomes one View, or a DicomError whose code says why not.

The order is that of cost: the header is checked first, then whether it is a radiograph at all, and only then
are pixels decoded, once. Grey values go from the stored integer to 8 bits through one table of levels: the
histogram over that table decides whether the file's own window can be trusted.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..core.errors import DicomError
from ..data.study import View

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
    "TOO_FEW_VIEWS": "its study has fewer views than demanded",
    "DUPLICATE": "the same file or the same pixels as another file of the archive",
    "MISSING_FILE": "the table names a file that is not there",
    "NOT_PICTURE": "neither DICOM nor a picture that can be read",
}
"""The closed list of reasons for which a file gives no view."""

STORAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.2": "MG",
    "1.2.840.10008.5.1.4.1.1.1.2.1": "MG",
}
"""SOP classes that name a radiograph where the Modality tag is absent (PS3.4 table B.5-1)."""

PIXEL_BYTES_LIMIT = 1 << 30
"""Bytes of decoded pixels that a header may promise; the largest stitched radiographs need a quarter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DicomConfig:
    """Which files become views, and how their pixels are normalised."""

    modalities: tuple[str, ...] = ("CR", "DX", "RG", "MG")
    """Modalities taken as radiographs."""
    burned_in: Literal["refuse", "keep"] = "refuse"
    """What to do where BurnedInAnnotation is YES: the text may name the patient."""
    side: int = 512
    """Long side of a stored view, in pixels; smaller pictures keep their size."""
    min_side: int = 16
    """A picture with a side below this, in pixels, is no radiograph."""
    max_saturated: float = 0.3
    """A window of the file is left aside where it turns more than this part of the pixels black or white;
    those at the detector's own limits do not count."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Where no window of the file can be used, these percentiles of the pixels become black and white."""
    border: float = 0.05
    """Part of each side left out when window and percentiles are judged: collimation lies there."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a file belongs to, in clear: to be hashed before it goes anywhere; empty where it is silent."""

    patient: str
    study: str


def view_of(path: str | Path, config: DicomConfig | None = None) -> View:
    """The view in one file, pixels (H, W) uint8, bright is dense. Raises DicomError (see CODES), OSError."""
    config = config or DicomConfig()
    dataset = header_of(Path(path).read_bytes())
    gate(dataset, config)
    return normalised(dataset, raw_pixels(dataset), config)


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these bytes (132 or more) may be DICOM.

    Part 10 has DICM at 128; older files begin at once with group 2 or 8 in either byte order.
    """
    return head[128:132] == b"DICM" or head[:4] in _FIRST_TAGS


_FIRST_TAGS = {
    group.to_bytes(2, order) + element.to_bytes(2, order)
    for group, elements in {2: (0, 1, 2, 0x10), 8: (0, 1, 5, 8, 0x12, 0x16, 0x18, 0x20)}.items()
    for element in elements
    for order in ("little", "big")
}


# The header --------------------------------------------------------------------------------------


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom without its warnings: they quote values, and values name patients."""
    from pydicom import config as pydicom_config

    with warnings.catch_warnings(), pydicom_config.disable_value_validation():
        warnings.simplefilter("ignore")
        before, pydicom_config.logger.disabled = pydicom_config.logger.disabled, True
        try:
            yield
        finally:
            pydicom_config.logger.disabled = before


def header_of(data: bytes) -> Dataset:
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
        _check_pixel_tags(dataset)
    return dataset


def _check_pixel_tags(dataset: Dataset) -> None:
    pixels = next((_value(dataset, name) for name in _PIXELS if name in dataset), None)
    if pixels is None:
        raise DicomError("NO_PIXEL_DATA")
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if not syntax:
        raise DicomError("NO_TRANSFER_SYNTAX")
    if not _decodable(syntax):
        raise DicomError("UNSUPPORTED_TRANSFER_SYNTAX", str(syntax))
    rows, columns = _whole(dataset, "Rows", 1, 65535), _whole(dataset, "Columns", 1, 65535)
    samples = _whole(dataset, "SamplesPerPixel", 1, 4)
    allocated = _whole(dataset, "BitsAllocated", 1, 64)
    frames = _whole(dataset, "NumberOfFrames", 1, 1 << 31, default=1)
    if allocated != 1 and allocated % 8:
        raise DicomError("INVALID_PIXEL_TAG", f"BitsAllocated is {allocated}")
    if "PixelData" in dataset:
        _whole(dataset, "BitsStored", 1, allocated)
        _whole(dataset, "PixelRepresentation", 0, 1)
    photometric = _text(dataset, "PhotometricInterpretation")
    if not photometric:
        raise DicomError("MISSING_PIXEL_TAG", "PhotometricInterpretation")
    promised = -(-rows * columns * samples * frames * allocated // 8)
    if promised > PIXEL_BYTES_LIMIT:
        raise DicomError("INVALID_PIXEL_TAG", f"{promised} bytes of pixels, the limit is {PIXEL_BYTES_LIMIT}")
    if not syntax.is_encapsulated and photometric != "YBR_FULL_422" and len(pixels) < promised:
        raise DicomError("TRUNCATED_PIXEL_DATA", f"{len(pixels)} of {promised} bytes")


_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def _decodable(syntax: str) -> bool:
    from pydicom.pixels import get_decoder

    try:
        return str(syntax) in _IMAGECODECS or get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _whole(dataset: Dataset, name: str, low: int, high: int, default: int | None = None) -> int:
    """An integer tag within its range. Raises DicomError."""
    try:
        value = dataset.get(name)
        number = default if value is None else int(value)
    except Exception:  # a value that its own VR forbids
        raise DicomError("INVALID_PIXEL_TAG", f"{name} is no whole number") from None
    if number is None:
        raise DicomError("MISSING_PIXEL_TAG", name)
    if not low <= number <= high:
        raise DicomError("INVALID_PIXEL_TAG", f"{name} is {number}, expected {low} to {high}")
    return number


def gate(dataset: Dataset, config: DicomConfig) -> None:
    """Raises DicomError where a whole file is not the kind of picture asked for; decodes nothing."""
    modality = _modality(dataset)
    if modality not in config.modalities:
        known = re.fullmatch(r"[A-Z]{2,16}", modality)  # a free text might name somebody
        raise DicomError("NOT_RADIOGRAPH", modality if known else "no modality")
    if (frames := _frames(dataset)) > 1:
        raise DicomError("NOT_RADIOGRAPH", f"{frames} frames")
    if dataset.SamplesPerPixel != 1 or not _text(dataset, "PhotometricInterpretation").startswith(
        "MONOCHROME"
    ):
        raise DicomError("NOT_RADIOGRAPH", "colour")
    if min(dataset.Rows, dataset.Columns) < config.min_side:
        raise DicomError("NOT_RADIOGRAPH", f"{dataset.Rows}x{dataset.Columns} pixels")
    if config.burned_in == "refuse" and _text(dataset, "BurnedInAnnotation").upper() == "YES":
        raise DicomError("BURNED_IN")


def identity_of(dataset: Dataset) -> Identity:
    """Patient (issuer and id) and study of a file, in clear."""
    patient = _text(dataset, "PatientID")
    issuer = _text(dataset, "IssuerOfPatientID")
    return Identity(
        patient=f"{issuer}\0{patient}" if patient else "", study=_text(dataset, "StudyInstanceUID")
    )


def _frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _modality(dataset: Dataset) -> str:
    return _text(dataset, "Modality").upper() or STORAGE_CLASSES.get(_text(dataset, "SOPClassUID"), "")


def _value(dataset: Dataset, name: str) -> Any:
    """A tag's value, None where it is absent or cannot be read: a side tag is no reason to lose a picture."""
    try:
        return dataset.get(name)
    except Exception:  # pydicom converts late, and a damaged value can raise anything
        return None


def _text(dataset: Dataset, name: str) -> str:
    """A tag as text, empty where it is absent or cannot be read."""
    value = _value(dataset, name)
    return "" if value is None else str(value).strip()


def _items(dataset: Dataset, name: str) -> list[Dataset]:
    """The items of a sequence, none where it is absent or no sequence."""
    from pydicom import Sequence

    value = _value(dataset, name)
    return list(value) if isinstance(value, Sequence) else []


# The projection ----------------------------------------------------------------------------------

_WORDS = (
    ("MLO", r"\bMLO\b|medio ?lateral oblique"),
    ("CC", r"\bX?CC[LM]?\b|\bCRCD\b|crani?o ?caudal"),
    ("OBLIQUE", r"oblique|\bOBL\b|\b[LR][AP]O\b|\b[LR]LO\b"),
    ("VD", r"\bV ?D\b|ventro ?dorsal"),
    ("DV", r"\bD ?V\b|dorso ?ventral"),
    ("RLAT", r"\bR ?LAT\b|right lateral|\blat(eral)? r(ight)?\b"),
    ("LLAT", r"\bL ?LAT\b|left lateral|\blat(eral)? l(eft)?\b"),
    ("AP", r"\bAP\b|antero ?posterior"),
    ("PA", r"\bPA\b|postero ?anterior"),
    ("LL", r"\bLL\b|latero ?lateral"),
    ("LATERAL", r"\bLAT\b|lateral|\bML\b|\bLM\b|\bRL\b|medio ?lateral|latero ?medial"),
)
_LIMBS = re.compile(
    r"ARM|LEG|LIMB|HAND|FOOT|WRIST|ANKLE|KNEE|ELBOW|SHOULDER|STIFLE|CARP|TARS|HUM|FEM|TIB|RADIUS|ULNA"
    r"|BREAST|EXTREMITY"
)


def projection_of_text(text: str) -> str:
    """The projection that a few words name, UNKNOWN where they name none.

    >>> [projection_of_text(words) for words in ("AP_SUPINE", "right lateral", "ventro-dorsal", "FRONTAL")]
    ['AP', 'RLAT', 'VD', 'UNKNOWN']
    """
    words = re.sub(r"[\W_]+", " ", text)
    return next((name for name, pattern in _WORDS if re.search(pattern, words, re.IGNORECASE)), "UNKNOWN")


def projection_of(dataset: Dataset) -> tuple[str, str]:
    """(projection, the tag that decided). A lateral of a trunk becomes LLAT or RLAT by its laterality."""
    for source, projection in _projections(dataset):
        if projection == "UNKNOWN":
            continue
        side = laterality_of(dataset)
        if projection == "LATERAL" and side and not _LIMBS.search(_text(dataset, "BodyPartExamined").upper()):
            return f"{side}LAT", f"{source}+Laterality"
        return projection, source
    return "UNKNOWN", "none"


def _projections(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """What each tag says, the most reliable first."""
    yield "ViewPosition", projection_of_text(_text(dataset, "ViewPosition"))
    meanings = [_text(code, "CodeMeaning") for code in _items(dataset, "ViewCodeSequence")]
    yield "ViewCodeSequence", projection_of_text(" ".join(meanings[:1]))
    yield "PatientOrientation", _orientation(_value(dataset, "PatientOrientation"))
    yield "SeriesDescription", projection_of_text(_text(dataset, "SeriesDescription"))


def _orientation(directions: Any) -> str:
    """LATERAL where the picture's axes run head-foot and front-back; a frontal view stays undecided.

    Human letters A, P, H, F; of quadrupeds (PS3.3 C.7.6.1.1.1) D, V, CR, CD.
    """
    if isinstance(directions, (str, bytes)) or not hasattr(directions, "__len__") or len(directions) != 2:
        return "UNKNOWN"
    axes = {re.match(r"CR|CD|[APHFDVLR]|", str(direction)).group() for direction in directions}
    along, across = {"H", "F", "CR", "CD"}, {"A", "P", "D", "V"}
    return "LATERAL" if axes & along and axes & across else "UNKNOWN"


def laterality_of(dataset: Dataset) -> str:
    """L or R, empty where the file says neither."""
    for name in ("ImageLaterality", "Laterality"):
        if (side := _text(dataset, name).upper()[:1]) in ("L", "R"):
            return side
    return ""


# The pixels --------------------------------------------------------------------------------------

_IMAGECODECS = {
    "1.2.840.10008.1.2.4.50": "jpeg8_decode",
    "1.2.840.10008.1.2.4.51": "jpeg8_decode",
    "1.2.840.10008.1.2.4.53": "jpeg8_decode",
    "1.2.840.10008.1.2.4.55": "jpeg8_decode",
    "1.2.840.10008.1.2.4.57": "ljpeg_decode",
    "1.2.840.10008.1.2.4.70": "ljpeg_decode",
    "1.2.840.10008.1.2.4.80": "jpegls_decode",
    "1.2.840.10008.1.2.4.81": "jpegls_decode",
    "1.2.840.10008.1.2.4.90": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.91": "jpeg2k_decode",
}
"""Transfer syntax -> the imagecodecs function for one grey frame, twice as fast as pydicom's default."""

_PYDICOM_FIRST = {"1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"}
"""Lossy 12-bit JPEG: where a pydicom plugin can read it, its rounding is the one others compare with."""


def raw_pixels(dataset: Dataset) -> np.ndarray:
    """The stored values, nothing applied: (H, W), with frames first and samples last where there are any.

    Raises DicomError DECODE_FAILED or TRUNCATED_PIXEL_DATA.
    """
    first, second = _by_imagecodecs, _by_pydicom
    if str(dataset.file_meta.TransferSyntaxUID) in _PYDICOM_FIRST:
        first, second = second, first
    with quiet():
        _check_end(dataset)
        try:
            return first(dataset)
        except Exception:  # whatever a decoder raises, the other one may know better
            pass
        try:
            return second(dataset)
        except MemoryError:
            raise DicomError("DECODE_FAILED", "it needs more memory than allowed") from None
        except Exception as error:
            raise DicomError("DECODE_FAILED", type(error).__name__) from None


def _check_end(dataset: Dataset) -> None:
    """A JPEG, JPEG-LS or JPEG 2000 stream without its end marker may decode to garbage without an error."""
    from pydicom.encaps import get_frame

    if str(dataset.file_meta.TransferSyntaxUID) not in _IMAGECODECS or _frames(dataset) != 1:
        return
    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    except Exception as error:  # fragments that are no fragments
        raise DicomError("DECODE_FAILED", type(error).__name__) from None
    if frame[:2] in (b"\xff\xd8", b"\xff\x4f") and b"\xff\xd9" not in frame[-64:]:
        raise DicomError("TRUNCATED_PIXEL_DATA", "the compressed stream has no end")


def _by_pydicom(dataset: Dataset) -> np.ndarray:
    return dataset.pixel_array


def _by_imagecodecs(dataset: Dataset) -> np.ndarray:
    """One grey frame (H, W).

    Raises LookupError where it is something else, ValueError where decoder and header disagree, or whatever
    the decoder raises.
    """
    name = _IMAGECODECS[str(dataset.file_meta.TransferSyntaxUID)]
    if dataset.SamplesPerPixel != 1 or _frames(dataset) != 1:
        raise LookupError("not one grey frame")
    import imagecodecs
    from pydicom.encaps import get_frame

    pixels = getattr(imagecodecs, name)(get_frame(dataset.PixelData, 0, number_of_frames=1))
    if pixels.shape != (dataset.Rows, dataset.Columns) or pixels.itemsize * 8 > dataset.BitsAllocated:
        raise ValueError("another shape or type than the header says")
    pixels = pixels.astype(f"u{dataset.BitsAllocated // 8}", copy=False)
    return _signed(pixels, dataset.BitsStored) if dataset.PixelRepresentation else pixels


def _signed(pixels: np.ndarray, stored: int) -> np.ndarray:
    """Two's complement of `stored` bits, extended to the full width of the type."""
    spare = pixels.itemsize * 8 - stored
    return (pixels << spare).view(f"i{pixels.itemsize}") >> spare


def normalised(dataset: Dataset, raw: np.ndarray, config: DicomConfig) -> View:
    """The view from decoded pixels (H, W): modality LUT, window, inversion, area resize to `side`, uint8.

    Raises DicomError LOW_CONTRAST, INVALID_PIXEL_TAG.
    """
    with quiet():
        place, levels = _levels(raw, dataset)
        padding = _padding(dataset, levels)
        modal = _modal(dataset, levels)
        weights = _weights(place, len(levels), config.border)
        weights[padding] = 0
        grey, voi = _grey(dataset, modal, weights, config)
        if _inverted(dataset):
            grey = 1 - grey
        grey[padding] = 0
        table = np.rint(grey * 65535).astype(np.uint16)
        pixels = shrunk(table[place], config.side)
        projection, source = projection_of(dataset)
        return View(
            pixels=np.rint(pixels / 257).astype(np.uint8),
            projection=projection,
            laterality=laterality_of(dataset),
            modality=_modality(dataset),
            spacing=_spacing(dataset, raw.shape[0] / pixels.shape[0], raw.shape[1] / pixels.shape[1]),
            facts={"projection_source": source, "voi": voi},
        )


def _levels(raw: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(place, levels) with levels[place] the stored values: (H, W) indices into at most 65536 values."""
    if raw.dtype.kind in "iu" and raw.dtype.itemsize <= 2:
        raw = raw.astype(raw.dtype.newbyteorder("="), copy=False)
        stored = int(dataset.BitsStored)
        if stored < raw.dtype.itemsize * 8:  # overlays or dirt may live in the bits above
            raw = (
                raw & ((1 << stored) - 1)
                if raw.dtype.kind == "u"
                else _signed(raw.view(f"u{raw.itemsize}"), stored)
            )
        low, high = int(raw.min()), int(raw.max())
        return raw.astype(np.int32) - low, np.arange(low, high + 1)
    low, high = float(raw.min()), float(raw.max())
    if not np.isfinite([low, high]).all() or low == high:
        raise DicomError("LOW_CONTRAST", "constant or not finite")
    scaled = (raw.astype(np.float64) - low) * (65535 / (high - low))
    return np.rint(scaled).astype(np.int32), np.linspace(low, high, 65536)


def _padding(dataset: Dataset, levels: np.ndarray) -> np.ndarray:
    """Which levels stand for 'nothing was measured here' (PS3.3 C.7.5.1.1.2), (N,) bool."""
    value = _numbers(dataset, "PixelPaddingValue")
    limit = _numbers(dataset, "PixelPaddingRangeLimit") or value
    if len(value) != 1 or len(limit) != 1:
        return np.zeros(len(levels), bool)
    return (levels >= min(value + limit)) & (levels <= max(value + limit))


def _modal(dataset: Dataset, levels: np.ndarray) -> np.ndarray:
    """Levels after the modality LUT or rescale, (N,) float64."""
    from pydicom.pixels import apply_modality_lut

    try:
        modal = np.asarray(apply_modality_lut(levels, dataset), np.float64)
    except Exception:  # a LUT that contradicts itself
        raise DicomError("INVALID_PIXEL_TAG", "the modality LUT cannot be applied") from None
    if not np.isfinite(modal).all():
        raise DicomError("INVALID_PIXEL_TAG", "the modality LUT gives values that are not finite")
    return modal


def _weights(place: np.ndarray, count: int, border: float) -> np.ndarray:
    """How often each level occurs away from the border, (N,) int."""
    top, left = (int(side * border) for side in place.shape)
    inside = place[top : place.shape[0] - top, left : place.shape[1] - left]
    return np.bincount(inside.ravel(), minlength=count)


def _grey(
    dataset: Dataset, modal: np.ndarray, weights: np.ndarray, config: DicomConfig
) -> tuple[np.ndarray, str]:
    """(grey 0 to 1 of each level, path): by the file's first usable LUT or window, else by percentiles."""
    low, high = _quantiles(modal, weights, config.percentiles)
    if not high > low or np.count_nonzero(weights[(modal >= low) & (modal <= high)]) < MIN_LEVELS:
        raise DicomError("LOW_CONTRAST", f"fewer than {MIN_LEVELS} grey levels")
    judges = weights.copy()  # what the detector itself saturated is not the window's fault
    judges[[0, -1]] = 0
    for path, grey in _windows(dataset, modal):
        saturated = judges[(grey <= EPSILON) | (grey >= 1 - EPSILON)].sum() / max(1, judges.sum())
        darkest, brightest = _quantiles(grey, weights, (1, 99))
        if (
            np.isfinite(grey).all()
            and saturated <= config.max_saturated
            and brightest - darkest >= MIN_CONTRAST
        ):
            return grey, path
    return np.clip((modal - low) / (high - low), 0, 1), "percentiles"


MIN_LEVELS = 8
"""Different stored values between the percentiles, below which a picture counts as constant."""

MIN_CONTRAST = 0.1
"""Part of the grey scale that a trusted window must use between its 1st and 99th percentile."""

EPSILON = 1 / 512
"""Nearer than this to black or white, on a scale of 1, is saturated."""


def _windows(dataset: Dataset, modal: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(path, grey) for each VOI LUT and each window that the file brings, unusable ones left out."""
    from pydicom.pixels.processing import apply_voi

    for index, item in enumerate(_items(dataset, "VOILUTSequence")):
        try:
            whole = np.rint(modal).astype(np.int64)
            yield "lut", apply_voi(whole, dataset, index=index) / (2.0 ** int(item.LUTDescriptor[2]) - 1)
        except Exception:  # a LUT that contradicts itself is no reason to lose the picture
            continue
    shape = _text(dataset, "VOILUTFunction").upper() or "LINEAR"
    for centre, width in zip(
        _numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth"), strict=False
    ):
        if width > (1 if shape == "LINEAR" else 0):
            yield "window", windowed(modal, centre, width, shape)


def windowed(values: np.ndarray, centre: float, width: float, shape: str = "LINEAR") -> np.ndarray:
    """Values through a window, between 0 and 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3); LINEAR wants width > 1."""
    if shape == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    if shape == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _numbers(dataset: Dataset, name: str) -> list[float]:
    """A tag's values as numbers, none where it is absent or holds anything else."""
    value = _value(dataset, name)
    found = [] if value is None else list(value) if hasattr(value, "__iter__") else [value]
    try:
        return [float(number) for number in found]
    except (TypeError, ValueError):
        return []


def _quantiles(values: np.ndarray, weights: np.ndarray, percents: tuple[float, float]) -> list[float]:
    """Weighted percentiles: the least values with those parts of the weight at or below; 0 without weight."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    if below[-1] == 0:
        return [0.0, 0.0]
    places = np.searchsorted(below, np.asarray(percents) / 100 * below[-1])
    return values[order][np.minimum(places, len(values) - 1)].tolist()


def _inverted(dataset: Dataset) -> bool:
    shape = _text(dataset, "PresentationLUTShape").upper()
    return shape == "INVERSE" if shape else _text(dataset, "PhotometricInterpretation") == "MONOCHROME1"


def _spacing(dataset: Dataset, down: float, across: float) -> tuple[float, float] | None:
    """mm per stored pixel as (row, column), after a resize that took `down` x `across` pixels for one."""
    for name in ("ImagerPixelSpacing", "PixelSpacing"):
        numbers = _numbers(dataset, name)
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
