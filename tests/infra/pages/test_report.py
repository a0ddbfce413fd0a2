"""A model card says what the files say, and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vetdino.infra.pages.config import ReportConfig
from vetdino.infra.pages.report import report
from vetdino.platform.core.config import from_json
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.card import Card


def digest_of(backbone: Path) -> str:
    return from_json(Card, (backbone / "card.json").read_text()).digest


def test_a_backbone_without_history_has_a_card_that_says_so(folders, tmp_path):
    training = folders.training("t", 0, backbone=True)
    (training / "backbone").rename(tmp_path / "alone")
    card = (report(tmp_path / "alone", tmp_path / "card") / "card.md").read_text()
    assert "Not evaluated" in card
    assert "The training folder is not beside the backbone" in card
    assert "their counts are unknown" in card
    assert "No license was stated for these weights" in card


def test_a_card_has_data_recipe_results_and_limitations(folders, tmp_path):
    backbone = folders.training("t", 0, backbone=True) / "backbone"
    folders.evaluation("e", skill=0.0, digest=digest_of(backbone), seed=4)  # lies beside the training
    config = ReportConfig(shards=str(tmp_path / "shards"), licence="Weights: CC BY 4.0.")
    out = report(backbone, tmp_path / "card", config)
    card = (out / "card.md").read_text()
    assert f"| digest | {digest_of(backbone)} |" in card
    assert "| test | 3 | 5 |" in card
    assert "3 patients; every patient is in one split only." in card
    assert "| optim.lr | 0.1 |" in card
    assert re.search(
        r"\| knn: AUROC \| present \| this backbone \| pixels \| this backbone - pixels \|", card
    )
    assert "knn: not distinguishable from chance (AUROC interval includes 0.5): mass, stones." in card
    assert "knn: not significantly better than pixels" in card
    assert "Weights: CC BY 4.0." in card
    for name in re.findall(r"\]\((.*?)\)", card):
        assert (out / name).stat().st_size > 1000
    assert len(list(out.glob("study*.jpg"))) == 2


def test_a_good_backbone_is_not_called_random(folders, tmp_path):
    backbone = folders.training("t", 0, backbone=True) / "backbone"
    run = folders.evaluation("e", skill=4, digest=digest_of(backbone))
    card = (report(backbone, tmp_path / "card", ReportConfig(runs=(run,))) / "card.md").read_text()
    assert "not distinguishable" not in card
    assert "not significantly" not in card


def test_the_page_says_the_same_and_needs_no_other_file(folders, tmp_path):
    backbone = folders.training("t", 0, backbone=True) / "backbone"
    folders.evaluation("e", skill=1, digest=digest_of(backbone))
    out = report(backbone, tmp_path / "card", ReportConfig(shards=str(tmp_path / "shards")))
    page, card = (out / "card.html").read_text(), (out / "card.md").read_text()
    assert re.findall(r"^## (.*)$", card, flags=re.M) == re.findall(r"<h2>(.*?)</h2>", page)
    assert set(re.findall(r'src="(.{10})', page)) == {"data:image"}
    for text in (page, card):
        assert "canary" not in text
        assert str(tmp_path) not in text


def test_what_does_not_belong_to_the_backbone_is_refused(folders, tmp_path):
    backbone = folders.training("t", 0, backbone=True) / "backbone"
    other = folders.evaluation("e", skill=1, digest="another")
    with pytest.raises(ConfigError, match="evaluated another"):
        report(backbone, tmp_path / "card", ReportConfig(runs=(other,)))
    with pytest.raises(ConfigError, match=r"no card\.json"):
        report(tmp_path, tmp_path / "card")
    assert not (tmp_path / "card").exists()
