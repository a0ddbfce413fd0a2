"""The facts of a model card, read from files that are there or not."""

from __future__ import annotations

import shutil

import pytest

from vetdino.infra.pages.config import ReportConfig
from vetdino.infra.pages.facts import THIS_BACKBONE, read_facts
from vetdino.platform.core.config import from_json
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.card import Card


def digest_of(backbone) -> str:
    return from_json(Card, (backbone / "card.json").read_text()).digest


@pytest.fixture
def backbone(folders):
    return folders.training("t", 0, backbone=True) / "backbone"


def test_a_lone_backbone_has_its_card_alone(backbone, tmp_path):
    shutil.move(backbone, tmp_path / "alone")
    facts = read_facts(tmp_path / "alone", ReportConfig())
    assert (facts.training, facts.trained_on, dict(facts.values), facts.manifests) == (None, (), {}, ())
    assert facts.card.digest == digest_of(tmp_path / "alone")


def test_training_and_evaluations_are_found_beside_it(backbone, folders):
    folders.evaluation("mine", 1, digest=digest_of(backbone))
    folders.evaluation("foreign", 1, digest="another")
    facts = read_facts(backbone, ReportConfig())
    assert facts.training.name == "t"
    assert list(facts.values) == ["knn"]
    sources = {value.source for value in facts.values["knn"]}
    assert sources == {THIS_BACKBONE, "pixels", f"{THIS_BACKBONE} - pixels"}
    assert facts.manifests == (folders.manifest,)


def test_two_evaluations_of_a_task_keep_both_tables(backbone, folders):
    runs = [folders.evaluation(name, 1, digest=digest_of(backbone)) for name in ("one", "two")]
    assert list(read_facts(backbone, ReportConfig(runs=tuple(runs))).values) == ["knn", "knn (two)"]


def test_the_manifest_is_taken_only_if_it_is_that_of_the_training(backbone, folders, tmp_path):
    (manifest,) = read_facts(backbone, ReportConfig(shards=str(tmp_path / "shards"))).trained_on
    assert manifest.digest == folders.manifest
    assert read_facts(backbone, ReportConfig(shards=str(tmp_path))).trained_on == ()


def test_a_training_with_other_settings_beside_it_is_not_its_own(backbone, folders):
    params = backbone.parent / "params.json"
    params.write_text(params.read_text().replace("config-0.1", "config-0.2"))
    assert read_facts(backbone, ReportConfig()).training is None


def test_what_is_no_backbone_and_a_foreign_evaluation_are_refused(backbone, folders, tmp_path):
    with pytest.raises(ConfigError, match=r"no card\.json"):
        read_facts(tmp_path, ReportConfig())
    foreign = folders.evaluation("e", 1, digest="another")
    with pytest.raises(ConfigError, match="evaluated another"):
        read_facts(backbone, ReportConfig(runs=(foreign,)))
