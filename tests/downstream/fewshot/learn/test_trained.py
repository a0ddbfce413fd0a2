"""Encoders of a finished training: loaded by fold and organ, refused for data they do not fit."""

from __future__ import annotations

import json

import pytest
import torch

from vetdino.downstream.fewshot.learn.encoder import TrainableEncoder
from vetdino.downstream.fewshot.learn.trained import ENCODERS, load_trained_encoders
from vetdino.platform.core.errors import CheckpointError, DataError
from vetdino.platform.models.backbone import random_like


def test_every_fold_and_organ_has_its_encoder(tiny, finished, quick, volumes_class):
    volumes = volumes_class()
    encoders = load_trained_encoders(finished, tiny, volumes=volumes, folds=2)
    assert encoders.keys() == {(0, 1), (1, 1)}
    features = [encoders[fold, 1](volumes.load("0"), [2]) for fold in (0, 1)]
    untrained = TrainableEncoder(tiny, slices=quick.slices)(volumes.load("0"), [2])
    assert not torch.allclose(features[0], untrained, atol=1e-4)
    assert not torch.allclose(features[0], features[1], atol=1e-4)
    index = json.loads((finished / ENCODERS).read_text())
    assert index["data"] == volumes.digest
    assert [entry["fold"] for entry in index["encoders"]] == [0, 1]


def test_encoders_go_to_the_device_and_the_backbone_stays(tiny, finished):
    before = {name: value.device for name, value in tiny.named_parameters()}
    # The meta device stands for a GPU: nothing is computed on it.
    encoders = load_trained_encoders(finished, tiny, device=torch.device("meta"))
    assert all(weight.is_meta for encoder in encoders.values() for weight in encoder.parameters())
    assert {name: value.device for name, value in tiny.named_parameters()} == before


def test_other_folds_scans_and_backbones_are_refused(tiny, finished, volumes_class):
    with pytest.raises(DataError, match="2 folds"):
        load_trained_encoders(finished, tiny, folds=3)
    foreign = volumes_class()
    foreign.digest = "e" * 64
    with pytest.raises(DataError, match="other scans than held"):
        load_trained_encoders(finished, tiny, volumes=foreign)
    with pytest.raises(CheckpointError, match="seed 4"):
        load_trained_encoders(finished, random_like(tiny, 4))


@pytest.mark.parametrize("content", [None, "{", "[]", '{"encoders": [{}]}'])
def test_a_missing_or_damaged_index_is_named(tiny, tmp_path, content):
    if content is not None:
        (tmp_path / ENCODERS).write_text(content)
    with pytest.raises(CheckpointError, match=ENCODERS):
        load_trained_encoders(tmp_path, tiny)
