"""The projection (VD, LLAT, ...) and the laterality of a picture, from DICOM tags or from words of a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .tags import tag_items, tag_text, tag_value

if TYPE_CHECKING:
    from pydicom import Dataset

PATTERNS = (
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
"""(projection, pattern of the words that name it); the first that matches decides."""

LIMBS = re.compile(
    r"ARM|LEG|LIMB|HAND|FOOT|WRIST|ANKLE|KNEE|ELBOW|SHOULDER|STIFLE|CARP|TARS|HUM|FEM|TIB|RADIUS|ULNA"
    r"|BREAST|EXTREMITY"
)
"""Body parts whose laterality is a side of the body, not the side that a patient lies on."""


def projection_of_text(text: str) -> str:
    """The projection that a few words name, UNKNOWN where they name none.

    >>> [projection_of_text(words) for words in ("AP_SUPINE", "right lateral", "ventro-dorsal", "FRONTAL")]
    ['AP', 'RLAT', 'VD', 'UNKNOWN']
    """
    words = re.sub(r"[\W_]+", " ", text)
    return next((name for name, pattern in PATTERNS if re.search(pattern, words, re.IGNORECASE)), "UNKNOWN")


def projection_of(dataset: Dataset) -> tuple[str, str]:
    """(projection, the tag that decided). A lateral of a trunk becomes LLAT or RLAT by its laterality."""
    for source, projection in _candidates(dataset):
        if projection == "UNKNOWN":
            continue
        side = laterality_of(dataset)
        is_limb = LIMBS.search(tag_text(dataset, "BodyPartExamined").upper())
        if projection == "LATERAL" and side and not is_limb:
            return f"{side}LAT", f"{source}+Laterality"
        return projection, source
    return "UNKNOWN", "none"


def _candidates(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """(tag, the projection it names), the most reliable tag first."""
    yield "ViewPosition", projection_of_text(tag_text(dataset, "ViewPosition"))
    meanings = [tag_text(code, "CodeMeaning") for code in tag_items(dataset, "ViewCodeSequence")]
    yield "ViewCodeSequence", projection_of_text(" ".join(meanings[:1]))
    yield "PatientOrientation", _projection_of_orientation(tag_value(dataset, "PatientOrientation"))
    yield "SeriesDescription", projection_of_text(tag_text(dataset, "SeriesDescription"))


def _projection_of_orientation(directions: Any) -> str:
    """LATERAL where the picture's axes run head-foot and front-back; a frontal view stays UNKNOWN.

    Letters of humans A, P, H, F; of quadrupeds (PS3.3 C.7.6.1.1.1) D, V, CR, CD.
    """
    if isinstance(directions, str | bytes) or not hasattr(directions, "__len__") or len(directions) != 2:
        return "UNKNOWN"
    axes = {code for direction in directions for code in re.findall("^(?:CR|CD|[APHFDVLR])", str(direction))}
    along, across = {"H", "F", "CR", "CD"}, {"A", "P", "D", "V"}
    return "LATERAL" if axes & along and axes & across else "UNKNOWN"


def laterality_of(dataset: Dataset) -> str:
    """L or R, empty where the file says neither."""
    for name in ("ImageLaterality", "Laterality"):
        if (side := tag_text(dataset, name).upper()[:1]) in ("L", "R"):
            return side
    return ""
