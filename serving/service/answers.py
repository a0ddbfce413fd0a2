"""The engine's results as the JSON that `schemas` describes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...platform.data.study import StoredView, View
from ...platform.models.similarity import PatchGrid
from ..engine.engine import ShownMatch
from ..engine.errors import RefusedError
from ..gallery.manifest import GalleryManifest
from ..gallery.metadata import GalleryItem
from ..studies import Place, study_name


def view_answer(view: View | StoredView) -> dict[str, str]:
    """As `ViewAnswer`."""
    return {"projection": view.projection, "laterality": view.laterality, "modality": view.modality}


def item_error(refusal: RefusedError) -> dict[str, str]:
    """The error of one item of a batch."""
    limit = {"limit": refusal.limit} if refusal.limit else {}
    return {"error": str(refusal), "error_type": refusal.kind, **limit}


def item_answer(item: GalleryItem, place: Place | None) -> dict[str, Any]:
    """A row of a gallery; its patient is left out."""
    return {
        "key": item.key,
        "view": item.view,
        "split": item.split,
        "projections": list(item.projections),
        "findings": {name: known(value) for name, value in item.findings.items()},
        "study": None if place is None else study_name(place),
    }


def known(value: float) -> bool | None:
    """A label as JSON: present, absent, or unknown."""
    return None if math.isnan(value) else value > 0.5


def match_answer(shown: ShownMatch) -> dict[str, Any]:
    """As `MatchAnswer`."""
    views = {"views": [view_answer(view) for view in shown.views]} if shown.views else {}
    return {**item_answer(shown.match.item, shown.place), "score": shown.match.score, **views}


def index_answer(manifest: GalleryManifest) -> dict[str, Any]:
    """As `IndexAnswer`."""
    return {
        "gallery": manifest.digest,
        "rows": manifest.count,
        "added": manifest.tail,
        "deleted": manifest.deleted,
    }


def gallery_answer(manifest: GalleryManifest) -> dict[str, Any]:
    """What GET /v1/info tells of a gallery."""
    return {
        **index_answer(manifest),
        "level": manifest.level,
        "vectors": manifest.backbone,
        "dimensions": manifest.dimensions,
        "index": manifest.factory,
        "recall": {"k": manifest.recall.k, "value": manifest.recall.value},
        "findings": list(manifest.findings),
        "projections": list(manifest.projections),
        "data": list(manifest.data),
    }


def grid_answer(grid: PatchGrid) -> dict[str, Any]:
    """As `GridAnswer`."""
    return {
        "height": grid.height,
        "width": grid.width,
        "side": grid.side,
        "patch": grid.patch,
        "letterbox": grid.letterbox,
    }


def missing_answer(missing: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Ranges of ids."""
    return [list(part) for part in missing]
