"""A model card says what the files tell, and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vetdino.infra.pages.config import ReportConfig
from vetdino.infra.pages.report import report
from vetdino.platform.core.config import from_json
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.backbone import Card


def digest_of(backbone: Path) -> str:
    return from_json(Card, (backbone / "card.json").read_text()).digest


def test_a_backbone_without_a_history_is_told_as_such(folders, tmp_path):
    training = folders.training("t", 0, backbone=True)
    (training / "backbone").rename(tmp_path / "alone")
    said = (report(tmp_path / "alone", tmp_path / "card") / "card.md").read_text()
    assert "Nobody has evaluated it" in said
    assert "The folder of its training is not beside it" in said
    assert "their counts are unknown" in said
    assert "No terms were stated for these weights" in said


def test_a_card_holds_data_recipe_figures_and_limits(folders, tmp_path):
    backbone = folders.training("t", 0, backbone=True) / "backbone"
    folders.evaluation("e", skill=0.0, digest=digest_of(backbone), seed=4)  # lies beside the training
    config = ReportConfig(shards=str(tmp_path / "shards"), licence="Weights: CC BY 4.0.")
    out = report(backbone, tmp_path / "card", config)
    said = (out / "card.md").read_text()
    assert f"| digest | {digest_of(backbone)} |" in said
    assert "| test | 3 | 5 |" in said
    assert "3 patients; every patient is in one split only." in said
    assert "| optim.lr | 0.1 |" in said
    assert re.search(
        r"\| knn: AUROC \| present \| this backbone \| pixels \| this backbone - pixels \|", said
    )
    assert "knn: not told from chance (the interval of its AUROC reaches 0.5): mass, stones." in said
    assert "knn: no better than pixels beyond doubt" in said
    assert "Weights: CC BY 4.0." in said
    for name in re.findall(r"\]\((.*?)\)", said):
        assert (out / name).stat().st_size > 1000
    assert len(list(out.glob("study*.jpg"))) == 2


def test_a_good_backbone_is_not_called_a_guesser(folders, tmp_path):
    backbone = folders.training("t", 0, backbone=True) / "backbone"
    run = folders.evaluation("e", skill=4, digest=digest_of(backbone))
    said = (report(backbone, tmp_path / "card", ReportConfig(runs=(run,))) / "card.md").read_text()
    assert "not told from chance" not in said
    assert "beyond doubt" not in said


def test_the_page_says_the_same_and_needs_no_other_file(folders, tmp_path):
    backbone = folders.training("t", 0, backbone=True) / "backbone"
    folders.evaluation("e", skill=1, digest=digest_of(backbone))
    out = report(backbone, tmp_path / "card", ReportConfig(shards=str(tmp_path / "shards")))
    page, said = (out / "card.html").read_text(), (out / "card.md").read_text()
    assert re.findall(r"^## (.*)$", said, flags=re.M) == re.findall(r"<h2>(.*?)</h2>", page)
    assert set(re.findall(r'src="(.{10})', page)) == {"data:image"}
    for text in (page, said):
        assert "canary" not in text
        assert str(tmp_path) not in text


def test_what_does_not_belong_to_the_backbone_is_refused(folders, tmp_path):
    backbone = folders.training("t", 0, backbone=True) / "backbone"
    other = folders.evaluation("e", skill=1, digest="another")
    with pytest.raises(ConfigError, match=r"e: evaluated another, .*, this backbone is \w{12}; evaluate it"):
        report(backbone, tmp_path / "card", ReportConfig(runs=(other,)))
    with pytest.raises(ConfigError, match=r"no backbone folder \(no card\.json\)"):
        report(tmp_path, tmp_path / "card")
    assert not (tmp_path / "card").exists()
