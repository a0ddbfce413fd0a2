"""What an evaluation refuses before it loads a network or decodes a view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vetdino.downstream.checks import check_evaluation
from vetdino.downstream.common.config import SourceConfig
from vetdino.downstream.config import EvaluateConfig
from vetdino.downstream.evaluate import compare_backbones, evaluate
from vetdino.downstream.findings.config import FinetuneConfig, KnnConfig, LinearConfig
from vetdino.downstream.views.config import ConsistencyConfig, SynthesisConfig
from vetdino.platform.core.errors import ConfigError, DataError, FeaturesError, ShardError
from vetdino.platform.data.manifest import VERSION, Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View

BOTH = {"train": "0101", "val": "01", "test": "01"}
"""A study for each digit: 1 where it has the mass, 2 where it has mass and cyst, ? where the mass is unknown."""


def labelled(folder: Path, splits: dict[str, str], *, shared_patient: bool = False) -> Path:
    """Shards with one view a study, whose picture nobody decodes here."""
    written = []
    for split, labels in splits.items():
        with ShardWriter(folder, split) as writer:
            for number, label in enumerate(labels):
                patient = "shared" if shared_patient else f"p{split}{number}"
                mass = np.nan if label == "?" else float(label in "12")
                finding = {"mass": mass, "cyst": float(label == "2")}
                view = View(np.zeros((4, 4), np.uint8), "VD")
                writer.write(Study(f"{split}{number}", patient, (view,), finding, split))
        written += writer.shards
    save_manifest(folder, Manifest(VERSION, "few", ("mass", "cyst"), tuple(written), {}, "c"))
    return folder


@pytest.mark.parametrize(
    "config",
    [
        EvaluateConfig(),
        EvaluateConfig(tasks=("knn", "linear", "finetune", "consistency", "synthesis")),
        EvaluateConfig(fractions=(0.5, 1.0)),
    ],
)
def test_what_can_be_measured_passes(config, tmp_path):
    check_evaluation(labelled(tmp_path / "shards", BOTH), tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["knn", "linear", "finetune"])
@pytest.mark.parametrize(
    ("splits", "fact"),
    [
        ({**BOTH, "test": "00"}, "mass: 0 present and 2 absent in test"),
        ({**BOTH, "test": "1?"}, "mass: 1 present and 0 absent in test"),
        ({**BOTH, "train": "1111"}, "mass: 4 present and 0 absent in train"),
        ({**BOTH, "test": ""}, "no studies in the test split"),
        ({**BOTH, "train": ""}, "no studies in the train split"),
    ],
)
def test_labels_that_measure_nothing_are_refused_before_the_backbone_is_looked_for(
    task, splits, fact, tmp_path
):
    folder = labelled(tmp_path / "shards", splits)
    with pytest.raises(FeaturesError, match=fact):
        evaluate("nowhere", folder, tmp_path / "out", EvaluateConfig(tasks=(task,)))
    with pytest.raises(FeaturesError, match=fact):
        compare_backbones(["nowhere", "nor here"], folder, tmp_path / "out", EvaluateConfig(tasks=(task,)))
    assert not (tmp_path / "out").exists()


def test_a_patient_in_two_splits_is_refused(tmp_path):
    folder = labelled(tmp_path / "shards", BOTH, shared_patient=True)
    with pytest.raises(FeaturesError, match="1 patients are in train and in"):
        check_evaluation(folder, tmp_path / "out", EvaluateConfig())


def test_findings_that_do_not_exclude_one_another_are_refused(tmp_path):
    config = EvaluateConfig(tasks=("linear",), linear=LinearConfig(exclusive=True))
    check_evaluation(labelled(tmp_path / "apart", BOTH), tmp_path / "out", config)
    together = labelled(tmp_path / "together", {"train": "0122", "test": "0122"})
    with pytest.raises(FeaturesError, match="2 of 4 studies of train have several"):
        check_evaluation(together, tmp_path / "out", config)


@pytest.mark.parametrize(
    ("config", "fact"),
    [
        (EvaluateConfig(fractions=(0.1, 1.5)), "fractions: 1.5"),
        (EvaluateConfig(fractions=(0.0,)), "fractions: 0 of"),
        (EvaluateConfig(fractions=(float("nan"),)), "fractions: nan"),
        (EvaluateConfig(resamples=0), "resamples 0"),
        (EvaluateConfig(sources=SourceConfig(batch=0)), "sources.batch 0"),
        (EvaluateConfig(knn=KnnConfig(ks=(5, 0))), "knn.k or knn.ks"),
        (EvaluateConfig(knn=KnnConfig(temperature=0)), "knn.temperature 0"),
        (EvaluateConfig(tasks=("knn", "linear"), linear=LinearConfig(cs=())), "linear.cs"),
        (EvaluateConfig(tasks=("knn", "linear"), linear=LinearConfig(folds=1)), "linear.folds 1"),
        (EvaluateConfig(tasks=("knn", "finetune"), finetune=FinetuneConfig(lr=-1)), "finetune.lr"),
        (EvaluateConfig(tasks=("knn", "synthesis"), synthesis=SynthesisConfig(side=60)), "synthesis.side"),
        (
            EvaluateConfig(tasks=("knn", "finetune"), finetune=FinetuneConfig(workers=0, device="cuda")),
            "finetune.device cuda needs a GPU",
        ),
    ],
)
def test_a_setting_out_of_range_is_refused_before_the_first_task(config, fact, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=fact):
        evaluate("nowhere", labelled(tmp_path / "shards", BOTH), tmp_path / "out", config)


def test_settings_of_a_task_that_does_not_run_are_not_looked_at(tmp_path):
    config = EvaluateConfig(tasks=("synthesis",), knn=KnnConfig(k=0))
    check_evaluation(labelled(tmp_path / "shards", {"train": "0"}), tmp_path / "out", config)


def test_too_few_views_for_principal_components_are_refused(tmp_path):
    folder = labelled(tmp_path / "shards", {"train": "0", "test": "01"})
    with pytest.raises(FeaturesError, match="1 views in the train split"):
        check_evaluation(folder, tmp_path / "out", EvaluateConfig(tasks=("consistency",)))


def test_consistency_needs_a_test_split_and_the_truth_that_is_named(tmp_path):
    folder = labelled(tmp_path / "shards", BOTH)
    named = EvaluateConfig(tasks=("consistency",), consistency=ConsistencyConfig(truth=tmp_path / "gone"))
    with pytest.raises(ConfigError, match="no truth in it"):
        check_evaluation(folder, tmp_path / "out", named)
    untested = labelled(tmp_path / "untested", {"train": "01"})
    with pytest.raises(FeaturesError, match="no studies in the test split"):
        check_evaluation(untested, tmp_path / "out", EvaluateConfig(tasks=("consistency",)))


def test_a_file_in_place_of_the_folder_and_missing_shards_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        check_evaluation(labelled(tmp_path / "shards", BOTH), tmp_path / "file", EvaluateConfig())
    with pytest.raises(ShardError, match="no manifest"):
        check_evaluation(tmp_path, tmp_path / "out", EvaluateConfig())
