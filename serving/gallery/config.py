"""Settings of a gallery; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IndexKind = Literal["flat", "ivf", "hnsw"]
"""Every vector compared; lists of 1-bit codes (IVF with RaBitQ); a graph."""

IndexChoice = Literal["auto", "flat", "ivf", "hnsw"]

FLAT_UP_TO = 200_000
"""Most vectors that are searched one by one: 27 ms a query."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """How the vectors of a gallery are indexed."""

    index: IndexChoice = "auto"
    """flat compares every vector, ivf scans some of 4 sqrt(n) lists of 1-bit codes, hnsw walks a graph; the best of ivf
    and hnsw are scored again exactly. auto: flat up to 200,000 vectors, ivf above."""

    def kind(self, count: int) -> IndexKind:
        """The index of so many vectors.

        >>> IndexConfig().kind(200_000), IndexConfig().kind(200_001)
        ('flat', 'ivf')
        """
        if self.index == "auto":
            return "flat" if count <= FLAT_UP_TO else "ivf"
        return self.index
