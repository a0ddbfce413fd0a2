"""Rows of the table: which methods there are, in which order, and what their rows are called."""

from __future__ import annotations

import pytest

from vetdino.downstream.fewshot.config import FewshotConfig, FewshotEvaluateConfig
from vetdino.downstream.fewshot.learn.config import AdaptConfig
from vetdino.downstream.fewshot.method.config import ScanConfig, SliceConfig
from vetdino.downstream.fewshot.methods import (
    adapted_methods,
    backbone_methods,
    feature_methods,
    methods_by_row,
    trained_methods,
)
from vetdino.platform.core.errors import ConfigError

SETTINGS = FewshotConfig(beside=("levayz",), components_beside=("all",))


def test_baselines_come_last_in_the_main_settings_alone(pixels):
    methods = feature_methods({"mine": pixels}, SETTINGS, {"pixels": pixels})
    rows = [(one.source, one.compat, len(one.components), one.baseline) for one in methods]
    assert rows == [
        ("mine", "ours", 2, False),
        ("mine", "levayz", 2, False),
        ("pixels", "ours", 1, True),
        ("copy", "", 1, True),
        ("oracle", "ours", 1, True),
        ("oracle", "levayz", 1, True),
    ]


def test_extra_methods_stand_between_sources_and_baselines(pixels):
    [extra] = feature_methods({"extra": pixels}, FewshotConfig(floors=()))
    methods = feature_methods({"mine": pixels}, FewshotConfig(floors=("copy",)), extra=[extra])
    assert [one.source for one in methods] == ["mine", "extra", "copy"]


def test_rows_are_named_for_what_differs_from_the_main_row(pixels):
    config = FewshotConfig(beside=("levayz",), components_beside=("1",), shots=(1, 2))
    assert list(methods_by_row(feature_methods({"mine": pixels}, config), config)) == [
        "mine, 1 shot",
        "mine, 1 shot, components 1",
        "mine, 2 shots",
        "mine, 2 shots, components 1",
        "mine, levayz, 1 shot",
        "mine, levayz, 1 shot, components 1",
        "mine, levayz, 2 shots",
        "mine, levayz, 2 shots, components 1",
        "copy, 1 shot",
        "copy, 2 shots",
        "oracle",
        "oracle, levayz",
    ]


def test_two_rows_of_one_name_are_refused(pixels):
    with pytest.raises(ConfigError, match="'copy'"):
        methods_by_row(feature_methods({"copy": pixels}, FewshotConfig()), FewshotConfig())


def test_slices_are_smoothed_in_our_mode_only_and_only_where_asked_for(pixels):
    methods = feature_methods({"mine": pixels}, SETTINGS, {"pixels": pixels})
    smooth = {(one.source, one.compat): one.refinement.get("smooth") for one in methods}
    assert {name for name, deviation in smooth.items() if deviation} == {("mine", "ours"), ("pixels", "ours")}
    unsmoothed = FewshotConfig(scan=ScanConfig(smooth=0.0))
    assert not any(one.refinement.get("smooth") for one in feature_methods({"mine": pixels}, unsmoothed))


def test_margins_are_spread_in_our_mode_only_and_only_where_asked_for(pixels):
    methods = feature_methods({"mine": pixels}, SETTINGS, {"pixels": pixels})
    assert {(one.source, one.compat) for one in methods if one.spread_over} == {
        ("mine", "ours"),
        ("pixels", "ours"),
    }
    as_they_are = FewshotConfig(scan=ScanConfig(spread=False))
    assert not any(one.spread_over for one in feature_methods({"mine": pixels}, as_they_are))


def test_backbones_come_with_random_weights_and_pixels_unless_they_are_a_source(tiny):
    config = FewshotConfig(slices=SliceConfig(grid=4))
    methods = backbone_methods({"net": tiny}, config)
    assert [one.source for one in methods] == ["net", "random", "pixels", "copy", "oracle"]
    methods = backbone_methods({"net": tiny, "pixels": None}, config)
    assert [one.source for one in methods] == ["net", "pixels", "random", "copy", "oracle"]


def test_adapted_rows_need_steps():
    encoder_for = {"encoder": lambda _: None}
    assert adapted_methods(encoder_for, FewshotEvaluateConfig()) == []
    config = FewshotEvaluateConfig(adapt=AdaptConfig(steps=2), shots=(1, 3), components_beside=("all",))
    methods = adapted_methods(encoder_for, config)
    assert [(one.source, one.shots, one.components) for one in methods] == [
        ("encoder, adapted", 1, ("n", "all")),
        ("encoder, adapted", 3, ("n", "all")),
    ]


def test_trained_encoders_need_their_backbone(tmp_path, organ_scan, organ_volumes):
    volumes = organ_volumes(organ_scan(0))
    assert trained_methods(volumes, {"pixels": None}, [], FewshotConfig()) == ([], {})
    with pytest.raises(ConfigError, match="need the backbone"):
        trained_methods(volumes, {"pixels": None}, [tmp_path], FewshotConfig())


def test_encoders_of_another_backbone_are_refused(tmp_path, tiny, organ_scan, organ_volumes):
    (tmp_path / "encoders.json").write_text('{"backbone": {"digest": "0123456789abcdef"}}')
    with pytest.raises(ConfigError, match="0123456789ab"):
        trained_methods(organ_volumes(organ_scan(0)), {"net": tiny}, [tmp_path], FewshotConfig())
