"""An evaluation compares backbones with baselines and leaves tables, files and runs."""

import csv
import json
import math

import numpy as np
import pytest

from vetdino.downstream.common.config import SourceConfig
from vetdino.downstream.config import EvaluateConfig
from vetdino.downstream.evaluate import TASKS, EvaluationTask, compare_backbones, evaluate
from vetdino.downstream.findings.config import KnnConfig, LinearConfig
from vetdino.platform.core.errors import CheckpointError, ConfigError, FeaturesError, ShardError
from vetdino.platform.data.manifest import VERSION, Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View
from vetdino.platform.measure.predictions import load_predictions, predictions_file
from vetdino.platform.measure.results import Measurements, MetricValue
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.saving import save_backbone

pytestmark = pytest.mark.slow


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


def backbone_of(folder, seed):
    small = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2)
    save_backbone(folder, random_backbone(small, seed=seed))
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return backbone_of(tmp_path_factory.mktemp("backbone"), 3)


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory):
    """One database for all: making its tables takes MLflow seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db")
        yield


CONFIG = EvaluateConfig(
    tasks=("knn", "linear"),
    fractions=(0.05, 1.0),
    resamples=50,
    knn=KnnConfig(ks=(5, 10)),
    linear=LinearConfig(cs=(0.01, 1.0), blocks=(1, 2)),
    sources=SourceConfig(components=8),
)
QUICK = EvaluateConfig(fractions=(1.0,), resamples=50, knn=CONFIG.knn, sources=CONFIG.sources)

COUNTS = {"train": 60, "val": 20, "test": 40}
SOURCES = ("backbone", "random", "pixels", "pca")


@pytest.fixture(scope="module")
def place(tmp_path_factory, backbone):
    """(shards, out, report) of one evaluation."""
    place = tmp_path_factory.mktemp("evaluation")
    folder = shards(place / "shards", COUNTS)
    return folder, place / "out", evaluate(backbone, folder, place / "out", CONFIG)


def test_every_finding_is_measured_for_the_backbone_and_the_baselines(place):
    _, _, report = place
    sources = [*SOURCES, *(f"backbone - {baseline}" for baseline in SOURCES[1:])]
    for task in ("knn", "linear"):
        for metric in ("AUROC", "AP"):
            for finding in ("macro", "square", "dark"):
                for source in sources:
                    figure = report.find(task, metric, finding, source)
                    assert figure.low <= figure.value <= figure.high
        assert report.left_out[task] == {"never": "0 present and 60 absent in train"}
    assert report.find("linear", "AUROC", "square", "pixels").value > 0.95
    assert report.find("linear", "AUROC", "dark", "pixels").value < 0.8
    with pytest.raises(KeyError):
        report.find("knn", "AUROC", "never", "backbone")


def test_few_labels_are_tasks_of_their_own(place):
    _, _, report = place
    assert set(report.values) == {"knn", "knn_5pct", "linear", "linear_5pct"}
    assert report.facts["linear_5pct"]["pixels"]["train_patients"] == 3
    assert report.facts["linear"]["pixels"]["train_patients"] == 60
    measured = {value.finding for value in report.values["linear_5pct"]} - {"macro"}
    assert measured | set(report.left_out["linear_5pct"]) == {"square", "dark", "never"}


def test_console_files_and_mlflow_tell_the_same_pairs(place):
    from vetdino.platform.core.run_folder import history, metric_name
    from vetdino.platform.core.tracking import connect, tracking_address

    _, out, report = place
    pairs = dict(report.pairs())
    whole = json.loads((out / "metrics.json").read_text())
    assert whole["metrics"] == {name: None if math.isnan(v) else v for name, v in pairs.items()}
    assert set(whole["sources"]) == set(SOURCES)
    assert history(out)[0]["knn/auroc.macro.backbone"] == pairs["knn/auroc.macro.backbone"]
    run = json.loads((out / "run.json").read_text())
    kept = connect(tracking_address(out)).get_run(run["run_id"])
    assert kept.data.metrics == pytest.approx({metric_name(name): value for name, value in pairs.items()})
    assert kept.data.tags["manifest"] == whole["manifest"]
    assert [one.dataset.name for one in kept.inputs.dataset_inputs] == ["squares"]
    assert run["experiment"] == "vetdino/evaluate"
    with (out / "knn.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 7
    assert set(rows[0]) == {"metric", "finding", "source", "value", "low", "high", "present", "known"}


def test_the_predictions_behind_the_values_are_saved(place):
    _, out, report = place
    kept = load_predictions(predictions_file(out, "linear", "pca"))
    np.testing.assert_array_equal(kept.predictions.scores, report.predictions["linear"]["pca"].scores)
    assert kept.source == report.digests["pca"]


def test_predictions_of_no_finding_are_not_saved(tmp_path, backbone):
    folder = shards(tmp_path / "shards", {"train": 6, "test": 5})
    report = evaluate(backbone, folder, tmp_path / "out", CONFIG)
    assert report.values["knn_5pct"] == []
    assert not predictions_file(tmp_path / "out", "knn_5pct", "pca").exists()
    assert predictions_file(tmp_path / "out", "knn", "pca").exists()


def test_a_second_evaluation_takes_the_same_features_and_prints_the_tables(place, backbone, capsys):
    folder, out, report = place
    again = evaluate(backbone, folder, out, CONFIG)
    assert list(again.pairs()) == list(report.pairs())
    said = capsys.readouterr()
    assert '"unit": "studies"' not in said.err
    for words in (
        "backbone - random",
        "macro",
        "square",
        "left out of knn: never",
        "k_chosen",
        "few labels, macro AUROC",
        "workflowType=",
    ):
        assert words in said.out
    assert again.link != report.link


def test_other_shards_are_walked_anew(place, backbone, tmp_path):
    _, out, report = place
    folder = shards(tmp_path / "shards", {"train": 30, "test": 20})
    (tmp_path / "out").mkdir()
    (out / "features").rename(tmp_path / "out" / "features")
    other = evaluate(backbone, folder, tmp_path / "out", QUICK)
    (tmp_path / "out" / "features").rename(out / "features")
    assert other.facts["knn"]["backbone"]["test_studies"] == 20
    assert other.find("knn", "AUROC", "macro", "pixels") != report.find("knn", "AUROC", "macro", "pixels")


def test_five_studies_are_measured_or_named_never_made_up(tmp_path, backbone):
    folder = shards(tmp_path / "shards", {"train": 6, "test": 5})
    report = evaluate(backbone, folder, tmp_path / "out", CONFIG)
    for task in ("knn", "linear"):
        for figure in report.values[task]:
            assert figure.known in (5, 10)
            assert not math.isnan(figure.value)
        measured = {value.finding for value in report.values[task]} - {"macro"}
        assert measured | set(report.left_out[task]) == {"square", "dark", "never"}
    # One patient in twenty of six is one patient, who has one class of everything.
    assert report.values["linear_5pct"] == []
    assert set(report.left_out["linear_5pct"]) == {"square", "dark", "never"}


def test_a_new_task_is_a_name_and_a_function(place, backbone, tmp_path, monkeypatch):
    folder, _, report = place
    monkeypatch.setitem(TASKS, "again", TASKS["knn"])
    both = evaluate(
        backbone, folder, tmp_path, EvaluateConfig(tasks=("again",), resamples=50, knn=CONFIG.knn)
    )
    assert (
        both.find("again", "AP", "macro", "pixels").value == report.find("knn", "AP", "macro", "pixels").value
    )


def test_a_task_may_measure_what_is_no_finding_and_draw_it(place, backbone, tmp_path, monkeypatch, capsys):
    folder, *_ = place

    def width(source, job, fraction):
        figure = MetricValue("width", "VD-LLAT", source.name, float(source.backbone.width), 1.0, 2.0, 3, 4)
        left_out = {"heart": "no truth"} | ({"lungs": "no truth"} if source.name == "random" else {})
        return Measurements((figure,), left_out, {"studies": 4}, {f"{source.name}.png": b"picture"})

    monkeypatch.setitem(TASKS, "width", EvaluationTask(width, baselines=False))
    report = evaluate(backbone, folder, tmp_path, EvaluateConfig(tasks=("width",)))
    assert dict(report.pairs())["width/width.VD-LLAT.random"] == 32.0
    assert report.left_out["width"] == {
        "heart": "no truth",
        "lungs, random": "no truth",
        "pixels": "has no network",
        "pca": "has no network",
    }
    assert (tmp_path / "figures" / "backbone.png").read_bytes() == b"picture"
    assert "VD-LLAT" in capsys.readouterr().out


def test_what_cannot_be_evaluated_is_one_line(place, backbone, tmp_path):
    folder, _, _ = place
    with pytest.raises(ConfigError, match="unknown task 'linaer'; there are: knn, linear"):
        evaluate(backbone, folder, tmp_path, EvaluateConfig(tasks=("linaer",)))
    with pytest.raises(ConfigError, match="nothing to measure"):
        evaluate(backbone, folder, tmp_path, EvaluateConfig(tasks=()))
    with pytest.raises(ConfigError, match="nothing to measure; give a backbone"):
        compare_backbones([], folder, tmp_path)
    with pytest.raises(ShardError, match="no manifest"):
        evaluate(backbone, tmp_path, tmp_path)
    with pytest.raises(CheckpointError, match="no backbone here"):
        evaluate(tmp_path / "none", folder, tmp_path)
    only_train = shards(tmp_path / "shards", {"train": 6})
    with pytest.raises(FeaturesError, match="no studies in the test split"):
        evaluate(backbone, only_train, tmp_path / "out", QUICK)
    unlabelled = shards(tmp_path / "unlabelled", {"train": 6, "test": 5}, findings=())
    with pytest.raises(FeaturesError, match="no finding can be measured"):
        evaluate(backbone, unlabelled, tmp_path / "out2", QUICK)


def test_backbones_are_compared_on_equal_terms_with_a_child_run_each(place, backbone, tmp_path, capsys):
    from vetdino.platform.core.tracking import connect, tracking_address

    folder, _, report = place
    other = backbone_of(tmp_path / "other" / "backbone", 4)
    out = tmp_path / "out"
    found = compare_backbones([backbone, other], folder, out, QUICK)
    first = next(iter(found.labels))
    assert list(found.labels) == [first, "other", "random", "pixels", "pca"]
    assert (
        found.find("knn", "AP", "macro", first).value == report.find("knn", "AP", "macro", "backbone").value
    )
    assert found.find("knn", "AUROC", "dark", f"{first} - other").known == 40
    with pytest.raises(KeyError):
        found.find("knn", "AUROC", "dark", "other - random")
    said = capsys.readouterr().out
    assert "all, macro AUROC" in said
    assert f"{first} - it" in said
    client = connect(tracking_address(out))
    parent = client.get_run(json.loads((out / "run.json").read_text())["run_id"])
    assert parent.data.metrics[f"knn/auroc.macro.{first} - other"] == pytest.approx(
        found.find("knn", "AUROC", "macro", f"{first} - other").value
    )
    assert all(" - " in name for name in parent.data.metrics)
    for name in found.labels:
        run = json.loads((out / "sources" / name / "run.json").read_text())
        child = client.get_run(run["run_id"])
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        value = found.find("knn", "AUROC", "macro", name).value
        assert child.data.metrics["knn/auroc.macro.backbone"] == pytest.approx(value)
        kept = load_predictions(predictions_file(out / "sources" / name, "knn", "backbone"))
        assert kept.source == found.digests[name]


def test_depths_and_sides_of_one_backbone_are_compared_under_names_of_their_own(backbone, tmp_path):
    sources = [backbone, f"{backbone}#depth=1", f"{backbone}#depth=1,side=48"]
    report = compare_backbones(sources, shards(tmp_path / "s", COUNTS), tmp_path / "out", QUICK)
    name = backbone.name
    names = [name, f"{name}-depth1", f"{name}-depth1-side48"]
    assert [*report.labels][:3] == names
    assert len({report.digests[one] for one in names}) == 3
    assert report.labels[names[2]].endswith(", first 1 of 2 blocks, 48 px")
    assert report.find("knn", "AUROC", "square", names[2]).value >= 0
