"""What is looked for in a finished picture before it is stored: text that may name the patient."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core.errors import DicomError
from ..data.study import View
from .burned_in import ROUNDS, TextBox, can_search, find_text, painted_over, require_search
from .config import DicomConfig
from .tags import tag_text

if TYPE_CHECKING:
    from pydicom import Dataset

log = logging.getLogger(__name__)


def with_known_search(config: DicomConfig) -> DicomConfig:
    """The settings with `search_text` decided where it is auto; says so where pixels will not be searched.

    What is stored depends on it, so it is decided once, before settings are compared, and each worker obeys. Raises
    ConfigError where a search is wanted and the extra `ocr` is missing.
    """
    if config.burned_in == "keep":
        return replace(config, search_text="none")
    search = config.search_text
    if search == "auto":
        search = "untagged" if can_search() or config.burned_in != "refuse" else "none"
    if search != "none":
        require_search(f"a search for text in pixels (burned_in {config.burned_in}, search_text {search})")
    else:
        log.warning(
            "pixels are not searched for burned-in text, only the tag BurnedInAnnotation is read%s",
            "" if can_search() else "; to search: pip install 'vetdino[ocr]'",
        )
    return replace(config, search_text=search)


def screened(view: View, dataset: Dataset | None, config: DicomConfig) -> View:
    """The view after the policy for burned-in text; its fact `text` says `none` or where text was found.

    dataset: the header; None for a plain picture. Raises DicomError BURNED_IN.
    """
    tag = "" if dataset is None else tag_text(dataset, "BurnedInAnnotation").upper()
    if (
        config.burned_in == "keep"
        or config.search_text == "none"
        or (tag == "NO" and config.search_text != "all")
    ):
        return view
    boxes = find_text(view.decode().pixels)
    if config.burned_in == "refuse" and boxes:
        raise DicomError("BURNED_IN", f"text in the pixels at {places(boxes)}")
    if config.burned_in == "mask":
        if tag == "YES" and not boxes:
            raise DicomError("BURNED_IN", "the header says so, and no text was found to paint over")
        view, boxes = _painted(view, boxes)
    found = f"{'masked' if config.burned_in == 'mask' else 'kept'} {places(boxes)}" if boxes else "none"
    if tag == "YES":
        found += "; tagged"
    return replace(view, facts={**view.facts, "text": found})


def places(boxes: tuple[TextBox, ...]) -> str:
    """Boxes as text: top, left, bottom and right of each in fractions of the sides, commas between boxes."""
    return ", ".join(map(str, boxes))


def _painted(view: View, boxes: tuple[TextBox, ...]) -> tuple[View, tuple[TextBox, ...]]:
    """(the view without text, all boxes that were painted over). Raises DicomError BURNED_IN where text stays."""
    painted: list[TextBox] = []
    for _ in range(ROUNDS):
        if not boxes:
            return view, tuple(painted)
        painted += boxes
        view = replace(view, pixels=painted_over(view.pixels, boxes))
        boxes = find_text(view.decode().pixels)
    raise DicomError(
        "BURNED_IN", f"text in the pixels that painting over does not remove, at {places(boxes)}"
    )
