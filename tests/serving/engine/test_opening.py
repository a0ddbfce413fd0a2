"""An engine opens with galleries of its backbones, or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from vetdino.platform.core.errors import ConfigError, GalleryError
from vetdino.platform.core.location import Location
from vetdino.platform.measure.descriptors import Descriptor
from vetdino.platform.measure.extraction import extract
from vetdino.platform.models.loading import load
from vetdino.serving.config import Limits, ServiceConfig
from vetdino.serving.engine.opening import open_engine
from vetdino.serving.gallery.build import FeaturesSource, build


def config(folder, gallery, **changes):
    return ServiceConfig(backbones=(folder / "backbone0",), galleries=(gallery,), **changes)


def test_an_engine_with_its_gallery_is_ready(folder, gallery):
    engine = open_engine(config(folder, gallery))
    try:
        assert asyncio.run(engine.problems()) == []
        assert engine.browser is None
    finally:
        engine.close()
    assert asyncio.run(engine.problems()) == [
        "the decoding processes have ended",
        "backbone 0 does not answer",
    ]


def test_a_gallery_of_another_backbone_is_refused_with_both_digests(folder, gallery):
    with pytest.raises(GalleryError) as refusal:
        open_engine(replace(config(folder, gallery), backbones=(folder / "backbone1",)))
    for number in (0, 1):
        assert load(folder / f"backbone{number}").card.digest[:12] in str(refusal.value)
    assert "vetdino index build" in str(refusal.value)


def test_a_backbone_that_computes_something_else_by_now_is_refused(folder, tmp_path):
    features = extract(load(folder / "backbone0"), folder / "shards", ["test"])
    probes = replace(features.probes, vectors=np.roll(features.probes.vectors, 1, axis=1))
    build(FeaturesSource(replace(features, probes=probes)), tmp_path / "gallery")
    with pytest.raises(GalleryError, match="cosine"):
        open_engine(config(folder, tmp_path / "gallery"))


def test_the_gallery_says_how_vectors_are_pooled(folder, tmp_path):
    features = extract(load(folder / "backbone0"), folder / "shards", ["test"], pool="cls+mean", blocks=2)
    build(FeaturesSource(features), tmp_path / "gallery")
    engine = open_engine(config(folder, tmp_path / "gallery"))
    try:
        assert engine.models[0].card.dimensions == features.vectors.shape[1] == 144
        assert engine.models[0].descriptor == Descriptor("cls+mean", 2)
    finally:
        engine.close()


def test_settings_that_contradict_are_refused_first(folder, gallery):
    with pytest.raises(ConfigError, match="2 galleries for 1 backbones"):
        open_engine(replace(config(folder, gallery), galleries=(gallery, gallery)))
    with pytest.raises(ConfigError, match=r"limits\.queue 3 must be at least limits\.files 4"):
        open_engine(config(folder, gallery, limits=Limits(queue=3, files=4)))
    with pytest.raises(ConfigError, match=r"gallery_shards 2 .* none does"):
        open_engine(config(folder, gallery, gallery_shards=2))
    with pytest.raises(ConfigError, match="no folder here"):
        open_engine(replace(config(folder, gallery), backbones=("gone",), runs=Location(folder / "gone")))
    with pytest.raises(ConfigError, match=r"limits\.k is 0"):
        Limits(k=0)
