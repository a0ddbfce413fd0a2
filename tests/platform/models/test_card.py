"""The card's digest: what it depends on, and what older cards have."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.platform.models.examples import DINO
from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.card import Card
from vetdino.platform.models.saving import save_backbone


def test_the_digest_is_that_of_the_weights_and_the_preparation_not_of_the_words(tmp_path):
    backbone = random_backbone(DINO, 0)
    card = save_backbone(tmp_path, backbone)
    assert replace(card, label="other", origin={"a": "b"}, metrics={"c": 1.0}).digest == card.digest
    assert replace(card, mean=0.4).digest != card.digest
    assert replace(card, weights_sha256="0").digest != card.digest


def test_cards_keep_the_digest_that_they_had_before_there_were_registers_and_positions():
    card = Card(label="a", config=DINO, weights_sha256=32 * "5e")
    assert card.digest == "62205acb7765aaf0fac55b4b49e7bcb472af5525a662d3b4bfe88abda124ebae"
    registered = replace(card, config=replace(DINO, registers=0))
    assert registered.digest == "8acf8d7aeba3bae4b7b68ff733eae28912ec7483202ea132d3291203f914670f"
    assert replace(card, positions="timm").digest == card.digest
    assert replace(card, positions="dino").digest != card.digest
    fields = json.loads(to_json(card))
    del fields["positions"], fields["config"]["registers"]
    assert from_json(Card, json.dumps(fields)) == card
