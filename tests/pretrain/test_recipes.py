"""Recipes are complete, consistent, and what the papers say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch

from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.core.errors import ConfigError
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_passes_its_checks_and_knows_its_name(name):
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


@pytest.mark.parametrize("name", ["vet_s14", "vet_b14", "vet_l14", "vet_s14_small"])
def test_recipes_that_go_on_from_published_weights_move_early_blocks_least(name):
    config = recipe(name)
    start = config.start.removeprefix("timm:")
    assert start != config.start
    assert start.split(".")[0] == config.backbone.name
    assert start in timm.list_pretrained(f"{config.backbone.name}.*")
    assert config.head_warmup > 0
    assert config.optim.layer_decay < 0.9
    assert config.crops.pairs == "same_side"
    assert config.distill.contrast_weight > 0
    single = replace(config, crops=replace(config.crops, p_multiview=0.0))
    single.check()


def test_the_small_recipe_from_published_weights_has_the_losses_of_the_large_ones():
    small, large = recipe("vet_s14_small"), recipe("vet_s14")
    for name in ("targets", "teacher_temperature", "patch_weight", "contrast_weight", "contrast_temperature"):
        assert getattr(small.distill, name) == getattr(large.distill, name)


def test_an_unknown_recipe_is_met_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown recipe 'multiview_s14'; did you mean 'multi_view_s14'"):
        recipe("multiview_s14")
    with pytest.raises(ConfigError, match="unknown recipe 'xyz'; there are demo, small"):
        recipe("xyz")


def test_the_larger_recipes_have_the_papers_crops_and_all_of_dinov2s_losses():
    small = recipe("multi_view_s14")
    for name, patch_embed in (("multi_view_b14", 768), ("multi_view_l14", 1024)):
        config = recipe(name)
        assert config.crops == small.crops
        assert config.optim == small.optim
        distill = config.distill
        assert (distill.targets, distill.patch_weight, distill.spread_weight) == ("sinkhorn", 1.0, 0.1)
        assert (distill.momentum.start, distill.momentum.end) == (0.992, 1.0)
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
