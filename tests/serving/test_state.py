"""The answers of the app, without HTTP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vetdino.platform.core.errors import ConfigError, FeaturesError, GalleryError
from vetdino.platform.measure.extraction import extract
from vetdino.platform.measure.features import save_features
from vetdino.serving.state import AppState
from vetdino.serving.studies import NotHereError


def test_every_backbone_has_its_label(state):
    labels = [backbone["label"] for backbone in state.info()["backbones"]]
    assert labels == [
        "shipped: pretrained on drawings",
        "just trained by this test",
        "random weights, seed 0",
    ]


def test_similar_studies_are_of_other_patients(state):
    names = [match["study"] for match in state.neighbors(0, ("test", 0))]
    assert sorted(names) == ["test-2", "test-3", "test-4"]


def test_the_similarity_of_two_views_has_a_row_per_patch_and_a_header(state):
    matrix, header = state.similarity(0, [(("test", 0), 0), (("test", 0), 2)])
    rows = np.frombuffer(matrix, np.uint8).reshape(128, 128)
    assert (rows.diagonal() == 255).all()
    assert -1 <= header["low"] < header["high"] <= 1.001
    assert [(view["height"], view["width"]) for view in header["views"]] == [(240, 160), (140, 230)]
    assert [len(view["boxes"]) for view in header["views"]] == [64, 64]


@pytest.mark.parametrize("head", ["mean", "all", "0", "2"])
def test_attention_is_a_jpeg(state, head):
    assert state.attention(0, ("test", 0), 0, head, 64).startswith(b"\xff\xd8")


@pytest.mark.parametrize("head", ["3", "-1", "most"])
def test_an_unknown_head_is_refused(state, head):
    with pytest.raises(NotHereError, match=f"head {head}"):
        state.attention(0, ("test", 0), 0, head, 64)


def test_given_features_are_used_and_those_of_another_backbone_refused(state, folder, config_with, tmp_path):
    table = tmp_path / "features.parquet"
    save_features(extract(state.encoders[0].backbone, folder / "shards", ["test"]), table)
    given = AppState(config_with(features=(table,), backbones=(folder / "backbone0",)))
    assert given.neighbors(0, ("test", 1)) == state.neighbors(0, ("test", 1))
    with pytest.raises(GalleryError) as refusal:
        AppState(config_with(features=(table,), backbones=(folder / "backbone1",)))
    for encoder in state.encoders[:2]:
        assert encoder.backbone.card.digest[:12] in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"side": 33}, "side 33 is not a multiple of"),
        ({"features": (Path("gone.parquet"),)}, "no feature table here"),
        ({"split": "train", "backbones": ("nowhere",)}, "split train holds no studies"),
    ],
)
def test_nothing_is_embedded_before_all_settings_are_known_to_fit(changes, fact, config_with, monkeypatch):
    def embedding(*given, **more):
        raise AssertionError("embedded too early")

    monkeypatch.setattr("vetdino.platform.measure.extraction.extract", embedding)
    with pytest.raises((ConfigError, FeaturesError), match=fact):
        AppState(config_with(**changes))


def test_a_limit_shows_fewer_studies(folder, config_with):
    small = AppState(config_with(limit=2, backbones=(folder / "backbone0",)))
    assert small.info()["studies"] == ["test-0", "test-1"]


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"split": "train"}, "split train"),
        ({"backbones": ("random",)}, "backbone folder first"),
        ({"backbones": ()}, "backbone folder first"),
        ({"features": (Path("a"),) * 4}, "4 feature tables for 3 backbones"),
    ],
)
def test_settings_that_cannot_be_shown_are_refused(config_with, changes, fact):
    with pytest.raises(ConfigError, match=fact):
        AppState(config_with(**changes))
