"""Recipes are whole, and settings that quarrel are told before anything starts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch

from vetdino.platform.core.config import cli_config, from_json, to_json
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.config import BackboneConfig
from vetdino.pretrain.config import PretrainConfig, native_patch_side
from vetdino.pretrain.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_has_no_quarrel_and_knows_its_name(name):
    config = recipe(name)
    config.check()
    assert config.recipe == name
    assert from_json(PretrainConfig, to_json(config)) == config
    assert RECIPES[name].__doc__


def test_the_baseline_differs_from_the_pairs_in_nothing_but_the_pairs():
    multi, single = recipe("multi_view_s14"), recipe("single_view_s14")
    again = replace(
        single, recipe=multi.recipe, crops=replace(single.crops, p_multiview=multi.crops.p_multiview)
    )
    assert single.crops.p_multiview == 0.0
    assert again == multi


def test_the_papers_crops_are_2_global_of_224_and_10_local_of_98_of_each_view():
    crops = recipe("multi_view_s14").crops
    assert (crops.globals_per_view, crops.global_side) == (2, 224)
    assert (crops.locals_per_view, crops.local_side) == (10, 98)


def test_an_unknown_recipe_is_met_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown recipe 'multiview_s14'; did you mean 'multi_view_s14'"):
        recipe("multiview_s14")
    with pytest.raises(ConfigError, match="unknown recipe 'xyz'; there are demo, small"):
        recipe("xyz")


def test_an_unknown_setting_is_met_with_the_nearest(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli_config(recipe("demo"), ["--crops.global-sid", "32"], "vetdino pretrain demo")
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("unknown argument --crops.global-sid; the nearest is '--crops.global-side'")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 65, "workers": 2}, "batch 65 cannot be divided among workers 2"),
        ({"batch": 2, "workers": 2}, "batch 2 gives some of the workers 2 fewer than 2 studies"),
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
def test_settings_that_quarrel_are_named(changes, said):
    with pytest.raises(ConfigError, match=said):
        replace(recipe("small"), **changes).check()


def test_a_patch_is_read_off_the_architectures_name():
    assert native_patch_side("vit_small_patch14_reg4_dinov2") == 14
    assert native_patch_side("vit_tiny_patch16_224") == 16


def test_the_larger_recipes_have_the_papers_crops_and_all_of_dinov2s_losses():
    small = recipe("multi_view_s14")
    for name, patch_embed in (("multi_view_b14", 768), ("multi_view_l14", 1024)):
        config = recipe(name)
        assert config.crops == small.crops
        assert config.optim == small.optim
        told = config.distill
        assert (told.targets, told.patch_weight, told.spread_weight) == ("sinkhorn", 1.0, 0.1)
        assert (told.momentum.start, told.momentum.end) == (0.992, 1.0)
        with torch.device("meta"):
            vit = timm.create_model(config.backbone.name, img_size=224)
        assert (vit.embed_dim, vit.patch_embed.patch_size) == (patch_embed, (14, 14))


@pytest.mark.parametrize("name", ["multi_view_s14", "multi_view_b14", "multi_view_l14", "slices_s14"])
def test_the_schedules_of_the_cluster_recipes_are_dinov2s(name):
    config = recipe(name)
    optim, distill = config.optim, config.distill
    assert (optim.layer_decay, optim.patch_embed, optim.clip) == (0.9, 0.2, 3.0)
    assert (optim.weight_decay.start, optim.weight_decay.end) == (0.04, 0.4)
    assert (distill.teacher_temperature.start, distill.teacher_temperature.end) == (0.04, 0.07)
    assert distill.head.prototypes == 65_536


def test_dino_v1_is_of_single_pictures_with_two_teacher_crops_and_eight_local_ones():
    config = recipe("dino_v1_s8")
    crops = config.crops
    assert crops.p_multiview == 0.0
    assert (crops.globals_per_view, crops.global_side, 2 * crops.locals_per_view, crops.local_side) == (
        2,
        224,
        8,
        96,
    )
    assert (config.distill.targets, config.distill.patch_weight, config.distill.spread_weight) == (
        "centring",
        0,
        0,
    )
    # 5e-4 for each 256 pictures.
    assert config.optim.lr.start * (config.batch / 1024) ** 0.5 == pytest.approx(5e-4 * config.batch / 256)


def test_two_slices_of_a_slab_are_the_views_of_a_study():
    crops = recipe("slices_s14").crops
    assert (crops.p_multiview, crops.pairs) == (1.0, "uniform")
