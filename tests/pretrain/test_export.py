"""The exported backbone: the teacher's weights, another side, and a card that says where it comes from."""

from __future__ import annotations

import json
from dataclasses import replace

from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.loading import load
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.export import export_backbone
from vetdino.pretrain.mixture import load_mixture
from vetdino.pretrain.records import STATUS


def write_status(config: PretrainConfig, values: dict[str, float]) -> None:
    config.out.mkdir()
    (config.out / STATUS).write_text(json.dumps({"step": config.steps, "warnings": [], **values}))


def test_a_backbone_is_exported_at_its_own_side_with_the_probes_finite_metrics(run_config):
    config = replace(run_config, embed_side=48, seed=3)
    mixture = load_mixture(config)
    values = {"probe/auroc_macro": 0.7, "probe/ap_macro": float("nan"), "loss/total": 1.0}
    write_status(config, values)
    backbone = random_backbone(config.backbone, 0)
    card = export_backbone(config, backbone, mixture)
    exported = load(config.out / "backbone")
    assert exported.side == 48
    assert exported.card.digest == card.digest
    assert card.metrics == {"probe/auroc_macro": 0.7}
    assert card.label == "tiny, 32 study presentations, seed 3"
    assert card.origin["manifest"] == mixture.digest
    assert (card.origin["start"], card.origin["views"], card.origin["step"]) == ("random", "multi", "4")
    assert not (config.out / ".backbone").exists()


def test_an_older_export_is_replaced(run_config):
    mixture = load_mixture(run_config)
    write_status(run_config, {})
    cards = [export_backbone(run_config, random_backbone(run_config.backbone, n), mixture) for n in (0, 1)]
    assert cards[0].digest != cards[1].digest
    assert load(run_config.out / "backbone").card.digest == cards[1].digest
