"""Experiments over one folder in memory: what they measure, compare and write; pixels need no network."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from vetdino.downstream.fewshot.config import FewshotConfig, FewshotEvaluateConfig, KshotConfig
from vetdino.downstream.fewshot.experiments import (
    adaptation_lines,
    compare,
    evaluate,
    fewest_shots_rows,
    kshot,
    trained_tags,
)
from vetdino.downstream.fewshot.learn.config import AdaptConfig
from vetdino.downstream.fewshot.method.config import SliceConfig
from vetdino.downstream.fewshot.methods import feature_methods, methods_by_row
from vetdino.downstream.fewshot.results import FewshotResults
from vetdino.platform.core.errors import ConfigError

pytestmark = pytest.mark.slow

QUICK = {"slices": SliceConfig(grid=8), "folds": 2, "resamples": 20}


@pytest.fixture(autouse=True)
def without_tracking(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://")


@pytest.fixture
def volumes(organ_scan, organ_volumes):
    return organ_volumes(*(organ_scan(seed) for seed in range(4)))


def summary_in(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "summary.csv").read_text().splitlines()))


def test_an_evaluation_writes_the_summary_that_it_returns(volumes, tmp_path):
    config = FewshotEvaluateConfig(**QUICK, floors=("copy", "oracle"))
    lines = evaluate(volumes, {"pixels": None}, config, tmp_path / "out")
    written = summary_in(tmp_path / "out")
    assert [line["row"] for line in written] == [line["row"] for line in lines]
    assert list(dict.fromkeys(line["row"] for line in lines)) == ["pixels", "copy", "oracle"]
    assert [float(line["dice"]) for line in written] == [line["dice"] for line in lines]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["organs"] == {"1": "liver", "2": "kidneys"}
    assert metrics["data"] == volumes.digest
    assert not (tmp_path / "out" / "adaptation.csv").exists()


def test_a_networks_supports_choose_layers_unless_these_are_named(volumes, tiny, tmp_path):
    config = FewshotEvaluateConfig(**QUICK, floors=("copy",), device="cpu")
    evaluate(volumes, {"encoder": tiny}, config, tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(metrics["chosen"]) == ["encoder"]
    assert {organ: list(folds) for organ, folds in metrics["chosen"]["encoder"].items()} == {
        "liver": ["0", "1"],
        "kidneys": ["0", "1"],
    }
    scans = list(csv.DictReader((tmp_path / "out" / "scans.csv").read_text().splitlines()))
    assert {one["chosen"] for one in scans if one["row"] == "encoder" and one["fold"] == "0"} == set(
        folds["0"] for folds in metrics["chosen"]["encoder"].values()
    )
    named = replace(config, slices=SliceConfig(grid=8, layers=(0,)))
    evaluate(volumes, {"encoder": tiny}, named, tmp_path / "named")
    assert json.loads((tmp_path / "named" / "metrics.json").read_text())["chosen"] == {}


def test_pixels_cannot_be_trained_at_test_time(volumes, tmp_path):
    config = FewshotEvaluateConfig(**QUICK, adapt=AdaptConfig(steps=2))
    with pytest.raises(ConfigError, match="no network"):
        evaluate(volumes, {"pixels": None}, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_slices_trained_on_are_reported_once_each(volumes, tiny, tmp_path):
    config = FewshotEvaluateConfig(
        **QUICK, adapt=AdaptConfig(steps=1), organs=(1,), floors=(), components_beside=("1",), device="cpu"
    )
    lines = evaluate(volumes, {"encoder": tiny}, config, tmp_path / "out")
    assert {line["row"] for line in lines} == {
        "encoder",
        "encoder, components 1",
        "encoder, adapted",
        "encoder, adapted, components 1",
    }
    reports = list(csv.DictReader((tmp_path / "out" / "adaptation.csv").read_text().splitlines()))
    slices = [(one["scan"], one["slice"], one["part"]) for one in reports]
    assert len(set(slices)) == len(slices) > 0


def test_encoders_are_compared_with_the_first(volumes, tiny, tmp_path):
    config = FewshotConfig(**QUICK, floors=("copy",))
    lines = compare(volumes, {"pixels": None, "net": tiny}, config, tmp_path / "out")
    means = {line["row"]: line for line in lines if line["organ"] == "mean"}
    assert list(means) == ["pixels", "net", "copy"]
    assert {line["against"] for line in lines} == {"pixels"}
    assert means["net"]["delta"] == pytest.approx(means["net"]["dice"] - means["pixels"]["dice"])


def test_numbers_of_shots_are_compared_with_the_fewest(volumes, tmp_path):
    config = KshotConfig(**QUICK, shots=(1, 2), beside=("levayz",), floors=("copy", "oracle"))
    lines = kshot(volumes, {"pixels": None}, config, tmp_path / "out")
    against = {line["row"]: line["against"] for line in lines}
    assert against["pixels, 2 shots"] == "pixels, 1 shot"
    assert against["pixels, levayz, 2 shots"] == "pixels, levayz, 1 shot"
    assert against["copy, 2 shots"] == "copy, 1 shot"
    assert against["oracle"] == "oracle"
    names = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert names == {"shots.png", "volume_shots.png", "examples.png"}


def test_every_row_has_its_fewest_shots(pixels):
    config = KshotConfig(components_beside=("1",))
    rows = methods_by_row(feature_methods({"pixels": pixels}, config), config)
    references = fewest_shots_rows(FewshotResults({}, (), (), {}, {}, rows), config)
    assert list(references) == list(rows)
    for row, reference in references.items():
        assert reference == row.replace("2 shots", "1 shot").replace("4 shots", "1 shot")


def test_rows_without_adaptation_have_no_report(pixels):
    methods = methods_by_row(feature_methods({"pixels": pixels}, FewshotConfig()), FewshotConfig())
    assert adaptation_lines(FewshotResults({}, (), (), {}, {}, methods)) == []


def test_trained_folders_are_named_in_the_run():
    assert trained_tags([]) == {}
    assert trained_tags([Path("a/one"), Path("b/two")]) == {"trained": "one two"}
