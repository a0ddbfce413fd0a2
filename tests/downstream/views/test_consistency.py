"""Consistency of a backbone on generated studies: all four measures, and what is left out or refused."""

from dataclasses import replace

import pytest

from vetdino.downstream.common.config import SourceConfig
from vetdino.downstream.common.sources import SourceFactory
from vetdino.downstream.views.config import ConsistencyConfig
from vetdino.downstream.views.consistency import consistency
from vetdino.platform.archive.discovery import DecodeTask, ListedFile
from vetdino.platform.core.errors import DataError, FeaturesError
from vetdino.platform.data.manifest import VERSION, Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import decode
from vetdino.platform.ingest.pseudonyms import split_of
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.saving import save_backbone
from vetdino.platform.phantom.config import PhantomConfig
from vetdino.platform.phantom.dog.archive import write_radiographs

pytestmark = pytest.mark.slow

KEY = b"a key of sixteen bytes"
PHANTOM = PhantomConfig(studies=14, side=64, seed=5, workers=1)
INGEST = IngestConfig(val=0.0, test=0.3)
TINY = BackboneConfig(name="vit_tiny_patch16_224", side=64, patch=8, width=48, depth=1, heads=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """archive, shards and their key, and a backbone at random weights."""
    place = tmp_path_factory.mktemp("consistency")
    write_radiographs(place / "archive", PHANTOM)
    (place / "shards.secret").write_bytes(KEY)
    studies = []
    for home in sorted((place / "archive" / "dicom").glob("*/*")):
        parts = [
            decode(home, ListedFile(DecodeTask(path.name)), KEY, INGEST) for path in sorted(home.iterdir())
        ]
        views = tuple(part.view for part in parts)
        studies.append(
            Study(parts[0].study, parts[0].patient, views, split=split_of(KEY, parts[0].patient, INGEST))
        )
    write(place / "shards", studies)
    save_backbone(place / "backbone", random_backbone(TINY, seed=0))
    return place


def write(folder, studies):
    folder.mkdir(exist_ok=True)
    written = []
    for split in ("train", "val", "test"):
        with ShardWriter(folder, split) as writer:
            for study in studies:
                if study.split == split:
                    writer.write(study)
        written += writer.shards
    save_manifest(folder, Manifest(VERSION, "phantom", (), tuple(written), {}, "c"))


def sources(place, shards="shards"):
    return SourceFactory(
        place / shards, place / f"features-{shards}", SourceConfig(pixel_side=8, components=3, workers=1)
    )


def ask(place, source, shards="shards", **settings):
    config = ConsistencyConfig(**{"truth": place / "archive", "patches": 8, "pixel_side": 64, **settings})
    return consistency(source, place / shards, config, resamples=50)


@pytest.fixture(scope="module")
def measured(place):
    return ask(place, sources(place).backbone("ours", place / "backbone"))


def test_a_backbone_is_measured_in_all_four_ways(measured, by_name):
    figures = by_name(measured)
    for metric in (
        "recall_at_10",
        "mrr",
        "patch_hit_at_1",
        "patch_error_cm_oracle",
        "patch_answerable",
        "attention_auc",
    ):
        figure = figures[metric, "all"]
        assert figure.source == "ours"
        assert figure.low <= figure.value <= figure.high
    assert figures["patch_error_cm_oracle", "all"].value < figures["patch_error_cm", "all"].value
    assert 0 <= figures["leak_balanced_accuracy", "projection"].value <= 1
    assert measured.facts["views_without_truth"] == 0
    assert measured.facts["heads"] == 3
    assert measured.pictures["attention_ours.png"].startswith(b"\x89PNG")


def test_the_figures_do_not_depend_on_the_order_of_studies(place, measured, by_name):
    from vetdino.platform.data.shards import read

    studies = [study for split in ("train", "val", "test") for study in read(place / "shards", split)]
    write(place / "turned", studies[::-1])
    settings = {"secret": place / "shards.secret"}
    again = ask(place, sources(place, "turned").backbone("ours", place / "backbone"), "turned", **settings)
    assert by_name(again).keys() == by_name(measured).keys()
    for name, figure in by_name(again).items():
        assert figure.value == pytest.approx(by_name(measured)[name].value, abs=1e-6), name


def test_pixels_answer_with_patches_but_have_no_heads_and_components_have_neither(place, by_name):
    pixels = ask(place, sources(place).pixels())
    assert ("patch_hit_at_1", "all") in by_name(pixels)
    assert pixels.left_out["attention"] == "it has no heads"
    assert pixels.pictures == {}
    components = ask(place, sources(place).pca())
    assert ("recall_at_10", "all") in by_name(components)
    assert "no patches" in components.left_out["patches"]


def test_without_truth_patches_and_attention_are_named(place, by_name):
    without = ask(place, sources(place).pixels(), truth=None)
    assert without.left_out.keys() >= {"patches", "attention"}
    assert ("recall_at_10", "all") in by_name(without)


def test_truth_of_other_studies_is_refused_without_a_name(place, tmp_path):
    (tmp_path / "secret").write_bytes(b"quite another secret")
    with pytest.raises(DataError, match="truth of none of the") as error:
        ask(place, sources(place).pixels(), secret=tmp_path / "secret")
    assert "2.25." not in str(error.value)
    assert "K9-" not in str(error.value)


def test_a_test_split_without_studies_and_foreign_features_are_refused(place, tmp_path):
    pixels = sources(place).pixels()
    write(tmp_path / "empty", [])
    with pytest.raises(FeaturesError, match="other shards"):
        consistency(pixels, tmp_path / "empty", ConsistencyConfig(), resamples=10)
    features = pixels.features(level="view")
    kept = replace(
        pixels, folder=tmp_path, extract=lambda descriptors: [features.of("train")] * len(descriptors)
    )
    with pytest.raises(FeaturesError, match="no studies in the test split"):
        consistency(kept, place / "shards", ConsistencyConfig(), resamples=10)
