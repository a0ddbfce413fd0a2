"""Settings that contradict each other are refused before anything starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vetdino.platform.core.config import cli_config, from_json, to_json, with_settings
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.core.location import Location
from vetdino.platform.models.config import BackboneConfig
from vetdino.pretrain.batches.config import CropConfig, OrderConfig
from vetdino.pretrain.config import FeatureDistillationConfig, PretrainConfig, native_patch_side
from vetdino.pretrain.distillation.config import OptimConfig
from vetdino.pretrain.feature_distillation.config import FeatureLossConfig, StudentConfig
from vetdino.pretrain.recipes import recipe


def test_an_unknown_setting_is_met_with_the_nearest(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli_config(recipe("demo"), ["--crops.global-sid", "32"], "vetdino pretrain demo")
    [line] = capsys.readouterr().err.splitlines()
    assert "unknown argument --crops.global-sid; the nearest is '--crops.global-side'" in line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 65, "workers": 2}, "batch 65 cannot be divided among workers 2"),
        ({"batch": 2, "workers": 2}, "batch 2 gives some of the workers 2 fewer than 2 studies"),
        (
            {"batch": 64, "workers": 4, "min_workers": 2},
            "batch 64 cannot be divided among workers 3, which min_workers 2 allows",
        ),
        (
            {"batch": 12, "workers": 3, "min_workers": 2, "optim": OptimConfig(micro_batch=4)},
            r"optim.micro_batch 4 does not divide a worker's 6 studies \(batch 12, workers 2\)",
        ),
        ({"workers": 0}, "workers 0 must be at least 1"),
        ({"steps": 0}, "steps 0 must be at least 1"),
        ({"keep": 0}, "keep 0 must be at least 1"),
        ({"head_warmup": 1.5}, "head_warmup 1.5 is not a share of the steps, 0 to 1"),
        (
            {"backbone": BackboneConfig(name="vit_tiny_patch16_224", side=100)},
            "backbone.side 100 is not a multiple of the patch, 16; nearest is 96",
        ),
        (
            {"backbone": BackboneConfig(name="vit_tiny_patch16_224", side=126, patch=14)},
            "crops.global_side 128 is not a multiple of the backbone's patch, 14; nearest is 126",
        ),
        ({"backbone": BackboneConfig(name="my_vit")}, "'my_vit' does not tell its patch; set backbone.patch"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        replace(recipe("small"), **changes).check()


@pytest.mark.parametrize(
    ("order", "changes", "said"),
    [
        ({"window": 4, "lanes": 24}, {}, "batch 64 cannot be divided among order.lanes 24"),
        ({"window": 4, "lanes": 2}, {"workers": 4}, "order.lanes 2 cannot be divided among workers 4"),
        ({"window": 4}, {"workers": 2}, "order.lanes 1 cannot be divided among workers 2"),
        (
            {"window": 4, "lanes": 4},
            {"batch": 12, "workers": 4, "min_workers": 2},
            "order.lanes 4 cannot be divided among workers 3, which min_workers 2 allows",
        ),
        ({"lanes": 8}, {}, "order.lanes 8 has no effect while order.window is 0"),
        ({"window": 4, "lanes": 0}, {}, "order.lanes 0 at least 1"),
        ({"window": -1}, {}, "order.window -1 must be at least 0"),
    ],
)
def test_lanes_that_fit_no_batch_or_no_number_of_workers_are_refused(order, changes, said):
    config = replace(recipe("small"), order=OrderConfig(**order), **changes)
    with pytest.raises(ConfigError, match=said):
        config.check()


def test_lanes_fit_every_number_of_workers_that_divides_them():
    for workers, fewest in ((1, 0), (2, 1), (4, 0), (8, 0)):
        order = OrderConfig(window=4, lanes=8)
        replace(recipe("small"), order=order, workers=workers, min_workers=fewest).check()


def test_folders_and_weights_are_typed_side_by_side_and_kept_in_the_json():
    words = ["--shards", "a", "s3://b/c", "--mix", "0.7", "0.3"]
    config = cli_config(recipe("demo"), words, "vetdino pretrain demo")
    assert (config.shards, config.mix) == ((Location("a"), Location("s3://b/c")), (0.7, 0.3))
    assert from_json(PretrainConfig, to_json(config)) == config
    config.check()


def test_one_folder_may_be_a_plain_text_in_json_and_in_python():
    assert from_json(PretrainConfig, '{"shards": "a"}').shards == (Location("a"),)
    assert with_settings(recipe("demo"), {"shards": "a"}).shards == (Location("a"),)
    assert with_settings(recipe("demo"), {"shards": Path("a/b")}).shards == (Location("a/b"),)
    assert with_settings(recipe("demo"), {"shards": ["a", "b"]}).shards == (Location("a"), Location("b"))


def test_no_folder_at_all_is_refused():
    with pytest.raises(ConfigError, match="shards names no folder"):
        replace(recipe("small"), shards=()).check()


def test_a_patch_is_read_off_the_architectures_name():
    assert native_patch_side("vit_small_patch14_reg4_dinov2") == 14
    assert native_patch_side("vit_tiny_patch16_224") == 16


def distillation(**changes) -> FeatureDistillationConfig:
    return FeatureDistillationConfig(teacher="t", student="vit_tiny_patch16_224", **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crops": CropConfig(global_side=128, local_side=64)}, "crops.locals_per_view 10 must be 0"),
        ({"loss": FeatureLossConfig(cls_weight=0.0, patch_weight=0.0)}, "are both 0; raise one of them"),
        ({"loss": FeatureLossConfig(cls_weight=-1.0)}, "loss.cls_weight -1.0 must be 0 or more"),
        ({"loss": FeatureLossConfig(sample=1)}, "loss.sample 1 must be at least 2"),
        ({"embed_side": 0}, "embed_side 0 must be above 0"),
        ({"teacher_side": -14}, "teacher_side -14 must be above 0"),
        ({"batch": 65, "workers": 2}, "batch 65 cannot be divided among workers 2"),
        ({"steps": 0}, "steps 0 must be at least 1"),
    ],
)
def test_settings_of_a_distillation_that_contradict_each_other_are_refused(changes, said):
    distillation().check()
    with pytest.raises(ConfigError, match=said):
        distillation(**changes).check()


def test_a_distillation_survives_json_and_needs_teacher_and_student():
    config = distillation(backbone=StudentConfig(width=96), dtype="float16")
    assert from_json(FeatureDistillationConfig, to_json(config)) == config
    with pytest.raises(ConfigError, match="setting 'student' is missing"):
        with_settings(FeatureDistillationConfig, {"teacher": "t"})
