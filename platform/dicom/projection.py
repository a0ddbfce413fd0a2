"""The projection (VD, LLAT, ...) and the laterality of a picture, from DICOM tags or from words of a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .tags import tag_items, tag_text, tag_value

if TYPE_CHECKING:
    from pydicom import Dataset

PATTERNS = (
    ("MLO", r"\b[LR]?MLO\b|medio ?lateral oblique"),
    ("CC", r"\b[LR]?X?CC[LM]?\b|\bCRCD\b|crani?o ?caudal"),
    ("OBLIQUE", r"oblique|\bOBL\b|\b[LR][AP]O\b|\b[LR]LO\b"),
    ("VD", r"\bV ?D\b|ventro ?dorsal"),
    ("DV", r"\bD ?V\b|dorso ?ventral"),
    ("RLAT", r"\bR(T|IGHT)? ?LAT(ERAL)?\b|\bLAT(ERAL)? R(T|IGHT)?\b"),
    ("LLAT", r"\bL(T|EFT)? ?LAT(ERAL)?\b|\bLAT(ERAL)? L(T|EFT)?\b(?! ?SPINE)"),
    ("AP", r"\bAP\b|antero ?posterior"),
    ("PA", r"\bPA\b|postero ?anterior"),
    ("LL", r"\bLL\b|latero ?lateral"),
    ("LATERAL", r"\bLAT\b|lateral|\b[LR]?(ML|LM)\b|\bRL\b|medio ?lateral|latero ?medial"),
)
"""(projection, pattern of the words that name it); the first that matches decides."""

_CODE = "(?:X?CC[LM]?|MLO|ML|LM|LAT|LATERAL|AP|PA|OBL|OBLIQUE)"

SIDES = re.compile(
    r"\b(?:(?P<left>L)(?:T|EFT)|(?P<right>R)(?:T|IGHT))\b"
    rf"|(?<![LR] )\b(?P<before>[LR]) {_CODE}\b"
    r"|\b(?P<glued>[LR])(?:X?CC[LM]?|MLO|ML|LM|LAT|LATERAL)\b"
    rf"|\b{_CODE} (?P<after>[LR])\b(?! ?SPINE)"
    r"|^ ?(?P<alone>[LR]) ?$",
    re.IGNORECASE,
)
"""A side: as a word, or as a letter before or after a code. L SPINE is the lumbar spine; in RAO or RL it is no side."""

LIMBS = re.compile(
    r"ARM|LEG|LIMB|HAND|FOOT|WRIST|ANKLE|KNEE|ELBOW|SHOULDER|STIFLE|CARP|TARS|HUM|FEM|TIB|RADIUS|ULNA"
    r"|BREAST|EXTREMITY"
)
"""Body parts whose laterality is a side of the body, not the side that a patient lies on."""

LIMB_WORDS = re.compile(rf"\b(?!HUMAN|FEMALE)(?:{LIMBS.pattern})", re.IGNORECASE)
"""Words of a text that name a limb; fewer than in LIMBS, since a text holds other words, too."""


def projection_of_text(text: str) -> str:
    """The projection that a few words name, UNKNOWN where they name none.

    >>> [projection_of_text(words) for words in ("AP_SUPINE", "right lateral", "ventro-dorsal", "FRONTAL")]
    ['AP', 'RLAT', 'VD', 'UNKNOWN']
    """
    words = _words(text)
    name = next((name for name, pattern in PATTERNS if re.search(pattern, words, re.IGNORECASE)), "UNKNOWN")
    return "LATERAL" if name in ("LLAT", "RLAT") and LIMB_WORDS.search(words) else name


def laterality_of_text(text: str) -> str:
    """The side of the body that a few words name, L or R; empty where they name none or both.

    >>> [laterality_of_text(words) for words in ("L-CC", "RMLO", "LT LAT KNEE", "AP", "L-Spine AP", "RAO")]
    ['L', 'R', 'L', '', '', '']
    """
    words = _words(text)
    if re.search("decub|recumb", words, re.IGNORECASE):  # the side that the patient lies on
        return ""
    sides = {match[match.lastgroup].upper() for match in SIDES.finditer(words) if match.lastgroup}
    return sides.pop() if len(sides) == 1 else ""


def view_of_text(text: str) -> tuple[str, str]:
    """(projection, laterality) that a few words name. The side of LLAT and RLAT is in the projection alone.

    >>> [view_of_text(words) for words in ("L-CC", "LT LAT", "right knee lateral", "lateral")]
    [('CC', 'L'), ('LLAT', ''), ('LATERAL', 'R'), ('LATERAL', '')]
    """
    projection = projection_of_text(text)
    return projection, "" if projection in ("LLAT", "RLAT") else laterality_of_text(text)


def _words(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text)


def projection_of(dataset: Dataset) -> tuple[str, str]:
    """(projection, the tag that decided). A lateral of a trunk becomes LLAT or RLAT by its laterality."""
    for source, projection, _ in _candidates(dataset):
        if projection == "UNKNOWN":
            continue
        side = _tagged_laterality(dataset)
        is_limb = LIMBS.search(tag_text(dataset, "BodyPartExamined").upper())
        if projection in ("LLAT", "RLAT") and is_limb:
            return "LATERAL", source
        if projection == "LATERAL" and side and not is_limb:
            return f"{side}LAT", f"{source}+Laterality"
        return projection, source
    return "UNKNOWN", "none"


def _candidates(dataset: Dataset) -> Iterator[tuple[str, str, str]]:
    """(tag, the projection that it names, its text), the most reliable tag first."""
    position = tag_text(dataset, "ViewPosition")
    yield "ViewPosition", projection_of_text(position), position
    meanings = [tag_text(code, "CodeMeaning") for code in tag_items(dataset, "ViewCodeSequence")]
    meaning = " ".join(meanings[:1])
    yield "ViewCodeSequence", projection_of_text(meaning), meaning
    yield "PatientOrientation", _projection_of_orientation(tag_value(dataset, "PatientOrientation")), ""
    series = tag_text(dataset, "SeriesDescription")
    yield "SeriesDescription", projection_of_text(series), series


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
    """L or R by the laterality tags, else by the text that names the projection; empty where neither says."""
    if side := _tagged_laterality(dataset):
        return side
    projection, source = projection_of(dataset)
    if projection in ("LLAT", "RLAT"):  # the side that a patient lies on
        return ""
    return next((laterality_of_text(text) for name, _, text in _candidates(dataset) if name == source), "")


def _tagged_laterality(dataset: Dataset) -> str:
    for name in ("ImageLaterality", "Laterality"):
        if (side := tag_text(dataset, name).upper()[:1]) in ("L", "R"):
            return side
    return ""
