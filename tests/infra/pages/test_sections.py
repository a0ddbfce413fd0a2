"""Sentences of a model card that depend on its facts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from vetdino.infra.pages.config import ReportConfig
from vetdino.infra.pages.facts import THIS_BACKBONE, CardFacts
from vetdino.infra.pages.sections import card_sections, value_text
from vetdino.platform.data.manifest import Manifest, Shard
from vetdino.platform.measure.results import MetricValue
from vetdino.platform.models.card import Card
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.phantom.config import FINDINGS


def value(source: str, number: float, low: float, high: float, finding: str = "macro") -> MetricValue:
    return MetricValue("AUROC", finding, source, number, low, high, 3, 9)


def facts(values=(), findings=("mass",), evaluated_on=("m",)) -> CardFacts:
    shard = Shard("s.tar", "train", 3, 6, 1, "x")
    return CardFacts(
        card=Card(label="tiny", config=BackboneConfig(name="vit_tiny_patch16_224"), origin={"manifest": "m"}),
        training=None,
        trained_on=(Manifest(1, "archive", tuple(findings), (shard,), {}, "c"),),
        values={"knn": list(values)} if values else {},
        left_out={},
        manifests=tuple(evaluated_on) if values else (),
    )


def limitations(*arguments, **more) -> str:
    return " ".join(map(str, card_sections(facts(*arguments, **more), ReportConfig())["Limitations"]))


def test_without_an_evaluation_the_card_says_so():
    assert "Without an evaluation nothing is known" in limitations()


def test_generated_findings_are_called_generated():
    assert "generated studies" in limitations(findings=FINDINGS[:2])
    assert "generated studies" not in limitations(findings=("mass",))


@pytest.mark.parametrize(
    ("difference", "words"),
    [((-0.1, -0.2, -0.05), "worse than pixels"), ((0.1, -0.1, 0.2), "not significantly better than pixels")],
)
def test_a_baseline_that_is_not_beaten_is_named(difference, words):
    own = value(THIS_BACKBONE, 0.8, 0.7, 0.9)
    assert words in limitations([own, value(f"{THIS_BACKBONE} - pixels", *difference)])
    assert "than pixels" not in limitations([own, value(f"{THIS_BACKBONE} - pixels", 0.1, 0.05, 0.2)])


def test_findings_at_chance_are_named():
    values = [
        value(THIS_BACKBONE, 0.6, 0.4, 0.8, "mass"),
        value(THIS_BACKBONE, 0.8, 0.7, 0.9, "stones"),
        value("pixels", 0.5, 0.3, 0.6, "stones"),
    ]
    assert "not distinguishable from chance (AUROC interval includes 0.5): mass." in limitations(values)


def test_evaluation_on_other_shards_is_named():
    values = [value(THIS_BACKBONE, 0.8, 0.7, 0.9)]
    assert "same archive" in limitations(values)
    assert "other shards" in limitations(values, evaluated_on=("n",))


def test_a_value_is_written_with_its_interval():
    assert value_text(value("a", 0.8125, 0.78, 0.84)) == "0.812 (0.780 to 0.840)"
    assert value_text(value("a", 0.5, math.nan, math.nan)) == "0.500 (no interval)"
    assert value_text(value("a", math.nan, math.nan, math.nan)) == "not measured"


def test_the_license_of_the_weights_is_in_the_words_of_the_owner():
    [text] = card_sections(facts(), ReportConfig(licence="Weights: CC BY 4.0."))["License"]
    assert "Weights: CC BY 4.0." in text


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        (
            {"teacher": "dinov2_vits14.pth"},
            "learned, without labels, the CLS and patch tokens of dinov2_vits14.pth",
        ),
        ({"recipe": "small"}, "by multi-view distillation"),
        ({}, "does not say how it was trained"),
    ],
)
def test_a_card_says_what_the_network_learned_from(origin, said):
    known = facts()
    card = replace(known.card, origin=origin)
    sections = card_sections(replace(known, card=card), ReportConfig())
    assert said in " ".join(map(str, sections["Description"]))
