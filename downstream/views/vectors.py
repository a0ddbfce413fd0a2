"""The feature vectors of single views of chosen studies, with what their files say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...platform.core.errors import FeaturesError
from ...platform.core.seeds import stable_hash
from ...platform.data.index import StudyIndex
from ...platform.data.study import PROJECTIONS
from ...platform.measure.features import Features

UNKNOWN = "UNKNOWN"
"""The projection of a view whose file does not say it."""


@dataclass(frozen=True, slots=True, eq=False)
class ViewVectors:
    """The vectors of V views, row by row; projections (V,) and facts (V,) of their files."""

    features: Features
    projections: tuple[str, ...]
    facts: tuple[Mapping[str, str], ...]

    def __repr__(self) -> str:
        return f"ViewVectors({len(self.projections)} of {len(set(self.features.keys))} studies)"


def view_vectors(features: Features, shards: str | Path, split: str, most: int, seed: int) -> ViewVectors:
    """The views of at most `most` studies of a split. Raises FeaturesError where the shards lack one of them."""
    part = features.of(split)
    index = StudyIndex(shards, split)
    keys = chosen_keys(part.keys, most, seed)
    rows = index.find(keys)
    if (rows < 0).any():
        raise FeaturesError(f"the features are of other shards than {shards}; extract them again")
    stored = {key: index.load(row).views for key, row in zip(keys, rows, strict=True)}
    part = part.rows([row for row, key in enumerate(part.keys) if key in stored])
    views = [
        stored[key][int(name.removeprefix("view"))] for key, name in zip(part.keys, part.views, strict=True)
    ]
    return ViewVectors(
        part, tuple(view.projection for view in views), tuple(dict(view.facts) for view in views)
    )


def chosen_keys(keys: Iterable[str], most: int, seed: int) -> list[str]:
    """At most `most` of the keys, in the order of their hashes: it does not depend on their order, nor on others."""
    return sorted(set(keys), key=lambda key: key_hash(key, seed))[:most]


def key_hash(key: str, seed: int) -> int:
    """A number that depends on a key and the seed alone."""
    return stable_hash(f"{seed}:{key}")


def pair_name(one: str, other: str) -> str:
    """The name of two projections, whichever comes first.

    >>> pair_name("LLAT", "VD")
    'VD-LLAT'
    """
    return "-".join(sorted((one, other), key=PROJECTIONS.index))


def ordered_pairs(names: Iterable[str]) -> list[str]:
    """`all` first, then pairs in the order of PROJECTIONS."""
    return sorted(
        names, key=lambda row: [PROJECTIONS.index(name) for name in row.split("-") if name != "all"]
    )
