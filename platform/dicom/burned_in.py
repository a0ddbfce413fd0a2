"""Text burned into a picture's pixels: found by a text detector, told from side markers, painted over.

The recognized text itself never leaves `find_text`: it may name the patient. The networks are those of RapidOCR
(PP-OCRv6, small), which ship inside its wheel; nothing is downloaded.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core.extras import has_extra, require_extra

if TYPE_CHECKING:
    from rapidocr import RapidOCR

# H, W pixels of a picture.

LIBRARIES = ("rapidocr", "onnxruntime")
"""What the extra `ocr` brings."""

MIN_LETTERS = 3
"""Fewer letters and digits than this are a side marker or a number of a film, no identifier."""

MIN_SCORE = 0.6
"""Mean probability of the recognized letters, below which a texture was taken for text."""

SEARCH_SIDE = 512
"""Pictures with a shorter long side are enlarged to this before they are searched; on larger ones the network is
slower, and finds no more of what is still legible."""

LINE_GAP = 2
"""Line heights between two parts of one line, at most."""

MARGIN = 0.2
"""A box is painted over with this fraction of its height more on each side, and a pixel."""

RING = 3
"""Width in pixels of the ring around a box whose median paints it over."""

ROUNDS = 3
"""How often a picture is searched and painted over before it is given up."""

MARKERS = frozenset(
    word
    for line in (
        "AP PA VD DV LL RL LAT LATERAL LLAT RLAT OBL OBLIQUE DORSAL VENTRAL CC MLO LCC RCC LMLO RMLO XCC XCCL",
        "LEFT RIGHT LINKS RECHTS GAUCHE DROITE IZQUIERDA DERECHA ESQUERDA DIREITA SINISTRA DESTRA",
        "ERECT UPRIGHT UPRT STANDING SITTING SEMI SUPINE PRONE DECUB DECUBITUS INSP EXP PORT PORTABLE MOBILE BEDSIDE",
        "STEHEND SITZEND LIEGEND BETTAUFNAHME DEBOUT ASSIS COUCHE SUPINO SEDUTO SENTADO",
    )
    for word in line.split()
)
"""Words of side, position and projection markers, which name nobody."""


@dataclass(frozen=True, slots=True)
class TextBox:
    """Where text is, in fractions of the picture's height and width, 0 to 1; never what it says.

    >>> str(TextBox(0.01, 0.02, 0.05, 0.3))
    '0.0100 0.0200 0.0500 0.3000'
    """

    top: float
    left: float
    bottom: float
    right: float

    def __str__(self) -> str:
        return " ".join(f"{edge:.4f}" for edge in (self.top, self.left, self.bottom, self.right))


def can_search() -> bool:
    """Whether the extra `ocr` is installed."""
    return all(map(has_extra, LIBRARIES))


def require_search(purpose: str) -> None:
    """Raises ConfigError where the extra `ocr` is missing. purpose: the start of a sentence."""
    for library in LIBRARIES:
        require_extra(library, purpose)


def is_marker(text: str) -> bool:
    """Whether a text is too short to name anybody, or consists of words of `MARKERS` and numbers of one digit.

    >>> [is_marker(text) for text in ("L", "AP ERECT", "REX", "R-LAT", "12.03.1961")]
    [True, True, False, True, False]
    """
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).upper())
    if sum(map(len, words)) < MIN_LETTERS:
        return True
    return all(word in MARKERS or len(word) == 1 for word in words) and any(word in MARKERS for word in words)


def find_text(pixels_HW: np.ndarray) -> tuple[TextBox, ...]:
    """Where there is text that may name somebody, from top to bottom. pixels: (H, W) uint8.

    Markers do not count, see `is_marker`, but what stands in one line with text that counts belongs to it.
    """
    import cv2

    scale = SEARCH_SIDE / max(pixels_HW.shape)
    if scale > 1:
        pixels_HW = cv2.resize(pixels_HW, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    color_HW3 = cv2.cvtColor(pixels_HW, cv2.COLOR_GRAY2BGR)
    found: Any = _reader()(color_HW3, use_det=True, use_rec=False)
    if found.boxes is None:
        return ()
    corners = [(*box_42.min(0), *box_42.max(0)) for box_42 in found.boxes]
    boxes = [_Box(*(int(edge) for edge in edges)) for edges in corners]
    named = [
        box for box in boxes if _names_somebody(color_HW3[box.top : box.bottom + 1, box.left : box.right + 1])
    ]
    chosen = {box for box in boxes if any(box == other or box.continues(other) for other in named)}
    rows, columns = pixels_HW.shape
    return tuple(
        box.as_fractions(rows, columns) for box in sorted(chosen, key=lambda box: (box.top, box.left))
    )


class _Box(NamedTuple):
    """Pixels around a detected text."""

    left: int
    top: int
    right: int
    bottom: int

    def continues(self, other: _Box) -> bool:
        """Whether it stands in one line with another, at most `LINE_GAP` line heights away."""
        first, second = (self, other) if other.is_wide else (self.turned, other.turned)
        height = min(first.bottom - first.top, second.bottom - second.top)
        common = min(first.bottom, second.bottom) - max(first.top, second.top)
        gap = max(first.left, second.left) - min(first.right, second.right)
        return 2 * common > height and gap <= LINE_GAP * height

    @property
    def is_wide(self) -> bool:
        return self.right - self.left >= self.bottom - self.top

    @property
    def turned(self) -> _Box:
        return _Box(self.top, self.left, self.bottom, self.right)

    def as_fractions(self, rows: int, columns: int) -> TextBox:
        edges = self.top / rows, self.left / columns, (self.bottom + 1) / rows, (self.right + 1) / columns
        return TextBox(*(round(min(max(edge, 0.0), 1.0), 4) for edge in edges))


def _names_somebody(crop_hw3: np.ndarray) -> bool:
    """Whether a text is recognized, in either reading direction, that is no marker."""
    upright = crop_hw3 if crop_hw3.shape[1] >= crop_hw3.shape[0] else np.rot90(crop_hw3)
    readings = []
    for crop in (upright, np.rot90(upright, 2)):
        read: Any = _reader()(np.ascontiguousarray(crop), use_det=False, use_rec=True)
        readings += [(score, text) for text, score in zip(read.txts or (), read.scores or (), strict=True)]
    score, text = max(readings, default=(0.0, ""))
    return score >= MIN_SCORE and not is_marker(text)


@cache
def _reader() -> RapidOCR:
    """The networks, loaded once a process, with one thread."""
    import rapidocr

    models = Path(rapidocr.__file__).parent / "models"
    logging.getLogger("RapidOCR").disabled = True  # it may quote what it reads
    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    return rapidocr.RapidOCR(
        params={
            "Global.use_cls": False,
            "Global.log_level": "critical",
            "Global.max_side_len": 1 << 16,
            "Det.model_path": str(models / "PP-OCRv6_det_small.onnx"),  # a path: nothing is downloaded
            "Rec.model_path": str(models / "PP-OCRv6_rec_small.onnx"),
            "Det.limit_type": "max",
            "Det.limit_side_len": 1 << 16,
            **threads,
        }
    )


def load_networks() -> None:
    """Loads what `find_text` needs; it takes about a second."""
    find_text(np.zeros((SEARCH_SIDE, SEARCH_SIDE), np.uint8))


def painted_over(pixels_HW: np.ndarray, boxes: Sequence[TextBox]) -> np.ndarray:
    """The picture, (H, W) of the same type, with each box filled with the median of what surrounds it."""
    painted_HW = pixels_HW.copy()
    for box in boxes:
        rows, columns = box_pixels(box, pixels_HW.shape)
        wider = (
            slice(max(0, rows.start - RING), rows.stop + RING),
            slice(max(0, columns.start - RING), columns.stop + RING),
        )
        is_ring_HW = np.zeros(pixels_HW.shape, bool)
        is_ring_HW[wider] = True
        is_ring_HW[rows, columns] = False
        painted_HW[rows, columns] = np.median(painted_HW[is_ring_HW]) if is_ring_HW.any() else 0
    return painted_HW


def box_pixels(box: TextBox, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """(rows, columns) of a picture of this shape that are painted over for a box: its own and a margin."""
    height, width = shape
    top, bottom, left, right = box.top * height, box.bottom * height, box.left * width, box.right * width
    margin = MARGIN * min(bottom - top, right - left) + 1
    return (
        slice(max(0, int(top - margin)), min(height, int(np.ceil(bottom + margin)))),
        slice(max(0, int(left - margin)), min(width, int(np.ceil(right + margin)))),
    )
