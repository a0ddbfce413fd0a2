"""Changes of a gallery: rows added and deleted, the rest written anew, all files verified.

Each makes a new version and puts it in use, or leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import numpy as np

from ...platform.core.errors import GalleryError
from ...platform.measure.features import Features
from .build import RowSource, fill, write_vectors
from .bundle import check_hashes, current_version, new_draft
from .config import IndexConfig
from .gallery import ALIKE, Gallery
from .manifest import INDEX, METADATA, TAIL, VECTORS, GalleryManifest, read_manifest
from .metadata import ItemFilter, Metadata, MetadataWriter
from .shard import GalleryShard, load_vectors
from .vectors import BLOCK

TAIL_UP_TO = 20_000
"""Added rows beyond which a gallery should be compacted: they are compared one by one."""


def add(bundle: Path, source: RowSource) -> GalleryManifest:
    """Adds the rows of a table after those of a gallery; they are searched exactly until it is compacted.

    Raises GalleryError where the table is of another backbone, level or findings, or a row is already there.
    """
    with new_draft(_existing(bundle)) as draft:
        version = current_version(bundle)
        manifest = read_manifest(version)
        _check_fits(bundle, manifest, source)
        for name in (INDEX, VECTORS):
            draft.link(version / name)
        tail_ND = write_vectors(draft.folder / TAIL, manifest.tail + source.rows, manifest.dimensions)
        done = manifest.tail
        if done:
            tail_ND[:done] = load_vectors(version / TAIL, manifest.tail, manifest.dimensions)
        copyfile(version / METADATA, draft.folder / METADATA)
        with MetadataWriter(draft.folder / METADATA, manifest.findings) as metadata:
            for features in source.batches():
                tail_ND[done : done + len(features)] = features.vectors
                metadata.add(features, manifest.indexed + done)
                done += len(features)
            projections = metadata.projections()
        tail_ND.flush()
        data = (*manifest.data, *(digest for digest in source.data if digest not in manifest.data))
        changed = replace(manifest, tail=done, data=data, projections=projections)
        return draft.publish(changed, known=manifest)


def delete(bundle: Path, keys: Sequence[str] = (), patients: Sequence[str] = ()) -> GalleryManifest:
    """Deletes studies (all their rows) and patients: nothing is known of them any more, and no search finds them.

    Their vectors stay in the files, without a name, until the gallery is compacted. Raises GalleryError where one is
    not there, and then deletes nothing.
    """
    if not (keys or patients):
        raise GalleryError("nothing to delete: give keys of studies or pseudonyms of patients")
    with new_draft(_existing(bundle)) as draft:
        version = current_version(bundle)
        manifest = read_manifest(version)
        metadata = Metadata(version / METADATA, manifest.findings)
        found = [metadata.of_key(key) for key in keys]
        found += [metadata.of_patient(patient) for patient in patients]
        metadata.close()
        missing = [key for key, ids in zip(keys, found, strict=False) if not len(ids)]
        if missing:
            raise GalleryError(
                f"{bundle}: no study {missing[0]} here ({len(missing)} of {len(keys)} are not)"
            )
        nobody = sum(not len(ids) for ids in found[len(keys) :])
        if nobody:
            raise GalleryError(
                f"{bundle}: {nobody} of {len(patients)} patients are not here; nothing is deleted"
            )
        gone = np.unique(np.concatenate(found))
        if len(gone) == manifest.count:
            raise GalleryError(f"{bundle}: these are all of its rows; remove the folder instead")
        for name in (INDEX, VECTORS, *([TAIL] if manifest.tail else [])):
            draft.link(version / name)
        copyfile(version / METADATA, draft.folder / METADATA)
        with MetadataWriter(draft.folder / METADATA, manifest.findings) as writer:
            writer.delete(gone.tolist())
            projections = writer.projections()
        changed = replace(manifest, deleted=manifest.deleted + len(gone), projections=projections)
        return draft.publish(changed, known=manifest)


def compact(bundle: Path) -> GalleryManifest:
    """Builds a gallery anew from its rows that can be found: the same as if it had been built from them."""
    with new_draft(_existing(bundle)) as draft:
        version = current_version(bundle)
        manifest = read_manifest(version)
        check_hashes(version, manifest)  # damage must not be given new digests
        return fill(draft, _LiveRows(version, manifest), IndexConfig(index=manifest.index))


def verify(bundle: Path) -> GalleryManifest:
    """Reads every file and compares it with its SHA-256, with the others and with the manifest. Raises GalleryError."""
    gallery = Gallery.open(bundle, verify=True)
    manifest, metadata = gallery.manifest, gallery.metadata
    try:
        if not metadata.is_sound():
            raise GalleryError(f"{gallery.version / METADATA}: damaged; build the gallery again")
        every = np.sort(np.concatenate([metadata.ids(ItemFilter(), 0, manifest.rows), metadata.deleted]))
        if metadata.count != manifest.count or not np.array_equal(every, np.arange(manifest.rows)):
            raise GalleryError(
                f"{gallery.version}: its rows are not those of its vectors; build the gallery again"
            )
    finally:
        gallery.close()
    return manifest


class _LiveRows(RowSource):
    """The rows of a gallery that can be found, with the vectors as its files hold them."""

    def __init__(self, version: Path, manifest: GalleryManifest) -> None:
        self.version, self.manifest = version, manifest
        self.rows, self.level, self.dimensions = manifest.count, manifest.level, manifest.dimensions
        self.findings, self.backbone, self.data = manifest.findings, manifest.backbone, manifest.data
        self.probes = manifest.stored_probes()

    def batches(self) -> Iterator[Features]:
        shard = GalleryShard(self.version, self.manifest, 0, 0)  # for its vectors alone
        try:
            for items in shard.metadata.all_items(BLOCK):
                vectors = shard.vectors(np.array([item.id for item in items]))
                yield Features(
                    keys=tuple(item.key for item in items),
                    patients=tuple(item.patient for item in items),
                    splits=tuple(item.split for item in items),
                    views=tuple(item.view for item in items),
                    vectors=vectors,
                    findings=self.findings,
                    labels=np.array([list(item.findings.values()) for item in items], np.float32).reshape(
                        len(items), len(self.findings)
                    ),
                    backbone=self.backbone,
                    manifest=self.data[0],
                    projections=tuple(" ".join(item.projections) for item in items),
                )
        finally:
            shard.close()


def _existing(bundle: Path) -> Path:
    """The path of a gallery. Raises GalleryError where there is none."""
    current_version(bundle)
    return bundle


def _check_fits(bundle: Path, manifest: GalleryManifest, source: RowSource) -> None:
    """Raises GalleryError where a table's rows do not belong in a gallery."""
    if source.backbone != manifest.backbone:
        raise GalleryError(
            f"{bundle}: its vectors are of backbone {manifest.backbone[:12]}, the table's of {source.backbone[:12]}; "
            "embed the shards with the gallery's backbone, or build a gallery of the table's own"
        )
    if (source.level, source.dimensions) != (manifest.level, manifest.dimensions):
        raise GalleryError(
            f"{bundle}: its rows are by {manifest.level} with {manifest.dimensions} dimensions, the table's by "
            f"{source.level} with {source.dimensions}; embed at the gallery's level"
        )
    cosines = manifest.stored_probes().cosines(source.probes.vectors)
    if source.probes.pictures == manifest.stored_probes().pictures and not cosines.min() > ALIKE:
        raise GalleryError(
            f"{bundle}: the table's backbone computed something else than the gallery's (a probe's cosine is "
            f"{cosines.min():.4f}, at least {ALIKE} is needed); embed again with the same versions of the libraries"
        )
    new = [name for name in source.findings if name not in manifest.findings]
    if new:
        raise GalleryError(
            f"{bundle}: the table has {len(new)} findings that the gallery has not, such as '{new[0]}'; build the "
            "gallery again from a table of all studies"
        )
