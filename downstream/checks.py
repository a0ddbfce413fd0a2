"""What settings, manifest and labels say of an evaluation, before a network is loaded and a view is decoded."""

from __future__ import annotations

from pathlib import Path

from ..platform.core.device import resolve_device
from ..platform.core.errors import DataError, FeaturesError
from ..platform.core.extras import require_extra
from ..platform.data.manifest import Manifest, load_manifest
from ..platform.measure.features import Features
from .config import EvaluateConfig
from .findings.finetune import label_table, with_validation
from .findings.protocol import TaskSplits, check_exclusive, task_splits

FINDINGS = ("knn", "linear", "finetune")
"""Tasks that predict findings."""


def check_evaluation(shards: str | Path, out: Path, config: EvaluateConfig) -> None:
    """Raises what the tasks would raise later.

    ConfigError for settings out of range, FeaturesError where no finding can be measured, a split lacks studies or two
    share a patient, DataError where `out` is a file or the ground truth is of other studies.
    """
    config.check()
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; give a folder to write to")
    manifest = load_manifest(shards)
    if set(config.tasks) & set(FINDINGS):
        _check_findings(label_table(shards), manifest, config)
    if {"knn", "linear", "consistency"} & set(config.tasks):
        views = sum(shard.views for shard in manifest.of("train"))
        if views < 2:
            raise FeaturesError(f"{views} views in the train split; principal components need 2, ingest more")
    if "consistency" in config.tasks:
        _check_consistency(shards, manifest, config)


def _check_findings(table: Features, manifest: Manifest, config: EvaluateConfig) -> None:
    if {"knn", "linear"} & set(config.tasks):
        splits = task_splits(table, max(config.fractions), config.seed)
        _check_measurable(splits)
        if "linear" in config.tasks and config.linear.exclusive:
            check_exclusive(splits.train)
    if "finetune" in config.tasks:
        finetune = config.finetune
        parts = table if manifest.studies("val") else with_validation(table, config.seed)
        splits = task_splits(parts, finetune.fraction, config.seed)
        _check_measurable(splits)
        if finetune.workers:
            require_extra("ray", "finetune.workers above 0")
        else:
            resolve_device(finetune.device, "finetune.device")


def _check_measurable(splits: TaskSplits) -> None:
    """Raises FeaturesError where no finding is both present and absent in train and in test."""
    if not splits.test.findings:
        why = "; ".join(f"{name}: {reason}" for name, reason in splits.left_out.items()) or "there are none"
        raise FeaturesError(f"no finding can be measured ({why}); ingest more labelled studies")


def _check_consistency(shards: str | Path, manifest: Manifest, config: EvaluateConfig) -> None:
    if not manifest.studies("test"):
        raise FeaturesError(f"{shards}: no studies in the test split; ingest more patients")
    if config.consistency.truth is not None:
        from .views.consistency import open_truth

        open_truth(shards, config.consistency)
