"""An evaluation sets a backbone beside its floors and leaves table, files and a run."""

import csv
import json
import math

import numpy as np
import pytest

from vetdino.downstream.evaluate import TASKS, EvaluateConfig, evaluate
from vetdino.downstream.knn import KnnConfig
from vetdino.platform.backbone import BackboneConfig, random_backbone, save_backbone
from vetdino.platform.errors import CheckpointError, ConfigError, FeaturesError, ShardError
from vetdino.platform.shards import VERSION, Manifest, ShardWriter, save_manifest
from vetdino.platform.study import Study, View


def shards(folder, counts, findings=("square", "dark", "never")):
    """Noise; `square` is a bright square that pixels see, `dark` is in nothing but the label."""
    random = np.random.default_rng(0)
    written, number = [], 0
    for split, count in counts.items():
        with ShardWriter(folder, split) as writer:
            for _ in range(count):
                square, dark = (random.random(2) < 0.5).astype(float)
                pixels = random.integers(0, 90, (32, 32)).astype(np.uint8)
                pixels[4:14, 4:14] += np.uint8(120 * square)
                labels = {"square": square, "dark": dark, "never": 0.0}
                writer.write(Study(f"k{number}", f"p{number}", (View(pixels, "VD"),), labels, split))
                number += 1
        written += writer.shards
    save_manifest(folder, Manifest(VERSION, "squares", findings, tuple(written), {}, "c"))
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    small = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, depth=1, heads=2)
    folder = tmp_path_factory.mktemp("backbone")
    save_backbone(folder, random_backbone(small, seed=3))
    return folder


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory):
    """One database for all: making its tables takes MLflow seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db")
        yield


CONFIG = EvaluateConfig(resamples=100, knn=KnnConfig(ks=(5, 10)))


@pytest.fixture(scope="module")
def place(tmp_path_factory, backbone):
    """(shards, out, report) of one evaluation."""
    place = tmp_path_factory.mktemp("evaluation")
    folder = shards(place / "shards", {"train": 60, "val": 20, "test": 40})
    return folder, place / "out", evaluate(backbone, folder, place / "out", CONFIG)


def test_every_finding_is_measured_for_the_backbone_and_both_floors(place):
    _, _, report = place
    sources = ["backbone", "random", "pixels", "backbone - random", "backbone - pixels"]
    for metric in ("AUROC", "AP"):
        for finding in ("macro", "square", "dark"):
            for source in sources:
                figure = report.find("knn", metric, finding, source)
                assert figure.low <= figure.value <= figure.high
    assert report.find("knn", "AUROC", "square", "pixels").value > 0.95
    assert report.find("knn", "AUROC", "dark", "pixels").value < 0.8
    assert report.left_out == {"knn": {"never": "0 present and 60 absent in train"}}
    with pytest.raises(KeyError):
        report.find("knn", "AUROC", "never", "backbone")


def test_console_file_and_mlflow_tell_the_same_pairs(place):
    from vetdino.platform.runs import _client, history, metric_name, tracking_address

    _, out, report = place
    pairs = dict(report.pairs())
    assert len(pairs) == 3 * 2 * 3 * 5
    whole = json.loads((out / "metrics.json").read_text())
    assert whole["metrics"] == {name: None if math.isnan(v) else v for name, v in pairs.items()}
    assert history(out)[0]["knn/auroc.macro.backbone"] == pairs["knn/auroc.macro.backbone"]
    told = json.loads((out / "run.json").read_text())
    kept = _client(tracking_address(out)).get_run(told["run_id"]).data
    assert kept.metrics == pytest.approx({metric_name(name): value for name, value in pairs.items()})
    assert kept.tags["manifest"] == whole["manifest"]
    assert told["experiment"] == "vetdino/evaluate"
    with (out / "knn.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 5
    assert set(rows[0]) == {"metric", "finding", "source", "value", "low", "high", "present", "known"}


def test_a_second_evaluation_takes_the_same_features_and_prints_the_table(place, backbone, capsys):
    folder, out, report = place
    again = evaluate(backbone, folder, out, CONFIG)
    assert list(again.pairs()) == list(report.pairs())
    said = capsys.readouterr()
    assert "features" not in said.err
    for words in ("backbone - random", "macro", "square", "left out: never", "k_chosen", "workflowType="):
        assert words in said.out
    assert again.link != report.link


def test_other_shards_are_walked_anew(place, backbone, tmp_path):
    _, out, report = place
    folder = shards(tmp_path / "shards", {"train": 30, "test": 20})
    (tmp_path / "out").mkdir()
    (out / "features").rename(tmp_path / "out" / "features")
    other = evaluate(backbone, folder, tmp_path / "out", CONFIG)
    (tmp_path / "out" / "features").rename(out / "features")
    assert other.facts["knn"]["backbone"]["test_studies"] == 20
    assert other.facts["knn"]["backbone"]["k_chosen"] == "given"
    assert list(other.pairs()) != list(report.pairs())


def test_five_studies_are_measured_or_named_never_made_up(tmp_path, backbone):
    folder = shards(tmp_path / "shards", {"train": 6, "test": 5})
    report = evaluate(backbone, folder, tmp_path / "out", CONFIG)
    for figure in report.figures["knn"]:
        assert figure.known in (5, 10)
        assert not math.isnan(figure.value)
    measured = {figure.finding for figure in report.figures["knn"]} - {"macro"}
    assert measured | set(report.left_out["knn"]) == {"square", "dark", "never"}


def test_a_new_task_is_a_name_and_a_function(place, backbone, tmp_path, monkeypatch):
    folder, _, report = place
    monkeypatch.setitem(TASKS, "again", TASKS["knn"])
    both = evaluate(
        backbone, folder, tmp_path, EvaluateConfig(tasks=("again",), resamples=100, knn=CONFIG.knn)
    )
    assert both.find("again", "AP", "macro", "pixels") == report.find("knn", "AP", "macro", "pixels")


def test_what_cannot_be_evaluated_is_one_line(place, backbone, tmp_path):
    folder, _, _ = place
    with pytest.raises(ConfigError, match="unknown task 'linaer'; there are: knn"):
        evaluate(backbone, folder, tmp_path, EvaluateConfig(tasks=("linaer",)))
    with pytest.raises(ShardError, match="no manifest"):
        evaluate(backbone, tmp_path, tmp_path)
    with pytest.raises(CheckpointError, match="no backbone here"):
        evaluate(tmp_path / "none", folder, tmp_path)
    only_train = shards(tmp_path / "shards", {"train": 6})
    with pytest.raises(FeaturesError, match="no studies in the test split"):
        evaluate(backbone, only_train, tmp_path / "out")
    unlabelled = shards(tmp_path / "unlabelled", {"train": 6, "test": 5}, findings=())
    with pytest.raises(FeaturesError, match="no finding can be measured"):
        evaluate(backbone, unlabelled, tmp_path / "out2")
