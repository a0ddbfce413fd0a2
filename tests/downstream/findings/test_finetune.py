"""Fine-tuning learns what shows, scores every test study once, and finds its result again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vetdino.downstream.common.sources import SourceFactory
from vetdino.downstream.findings.finetune import finetune, labeled_splits, with_validation
from vetdino.platform.core.config import to_json
from vetdino.platform.core.errors import ConfigError, FeaturesError
from vetdino.platform.measure.metrics import auroc
from vetdino.platform.measure.results import metric_values
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


def test_a_finding_that_shows_is_learnt_and_every_test_study_is_answered(learnt):
    answers, _ = learnt
    assert answers.findings == ("square", "dim")
    assert answers.scores.shape == answers.truth.shape == (24, 2)
    assert dict(zip(answers.findings, auroc(answers.truth, answers.scores), strict=True))["square"] > 0.9
    assert np.isnan(answers.truth[:, 1]).sum() == 6
    assert metric_values({"ours": answers}, n=50)[0].finding == "macro"


def test_a_finding_of_one_class_is_left_out_by_name(learnt):
    assert learnt[0].left_out == {"never": "0 present and 48 absent in train"}


def test_the_facts_tell_what_it_took(learnt):
    facts = learnt[0].facts
    assert 1 <= facts["best_epoch"] <= facts["epochs"] <= 12
    assert facts["chosen"] == "best macro AUROC on val"
    assert facts["val_auroc"] > 0.5
    assert facts["seconds"] > 0
    assert (facts["train_studies"], facts["test_studies"], facts["test_patients"]) == (48, 24, 12)
    assert facts["workers"] == 1
    # Of the backbone all but its mask token, which nothing looks at here, and two findings' heads.
    whole = random_backbone(
        BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2), 0
    )
    assert facts["trainable"] == sum(p.numel() for p in whole.parameters()) - 32 + 2 * 33


def test_finished_it_answers_at_once_and_leaves_only_its_result(learnt, source, folder, quick):
    answers, out = learnt
    (place,) = (out / "finetune").iterdir()
    assert [path.name for path in place.iterdir()] == ["result.json"]
    written = (place / "result.json").stat().st_mtime_ns
    # Where it trains does not count for what it answers.
    again = finetune(source, folder, replace(quick, epochs=12, threads=2, device="auto"), out)
    assert np.array_equal(again.scores, answers.scores)
    assert again.facts == answers.facts
    assert (place / "result.json").stat().st_mtime_ns == written


def test_other_settings_backbones_and_shards_have_folders_of_their_own(
    source, folder, tmp_path, quick, make_shards
):
    once = replace(quick, epochs=1)
    other = make_shards(tmp_path / "shards", {"train": 40, "val": 16, "test": 24})
    twin = SourceFactory(folder, folder / "features").random("ours", source, seed=1)
    inputs = [(source, folder, once), (twin, folder, once), (source, other, once)]
    inputs.append((source, folder, replace(once, seed=1)))
    scores = [finetune(*one, tmp_path / "out").scores for one in inputs]
    assert len(list((tmp_path / "out" / "finetune").iterdir())) == 4
    assert not any(np.array_equal(scores[0], other) for other in scores[1:])


def test_without_a_validation_split_a_fifth_of_the_training_patients_chooses(
    source, tmp_path, quick, make_shards
):
    only = make_shards(tmp_path / "shards", {"train": 40, "test": 20})
    parts = labeled_splits(only, quick)
    assert len(set(parts.val.patients)) == 4
    assert not set(parts.val.patients) & set(parts.train.patients)
    assert len(parts.train) + len(parts.val) == 40
    facts = finetune(source, only, replace(quick, epochs=1), tmp_path).facts
    assert facts["chosen"] == "best macro AUROC on a fifth of the training patients"


def test_one_training_patient_is_not_divided_and_the_last_epoch_answers(source, tmp_path, quick, make_shards):
    only = make_shards(tmp_path / "shards", {"train": 2, "test": 20})
    parts = labeled_splits(only, quick)
    assert len(parts.val) == 0
    assert set(parts.left_out) == {"dim", "never"}
    facts = finetune(source, only, replace(quick, epochs=2), tmp_path).facts
    assert facts["best_epoch"] == facts["epochs"] == 2
    assert facts["chosen"].startswith("the last epoch")
    assert "val_auroc" not in facts


def test_a_given_validation_split_stays_as_it_is(folder, quick):
    parts = labeled_splits(folder, quick)
    assert len(parts.val) == 16
    assert with_validation(parts.test, 0) is parts.test


def test_a_smaller_fraction_learns_from_patients_of_a_larger_one(folder, quick):
    some, more = (labeled_splits(folder, replace(quick, fraction=share)) for share in (0.25, 0.5))
    assert len(set(some.train.patients)) == 6
    assert len(set(more.train.patients)) == 12
    assert set(some.train.patients) < set(more.train.patients)
    assert len(some.test) == 24


def test_studies_of_which_nothing_is_known_do_not_teach(tmp_path, quick, make_shards):
    only = make_shards(tmp_path / "shards", {"train": 48, "val": 16, "test": 24}, findings=("dim",))
    parts = labeled_splits(only, quick)
    assert len(parts.train) == 36
    assert not np.isnan(parts.train.labels).any()


def test_a_source_without_a_backbone_is_refused_by_name(folder, tmp_path, quick):
    floor = SourceFactory(folder, tmp_path).pixels()
    with pytest.raises(ConfigError, match="pixels has no backbone to fine-tune; leave it out"):
        finetune(floor, folder, quick, tmp_path)


def test_where_no_finding_can_be_measured_nothing_is_trained(source, tmp_path, quick, make_shards):
    only = make_shards(tmp_path / "shards", {"train": 8, "test": 8}, findings=("never",))
    answers = finetune(source, only, quick, tmp_path / "out")
    assert answers.findings == ()
    assert answers.left_out == {"never": "0 present and 6 absent in train"}
    assert not (tmp_path / "out").exists()


def test_an_empty_split_is_refused(source, tmp_path, quick, make_shards):
    with pytest.raises(FeaturesError, match="no studies in the test split"):
        finetune(source, make_shards(tmp_path / "a", {"train": 6}), quick, tmp_path)
    with pytest.raises(FeaturesError, match="no studies in the train split"):
        finetune(source, make_shards(tmp_path / "b", {"test": 6}), quick, tmp_path)


def test_more_workers_than_studies_are_refused_before_ray_starts(source, folder, tmp_path, quick):
    config = replace(quick, fraction=0.04, batch=8, workers=8)
    with pytest.raises(ConfigError, match=r"finetune\.workers 8 are more than the 2 training studies"):
        finetune(source, folder, config, tmp_path)


RAY = """
import sys
from pathlib import Path
from vetdino.downstream.common.sources import SourceFactory
from vetdino.downstream.findings.config import FinetuneConfig
from vetdino.downstream.findings.finetune import finetune
from vetdino.platform.core.config import from_json

shards, weights = sys.argv[1:]
source = SourceFactory(shards, Path("features")).backbone("ours", weights)
finetune(source, shards, from_json(FinetuneConfig, Path("config.json").read_text()), Path("out"))
"""


def test_two_ray_workers_answer_as_one_process_does(short, folder, weights, tmp_path, quick):
    config = replace(quick, workers=2)
    (tmp_path / "config.json").write_text(to_json(config))
    done = subprocess.run(
        [sys.executable, "-c", RAY, str(folder), str(weights)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,  # Ray takes its time on a machine that is busy with other work
    )
    assert done.returncode == 0, done.stderr[-3000:]
    source = SourceFactory(folder, tmp_path / "features").backbone("ours", weights)
    together = finetune(source, folder, config, tmp_path / "out")  # answers at once
    assert together.facts["workers"] == 2
    assert together.facts["best_epoch"] == short.facts["best_epoch"]
    assert together.scores == pytest.approx(short.scores, abs=1e-5)
    assert np.ptp(short.scores) > 0.1
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert lines[-1]["finished"]
    stages = list(dict.fromkeys(line["stage"] for line in lines if line.get("stage")))
    assert stages[:2] == ["starting Ray", "starting 2 workers"]
    assert [path.name for path in (tmp_path / "out" / "finetune").glob("*/*")] == ["result.json"]
