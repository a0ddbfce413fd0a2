"""Drawn feature tables, and a search through them in plain loops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vetdino.platform.measure.features import Features
from vetdino.platform.measure.neighbors import unit_vectors
from vetdino.platform.measure.probes import Probes, probe_pictures
from vetdino.serving.gallery.gallery import GalleryMatch

BACKBONE = "a" * 64
PICTURES = probe_pictures()
VIEWS = ("LLAT", "RLAT", "VD")


def table(count: int = 12, width: int = 6, seed: int = 0, *, patients: int = 5, kinds: int = 0) -> Features:
    """Random unit vectors with everything that is known of them; findings `mass`, `fluid`.

    kinds: so many different vectors (0: all differ), so that there are ties.
    """
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(kinds or count, width)).astype(np.float32)
    if kinds:
        vectors = vectors[random.integers(kinds, size=count)]
    chosen = [random.permutation(VIEWS)[: random.integers(1, 4)] for _ in range(count)]
    return Features(
        keys=tuple(f"key{row}" for row in range(count)),
        patients=tuple(f"patient{random.integers(patients)}" for _ in range(count)),
        splits=tuple(random.choice(["train", "val", "test"], size=count).tolist()),
        views=("",) * count,
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        findings=("mass", "fluid"),
        labels=random.choice([0.0, 1.0, np.nan], size=(count, 2)).astype(np.float32),
        backbone=BACKBONE,
        manifest="c" * 64,
        projections=tuple(" ".join(sorted(views)) for views in chosen),
        probes=probes(width),
    )


def probes(width: int, seed: int = 0) -> Probes:
    """Probes with random vectors."""
    return Probes(PICTURES, np.random.default_rng(seed).normal(size=(8, width)).astype(np.float32))


def joined(one: Features, other: Features) -> Features:
    """The rows of two tables."""
    return replace(
        one,
        **{
            name: getattr(one, name) + getattr(other, name)
            for name in ("keys", "patients", "splits", "views", "projections")
        },
        vectors=np.concatenate([one.vectors, other.vectors]),
        labels=np.concatenate([one.labels, other.labels]),
    )


def renamed(features: Features, prefix: str) -> Features:
    """The table with other keys."""
    return replace(features, keys=tuple(prefix + key for key in features.keys))


def kept(features: Features) -> Features:
    """The table with the vectors that a gallery keeps of it: made length 1, then rounded to float16."""
    return replace(features, vectors=unit_vectors(features.vectors).astype(np.float16).astype(np.float32))


Found = list[tuple[str, float]]


def slow_search(
    features: Features,
    query: np.ndarray,
    k: int,
    *,
    exclude_patient: str | None = None,
    findings: Mapping[str, bool] | None = None,
    projections: Sequence[str] | None = None,
    split: str | None = None,
) -> Found:
    """(key, cosine) of the k best rows: every row looked at in turn, sums by math.fsum. query: (D,) float32."""
    scored = []
    unit = query.tolist()
    for row in range(len(features)):
        if exclude_patient is not None and features.patients[row] == exclude_patient:
            continue
        if split is not None and features.splits[row] != split:
            continue
        if projections and not any(name in features.projections[row].split() for name in projections):
            continue
        labels = dict(zip(features.findings, features.labels[row].tolist(), strict=True))
        if any(labels[name] != float(present) for name, present in (findings or {}).items()):
            continue
        stored = [float(x) for x in features.vectors[row].astype(np.float16)]
        product = math.fsum(a * b for a, b in zip(stored, unit, strict=True))
        length = math.sqrt(math.fsum(a * a for a in stored) * math.fsum(b * b for b in unit))
        scored.append((-float(np.float32(product / length)), row))
    return [(features.keys[row], -score) for score, row in sorted(scored)[:k]]


def found(matches: list[GalleryMatch]) -> Found:
    """(key, cosine) of the matches of one query."""
    return [(match.item.key, match.score) for match in matches]
