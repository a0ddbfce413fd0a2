"""A View, a Study of views, and the choice of a pair of views.

A view that is read from a file holds pixels (`View`); a view in a shard stays encoded until it is used
(`StoredView`), because a pretraining step needs two of a study's seven or eight views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from random import Random
from typing import Any, Literal

import numpy as np

from .pictures import decode_grey

PROJECTIONS = (
    "VD", "DV", "LLAT", "RLAT", "LATERAL", "AP", "PA", "LL", "MLO", "CC", "OBLIQUE", "UNKNOWN",
)  # fmt: skip
"""The closed list of projections. LLAT and RLAT name the side the animal lies on; LATERAL is a side view
of unknown side; LL is the latero-lateral view of a human chest; UNKNOWN where no tag or word decides."""

SPLITS = ("train", "val", "test")
"""Each patient is in one of these, by keyed hash."""

PairPolicy = Literal["uniform", "distinct", "same_side"]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One projection of one patient, as the detector saw it.

    pixels: (H, W) uint8, or uint16 before it is stored; bright is dense (MONOCHROME2).
    spacing: mm per pixel as (row, column), None where unknown.

    >>> View(pixels=np.zeros((64, 48), np.uint8), projection="VD")
    View(VD, 64x48)
    """

    pixels: np.ndarray
    projection: str = "UNKNOWN"
    laterality: str = ""
    modality: str = ""
    spacing: tuple[float, float] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    """How the view was made: `projection_source` (the tag that decided), `voi` (how greys were chosen)."""

    def decode(self, bits: Literal[8, 16] = 8) -> View:
        """The view with pixels of 8 or 16 bits: itself where it has them."""
        if self.pixels.dtype.itemsize * 8 == bits:
            return self
        return replace(self, pixels=with_bits(self.pixels, bits))

    def __repr__(self) -> str:
        return f"View({self.projection}, {'x'.join(map(str, self.pixels.shape))})"


@dataclass(frozen=True, slots=True, eq=False)
class StoredView:
    """A view as a shard keeps it: JPEG or PNG bytes of 8-bit grey, or PNG of 16 bits, decoded on demand.

    >>> StoredView(encoded=b"...", projection="LLAT")
    StoredView(LLAT, 3 bytes)
    """

    encoded: bytes
    projection: str = "UNKNOWN"
    laterality: str = ""
    modality: str = ""
    spacing: tuple[float, float] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def decode(self, bits: Literal[8, 16] = 8) -> View:
        """The view with its pixels, (H, W) uint8, or uint16 for 16 bits; the highest value is white in both."""
        return View(with_bits(decode_grey(self.encoded), bits), **description(self))

    def __repr__(self) -> str:
        return f"StoredView({self.projection}, {len(self.encoded)} bytes)"


def with_bits(pixels: np.ndarray, bits: Literal[8, 16]) -> np.ndarray:
    """Pixels as uint8 or uint16, rounded; white stays white.

    >>> with_bits(np.array([0, 128, 129, 65535], np.uint16), 8), with_bits(np.array([0, 255], np.uint8), 16)
    (array([  0,   0,   1, 255], dtype=uint8), array([    0, 65535], dtype=uint16))
    """
    if pixels.dtype.itemsize * 8 == bits:
        return pixels
    if bits == 16:
        return pixels.astype(np.uint16) * 257
    return np.rint(pixels / 257).astype(np.uint8)


def description(view: View | StoredView) -> dict[str, Any]:
    """All fields of a view but its pixels or bytes.

    >>> description(StoredView(b"...", "VD"))
    {'projection': 'VD', 'laterality': '', 'modality': '', 'spacing': None, 'facts': {}}
    """
    return {field.name: getattr(view, field.name) for field in fields(view)[1:]}


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """All views of one patient from one visit, under pseudonyms.

    key and patient are keyed hashes in hexadecimal (no dot). labels: finding -> 1.0 present, 0.0 absent,
    NaN unknown.

    >>> Study(key="4f2a", patient="9c01", views=(View(np.zeros((8, 8), np.uint8), "VD"),))
    Study(4f2a, 1 view: VD)
    """

    key: str
    patient: str
    views: tuple[View | StoredView, ...]
    labels: Mapping[str, float] = field(default_factory=dict)
    split: str = "train"

    def view(self, index: int) -> View:
        """The index-th view, decoded."""
        return self.views[index].decode()

    def __repr__(self) -> str:
        names = " ".join(view.projection for view in self.views)
        return f"Study({self.key}, {len(self.views)} view{'s' * (len(self.views) != 1)}: {names})"


def pair_of(study: Study, random: Random, policy: PairPolicy = "uniform") -> tuple[int, int]:
    """Indices of two different views of a study, in random order; (i, i) where it has no pair.

    `distinct` prefers two projections that differ and falls back to `uniform` where there are none. `same_side` takes
    only projections that differ, of lateralities that are not known to: of a study of both breasts, CC and MLO of one.
    Where there are none, it gives a single view, drawn at random.

    >>> from random import Random
    >>> one = View(np.zeros((8, 8), np.uint8), "VD")
    >>> pair_of(Study("k", "p", (one,)), Random(0))
    (0, 0)
    """
    views, count = study.views, len(study.views)
    if count == 1:
        return 0, 0
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    if policy != "uniform":
        differing = [(i, j) for i, j in pairs if views[i].projection != views[j].projection]
        pairs = differing or pairs
        if policy == "same_side":
            sides = [{views[i].laterality, views[j].laterality} for i, j in differing]
            same = [pair for pair, side in zip(differing, sides, strict=True) if not side >= {"L", "R"}]
            pairs = same or [(i, i) for i in range(count)]
    return random.choice(pairs)
