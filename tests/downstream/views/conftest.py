"""Studies whose views share a bright bar, in shards, and a tiny backbone."""

from types import SimpleNamespace

import numpy as np
import pytest

from vetdino.downstream.common.sources import SourceFactory
from vetdino.downstream.views.pairs import SYNTHESIZED
from vetdino.downstream.views.truth import TruthArchive, patch_truth
from vetdino.downstream.views.vectors import ViewVectors
from vetdino.platform.archive.discovery import DecodeTask, ListedFile
from vetdino.platform.data.manifest import VERSION, Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import DecodeResult, decode
from vetdino.platform.measure.features import Features
from vetdino.platform.measure.neighbors import unit_vectors
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.saving import save_backbone
from vetdino.platform.phantom.config import PhantomConfig
from vetdino.platform.phantom.dog import archive as generator
from vetdino.platform.phantom.dog.archive import write_radiographs
from vetdino.platform.phantom.dog.studies import dicom_uid

TINY = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=1, heads=2)


def drawn(number, projection):
    """A view of study `number`: a bright bar whose place and strength all views of the study share."""
    random = np.random.default_rng([number, SYNTHESIZED.index(projection)])
    shared = np.random.default_rng(number)
    at, strength = int(shared.integers(2, 22)), int(shared.integers(60, 200))
    pixels = random.integers(0, 20, (32, 24)).astype(np.uint8)
    pixels[at : at + 8] += np.uint8(strength)
    return View(pixels if projection in ("VD", "DV") else pixels.T.copy(), projection)


def study(number, split="train", projections=("VD", "LLAT"), patient=None):
    views = tuple(drawn(number, projection) for projection in projections)
    return Study(f"k{number}", patient or f"p{number // 2}", views, {}, split)


def shards(folder, studies):
    studies, written = list(studies), []
    for split in ("train", "val", "test"):
        with ShardWriter(folder, split) as writer:
            for one in studies:
                if one.split == split:
                    writer.write(one)
        written += writer.shards
    save_manifest(folder, Manifest(VERSION, "bars", (), tuple(written), {}, "c"))
    return folder


def many(train=100, val=16, test=32, projections=("VD", "LLAT")):
    """Studies of all splits; every patient has two."""
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    for number, split in enumerate(splits):
        yield study(number, split, projections)


@pytest.fixture(scope="session")
def bars():
    """The builders of this module, for tests."""
    return SimpleNamespace(TINY=TINY, drawn=drawn, study=study, shards=shards, many=many)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    save_backbone(folder, random_backbone(TINY, seed=3))
    return folder


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("bars"), many())


@pytest.fixture(scope="session")
def source(tmp_path_factory, backbone, place):
    return SourceFactory(place, tmp_path_factory.mktemp("tables")).backbone("tiny", backbone)


KEY = b"a key of sixteen bytes"
CONFIG = PhantomConfig(studies=4, side=96, seed=3, workers=1)


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """Studies of 96 pixels whose maps are three times as coarse, and the key file of their shards."""
    place = tmp_path_factory.mktemp("truth")
    (place / "secret").write_bytes(KEY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "TRUTH_SIDE", 40)
        write_radiographs(place / "archive", CONFIG)
    return place


@pytest.fixture(scope="session")
def studies(archive):
    """As ingest leaves them, shrunk to 80 pixels; number of the study -> Study."""
    config = IngestConfig()
    config = IngestConfig(dicom=type(config.dicom)(side=80))
    found = {}
    for number in range(CONFIG.studies):
        (home,) = (archive / "archive" / "dicom").glob(f"*/{dicom_uid(CONFIG, 'study', number)}")
        parts = [
            decode(home, ListedFile(DecodeTask(path.name)), KEY, config) for path in sorted(home.iterdir())
        ]
        assert not any(part.code for part in parts), [part.code for part in parts]
        found[number] = study_of(parts)
    return found


def study_of(parts: list[DecodeResult]) -> Study:
    return Study(parts[0].study, parts[0].patient, tuple(part.view for part in parts), split="test")


@pytest.fixture(scope="session")
def truths(archive):
    return TruthArchive(archive / "archive", archive / "secret")


@pytest.fixture(scope="session")
def laid(truths, studies):
    """(view, map, patches of 8 pixels on a square of 64) of all views of the longest study."""
    study = max(studies.values(), key=lambda study: len(study.views))
    return [(view, truth, patch_truth(view, truth, 64, 8)) for view, truth in truths.views(study)]


def view_vectors_of(vectors, keys, projections, patients=None, split="test", labels=None, facts=None):
    """Rows of view vectors; a study is its own patient unless `patients` says otherwise."""
    seen, names = {}, []
    for key in keys:
        names.append(f"view{seen.setdefault(key, 0)}")
        seen[key] += 1
    labels = np.empty((len(keys), 0), np.float32) if labels is None else np.asarray(labels, np.float32)
    features = Features(
        keys=tuple(keys),
        patients=tuple(patients or (f"p{key}" for key in keys)),
        splits=(split,) * len(keys),
        views=tuple(names),
        vectors=unit_vectors(vectors),
        findings=tuple(f"finding{column}" for column in range(labels.shape[1])),
        labels=labels,
        backbone="b",
        manifest="m",
    )
    return ViewVectors(features, tuple(projections), tuple(facts or ({},) * len(keys)))


@pytest.fixture(scope="session")
def make_views():
    """`view_vectors_of`, for tests that make up vectors."""
    return view_vectors_of


@pytest.fixture(scope="session")
def by_name():
    """(metric, row) -> figure, of a measurement."""
    return lambda measured: {(one.metric, one.finding): one for one in measured.values}
