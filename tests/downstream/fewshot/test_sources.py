"""Sources of features by name, baselines, and what a folder of trained encoders says of itself."""

from __future__ import annotations

import json

import pytest
import torch

from vetdino.downstream.fewshot.config import FewshotConfig
from vetdino.downstream.fewshot.method.config import SliceConfig
from vetdino.downstream.fewshot.method.pixel_features import PixelFeatures
from vetdino.downstream.fewshot.method.token_features import LayerTokens, TokenFeatures
from vetdino.downstream.fewshot.sources import (
    baseline_features,
    load_source,
    load_sources,
    slice_features,
    trained_backbone_digest,
    trained_data_digest,
)
from vetdino.platform.core.errors import CheckpointError
from vetdino.platform.models.saving import save_backbone

CONFIG = FewshotConfig(slices=SliceConfig(grid=4))


def test_pixels_are_a_source_without_a_backbone(tiny, tmp_path):
    assert load_source("pixels") is None
    save_backbone(tmp_path / "net", tiny)
    backbones = load_sources(["pixels", tmp_path / "net", "pixels"])
    assert list(backbones) == ["pixels", "net"]
    assert backbones["pixels"] is None
    assert backbones["net"].card.digest == load_source(tmp_path / "net").card.digest


def test_features_are_tokens_of_a_backbone_or_pixels(tiny):
    assert isinstance(slice_features(tiny, CONFIG), LayerTokens)
    for slices in (SliceConfig(grid=4, layers=(-1,)), SliceConfig(grid=4, debias=1)):
        assert isinstance(slice_features(tiny, FewshotConfig(slices=slices)), TokenFeatures)
    assert isinstance(slice_features(None, CONFIG), PixelFeatures)


def test_random_weights_have_the_first_networks_shape_and_follow_from_the_seed(tiny):
    baselines = [baseline_features({"pixels": None, "net": tiny}, CONFIG) for _ in range(2)]
    assert [list(one) for one in baselines] == [["random"]] * 2
    first, again = (dict(one["random"].backbone.named_parameters()) for one in baselines)
    weights = dict(tiny.named_parameters())
    assert {name: value.shape for name, value in first.items()} == {
        name: value.shape for name, value in weights.items()
    }
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], weights[name]) for name in first)


def test_baselines_are_those_asked_for(tiny):
    assert list(baseline_features({"net": tiny}, CONFIG)) == ["random", "pixels"]
    assert list(baseline_features({"pixels": None}, CONFIG)) == []
    assert baseline_features({"net": tiny}, FewshotConfig(floors=("copy",))) == {}


def test_trained_encoders_name_their_backbone_and_data(tmp_path):
    with pytest.raises(CheckpointError, match="missing or damaged"):
        trained_data_digest(tmp_path)
    (tmp_path / "encoders.json").write_text(json.dumps({"backbone": {"digest": "abc"}, "data": "def"}))
    assert trained_backbone_digest(tmp_path) == "abc"
    assert trained_data_digest(tmp_path) == "def"
