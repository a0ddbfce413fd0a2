"""Pairs of folders: whose supports, whose queries, which classes; compared with the query folder's own supports."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from vetdino.downstream.fewshot.config import XdomainConfig
from vetdino.downstream.fewshot.method.config import SliceConfig
from vetdino.downstream.fewshot.xdomain import measure_pairs, xdomain
from vetdino.platform.core.errors import ConfigError, DataError

pytestmark = pytest.mark.slow

CONFIG = XdomainConfig(slices=SliceConfig(grid=8), folds=2, resamples=20, floors=("copy",))
PIXELS = {"pixels": None}


@pytest.fixture
def folders(organ_scan, organ_volumes):
    """Two folders of the same four scans, of which only the liver has one name."""
    scans = [organ_scan(seed) for seed in range(4)]
    return (
        organ_volumes(*scans, folder="ct"),
        organ_volumes(*scans, classes={1: "Liver", 2: "stones"}, folder="mri"),
    )


def test_every_pair_is_measured_on_the_classes_that_all_folders_have(folders):
    crossed, cells = measure_pairs(folders, PIXELS, CONFIG)
    assert list(cells) == ["ct -> ct", "ct -> mri", "mri -> ct", "mri -> mri"]
    assert repr(crossed) == "CrossDomainResults(ct, mri)"
    assert crossed.results.organs == {1: "liver"}
    assert crossed.results.left_out == {
        "ct, stones": "no class of this name there",
        "mri, kidneys": "no class of this name there",
    }
    assert crossed.cells["ct -> mri, copy"] == ("ct", "mri")
    assert {score.scan for score in crossed.results.scores if score.row == "ct -> mri"} == {
        f"mri/s{seed}" for seed in range(4)
    }
    dice = {row: [score.dice for score in crossed.results.scores if score.row == row] for row in cells}
    assert dice["ct -> mri"] == dice["mri -> mri"] == dice["ct -> ct"]


def test_each_cell_is_compared_with_the_query_folders_own_supports(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://")
    lines = xdomain(folders, PIXELS, CONFIG, tmp_path / "out")
    against = {line["row"]: line["against"] for line in lines}
    assert against["ct -> mri"] == "mri -> mri"
    assert against["ct -> mri, copy"] == "mri -> mri, copy"
    written = csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines())
    assert [line["row"] for line in written] == [line["row"] for line in lines]
    names = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"matrix.png", "dice.png", "examples, ct to mri.png"} <= names


def test_a_pair_that_cannot_be_measured_is_left_out_with_the_reason(organ_scan, organ_volumes):
    scans = [organ_scan(seed) for seed in range(4)]
    empty = [replace(scan, labels_ZHW=scan.labels_ZHW * 0) for scan in scans]
    folders = organ_volumes(*scans, folder="full"), organ_volumes(*empty, folder="empty")
    crossed, cells = measure_pairs(folders, PIXELS, CONFIG)
    assert list(cells) == ["full -> full"]
    assert "nothing can be measured" in crossed.results.left_out["full -> empty"]
    with pytest.raises(DataError, match="no pair of folders"):
        measure_pairs((folders[1], organ_volumes(*empty, folder="also empty")), PIXELS, CONFIG)


def test_folders_of_one_name_or_without_a_shared_class_are_refused(folders, organ_scan, organ_volumes):
    with pytest.raises(ConfigError, match="two or more"):
        measure_pairs(folders[:1], PIXELS, CONFIG)
    with pytest.raises(ConfigError, match="different names"):
        measure_pairs((folders[0], folders[0]), PIXELS, CONFIG)
    other = organ_volumes(organ_scan(0), classes={1: "heart"}, folder="heart")
    with pytest.raises(DataError, match="ct: liver, kidneys; heart: heart"):
        measure_pairs((folders[0], other), PIXELS, CONFIG)


def test_encoders_trained_on_none_of_the_folders_are_refused(folders, tmp_path):
    (tmp_path / "encoders.json").write_text('{"data": "elsewhere"}')
    with pytest.raises(ConfigError, match="trained on none of ct, mri"):
        measure_pairs(folders, PIXELS, CONFIG, [tmp_path])
