"""A training that will lack something says so before its first step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.pretrain.conftest import changed, other_study_of, write_shards
from vetdino.platform.data.study import Study, View
from vetdino.pretrain.batches.loader import CropDataset
from vetdino.pretrain.batches.order import StepSampler
from vetdino.pretrain.data_warnings import data_warnings, no_pairs
from vetdino.pretrain.export import view_mode
from vetdino.pretrain.mixture import load_mixture, study_order


def single(split: str, number: int) -> Study:
    """Every file with its own study."""
    key = f"{split}{number:02d}"
    return Study(key, f"p{key}", (View(np.full((48, 40), 10 * number, np.uint8)),), {}, split)


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("singles"), single)


def pairs_of(config) -> int:
    """How many pairs the plans of all steps hold."""
    dataset = CropDataset(config.shards, config.crops, config.distill.masks, 4, config.seed)
    order = study_order(config, load_mixture(config))
    steps = StepSampler(order, first=0, steps=config.steps, rank=0, world=1)
    return sum(dataset[item][0].is_pair for items in steps for item in items)


def test_nothing_is_said_of_a_training_that_finds_pairs(run_config):
    assert data_warnings(run_config, load_mixture(run_config)) == []
    assert pairs_of(run_config) > 0
    assert view_mode(run_config, load_mixture(run_config)) == "multi"


def test_a_multi_view_training_of_single_views_says_so(run_config, singles):
    config = replace(run_config, shards=(str(singles),))
    (text,) = data_warnings(config, load_mixture(config))
    assert "each of the 16 training studies has one view" in text
    assert pairs_of(config) == 0
    assert view_mode(config, load_mixture(config)) == "single"
    assert data_warnings(changed(config, "crops.p_multiview", 0.0), load_mixture(config)) == []


@pytest.mark.parametrize(("steps", "start"), [(2, 0.1), (2, 0.0), (4, 0.5), (4, 0.51), (5, 0.8), (6, 0.67)])
def test_pairs_that_begin_after_the_last_epoch_are_announced(steps, start, run_config):
    config = replace(changed(run_config, "crops.multiview_from", start), steps=steps)
    text = no_pairs(config, load_mixture(config))
    assert ("is never reached" in text) == (pairs_of(config) == 0)


def test_a_training_without_validation_studies_says_that_it_has_no_probe(run_config):
    mixture = load_mixture(run_config)
    without = replace(
        mixture, manifests=tuple(replace(each, shards=each.of("train")) for each in mixture.manifests)
    )
    (text,) = data_warnings(run_config, without)
    assert "no probe and no best checkpoint" in text
    assert data_warnings(changed(run_config, "probe.every", 0), without) == []


def test_of_a_mix_each_folder_that_lacks_something_is_named(run_config, singles, shards, tmp_path):
    two = write_shards(tmp_path / "no_val", other_study_of, splits={"train": 10})
    config = replace(run_config, shards=(str(shards), str(singles), str(two)))
    views, probe = data_warnings(config, load_mixture(config))
    assert views.startswith(f"{singles}: each of the 16 training studies has one view")
    assert probe.startswith(
        f"{two}: the val split has no studies, so the probe evaluates studies of the other"
    )
    assert view_mode(config, load_mixture(config)) == "multi"
    without = replace(config, shards=(str(singles), str(two)))
    assert no_pairs(without, load_mixture(without)) == ""
    assert pairs_of(without) > 0
