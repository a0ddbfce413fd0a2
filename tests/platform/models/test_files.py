"""A backbone on files: the vectors of `vetdino embed`, and patches of one image in another."""

from __future__ import annotations

import numpy as np
import pytest

import vetdino
from tests.platform.ingest.radiographs import radiograph
from vetdino.platform.core.errors import ConfigError, DicomError, FeaturesError
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.ingest import ingest
from vetdino.platform.measure.extraction import extract
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig


@pytest.fixture(scope="module")
def backbone():
    return random_backbone(
        BackboneConfig(name="vit_tiny_patch16_224", side=64, patch=8, width=48, heads=3, depth=2), 3
    ).eval()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Two views of one study; the second is larger than ingest keeps."""
    folder = tmp_path_factory.mktemp("archive")
    random = np.random.default_rng(1)
    for number, shape in enumerate([(60, 80), (700, 300)]):
        pixels = random.integers(0, 4096, shape, np.uint16)
        dataset = radiograph(pixels, SOPInstanceUID=f"2.25.{number}", ViewPosition=["VD", "LLAT"][number])
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


def test_a_study_of_files_has_the_vector_of_its_row_in_a_feature_table(backbone, archive, tmp_path):
    ingest(archive, tmp_path / "shards", IngestConfig(val=0, test=0))
    (vector,) = extract(backbone, tmp_path / "shards", ["train"]).vectors
    paths = sorted(archive.iterdir())
    np.testing.assert_allclose(backbone.embed_study(paths), vector, rtol=0, atol=2e-6)
    contents = [path.read_bytes() for path in reversed(paths)]
    np.testing.assert_allclose(backbone.embed_study(contents), vector, rtol=0, atol=2e-6)


def test_a_patch_resembles_itself_most(backbone, archive):
    path = archive / "0.dcm"
    found = backbone.similarity(path, path, 27, k=3)
    assert found.best[0].patch == found.patch == 27
    assert found.cosines.shape == (64,)
    assert found.cosines[27] == pytest.approx(1, abs=1e-5)
    assert found.box == found.best[0].box
    by_point = backbone.similarity(path, path, (0.5, 0.5))
    left, top, right, bottom = by_point.box
    assert left <= 40 < right
    assert top <= 30 < bottom


def test_attention_is_of_a_file_or_of_pixels(backbone, archive):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40), np.uint8)
    of_pixels = backbone.attention(pixels)
    assert of_pixels.shape == (1, 3, 64)
    assert (of_pixels == backbone.attention(backbone.prepare(pixels)[None])).all()
    assert backbone.attention(archive / "0.dcm").shape == (1, 3, 64)


def test_what_is_no_study_is_refused(backbone, archive, tmp_path):
    with pytest.raises(FeaturesError, match="no files"):
        backbone.embed_study([])
    with pytest.raises(ConfigError, match="list of files"):
        backbone.embed_study(str(archive / "0.dcm"))
    with pytest.raises(DicomError, match="NOT_PICTURE"):
        backbone.embed_study([b"nonsense"])
    with pytest.raises(FileNotFoundError):
        backbone.embed_study([tmp_path / "nowhere"])
    for patch in (-1, 64, (1.0, 0.5), (0.5, -0.1)):
        with pytest.raises(ConfigError):
            backbone.similarity(archive / "0.dcm", archive / "0.dcm", patch)


def test_the_loaded_backbone_has_these(archive):
    assert vetdino.load(vetdino.SHIPPED).embed_study(sorted(archive.iterdir())).shape == (192,)
