"""The card of a gallery comes back as it was, and only as it was."""

from __future__ import annotations

import json

import pytest

from tests.serving.gallery.tables import table
from vetdino.platform.core.errors import GalleryError
from vetdino.serving.gallery.bundle import current_version
from vetdino.serving.gallery.manifest import MANIFEST, GalleryManifest, read_manifest, short_digest


def rewritten(version, change):
    """The version's folder under the name that a changed manifest asks for."""
    text = json.loads((version / MANIFEST).read_text())
    content = json.dumps({**text, **change}).encode()
    import hashlib

    (version / MANIFEST).write_bytes(content)
    return version.rename(version.with_name(f"000009-{short_digest(hashlib.sha256(content).hexdigest())}"))


def test_it_says_what_the_gallery_was_made_from(made):
    features = table()
    manifest = read_manifest(current_version(made(features)))
    assert (manifest.backbone, manifest.data) == (features.backbone, (features.manifest,))
    assert (manifest.level, manifest.dimensions, manifest.findings) == ("study", 6, ("mass", "fluid"))
    assert (manifest.rows, manifest.count, manifest.factory, manifest.metric) == (12, 12, "Flat", "cosine")
    assert manifest.projections == ("LLAT", "RLAT", "VD")
    assert (manifest.recall.k, manifest.recall.queries, manifest.recall.value) == (10, 12, 1.0)
    assert sorted(manifest.files) == ["index.faiss", "meta.sqlite", "vectors.f16.npy"]


def test_the_probes_come_back(made):
    features = table()
    stored = read_manifest(current_version(made(features))).stored_probes()
    assert stored.pictures == features.probes.pictures
    assert stored.cosines(features.probes.vectors).min() > 0.999999


def test_the_same_rows_make_the_same_manifest(made):
    one, other = (current_version(made()) for _ in range(2))
    assert one.name == other.name
    assert (one / MANIFEST).read_bytes() == (other / MANIFEST).read_bytes()


def test_a_changed_manifest_is_refused(made):
    version = current_version(made())
    text = (version / MANIFEST).read_text()
    (version / MANIFEST).write_text(text.replace('"value": 1.0', '"value": 0.5'))
    with pytest.raises(GalleryError, match="not what was written"):
        read_manifest(version)


@pytest.mark.parametrize(
    ("change", "fact"), [({"version": 2}, "version 2"), ({"colour": "red"}, "another version of vetdino")]
)
def test_another_format_is_refused_in_one_line(made, change, fact):
    version = rewritten(current_version(made()), change)
    with pytest.raises(GalleryError, match=fact) as refusal:
        read_manifest(version)
    assert "\n" not in str(refusal.value)


def test_its_digest_is_that_of_its_file(made):
    version = current_version(made())
    manifest = read_manifest(version)
    assert manifest.encoded == (version / MANIFEST).read_bytes()
    assert version.name == f"000001-{short_digest(manifest.digest)}"
    assert isinstance(manifest, GalleryManifest)
