"""The card of a gallery: what it was made from, how it is indexed, how well it finds, and what its files are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...platform.core.config import from_json, to_json
from ...platform.core.errors import ConfigError, GalleryError
from ...platform.measure.descriptors import Level
from ...platform.measure.probes import Probes
from .config import IndexChoice, IndexKind

VERSION = 1
MANIFEST = "manifest.json"
INDEX, VECTORS, METADATA, TAIL = "index.faiss", "vectors.f16.npy", "meta.sqlite", "tail.f16.npy"
"""Files of a version: FAISS index and vectors of the rows that it was built from, what is known of all rows, and the
vectors of rows that were added since."""


class DamagedGalleryError(GalleryError):
    """A gallery, or a file of it, that is missing or not what was written."""


class BackboneMismatchError(GalleryError):
    """Vectors of another backbone. plain: the message without the paths of this machine."""

    def __init__(self, message: str, plain: str = "") -> None:
        super().__init__(message)
        self.plain = plain or message


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """One file of a version; sha256 in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRecall:
    """The share of the k nearest that the index finds, over queries that are vectors of the gallery.

    Measured when the index is built, against exact search over the same vectors, each query itself left out.
    """

    k: int
    queries: int
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryManifest:
    """What manifest.json says. Rows are numbered from 0; the first `indexed` are in the index, `tail` follow them."""

    version: int = VERSION
    backbone: str
    """Digest of weights, architecture and preprocessing, followed by how tokens were pooled where not by default."""
    level: Level
    dimensions: int
    data: tuple[str, ...]
    """Digests of the shards' manifests, in the order of their tables."""
    findings: tuple[str, ...]
    projections: tuple[str, ...]
    """Those that occur, sorted; () where the tables did not say."""
    index: IndexChoice = "auto"
    """What was chosen for the index; `kind` is what came of it."""
    kind: IndexKind
    factory: str
    """FAISS's name for the index."""
    metric: str = "cosine"
    lists: int = 0
    """Lists of an ivf index."""
    nprobe: int = 0
    """Lists that a search scans (ivf), or its candidates in the graph (hnsw)."""
    rerank: int = 0
    """Candidates of the index that are scored again exactly for up to ten matches; 0: every row is."""
    indexed: int
    tail: int = 0
    deleted: int = 0
    """Rows that are still in the files but never found."""
    recall: MeasuredRecall
    probes: Mapping[str, Any]
    """`Probes.to_json` of the backbone."""
    faiss: str
    """Version of FAISS that wrote the index."""
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of the files, deleted ones included."""
        return self.indexed + self.tail

    @property
    def count(self) -> int:
        """Rows that can be found."""
        return self.rows - self.deleted

    @property
    def encoded(self) -> bytes:
        """The text of manifest.json."""
        return to_json(self).encode()

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal over manifest.json, and so over all files."""
        return hashlib.sha256(self.encoded).hexdigest()

    def stored_probes(self) -> Probes:
        """The probes with their vectors."""
        return Probes.from_json(self.probes)

    def summary(self) -> str:
        """One line for people.

        >>> recall = MeasuredRecall(k=10, queries=256, value=0.9971)
        >>> GalleryManifest(backbone="4f2a", level="study", dimensions=384, data=(), findings=(), projections=(),
        ...     kind="flat", factory="Flat", indexed=12, recall=recall, probes={}, faiss="1.15.1").summary()
        '12 studies, 384 dimensions, Flat, recall@10 0.997, backbone 4f2a'
        """
        things = "studies" if self.level == "study" else "views"
        parts = [f"{self.count:,} {things}", f"{self.dimensions} dimensions", self.factory]
        parts += [f"{self.tail:,} added since"] * bool(self.tail)
        parts += [f"{self.deleted:,} deleted"] * bool(self.deleted)
        parts += [f"recall@{self.recall.k} {self.recall.value:.3f}", f"backbone {self.backbone[:12]}"]
        return ", ".join(parts)


def read_manifest(version: Path) -> GalleryManifest:
    """The manifest of one version's folder, which ends in the manifest's digest.

    Raises FileNotFoundError where there is none, GalleryError where it is damaged or of another format.
    """
    path = version / MANIFEST
    content = path.read_bytes()
    if not version.name.endswith(short_digest(hashlib.sha256(content).hexdigest())):
        raise DamagedGalleryError(
            f"{path}: not what was written; build the gallery again with `vetdino index build`"
        )
    try:
        manifest = from_json(GalleryManifest, content.decode(), str(path))
    except (ConfigError, UnicodeDecodeError):
        raise DamagedGalleryError(
            f"{path}: of another version of vetdino; build the gallery again with `vetdino index build`"
        ) from None
    if manifest.version != VERSION:
        raise DamagedGalleryError(
            f"{path}: version {manifest.version}, this vetdino reads {VERSION}; build it again"
        )
    return manifest


def short_digest(digest: str) -> str:
    """The part of a manifest's digest that its folder is named after."""
    return digest[:16]
