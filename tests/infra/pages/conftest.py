"""Run folders as trainings and evaluations write them, without the hours of a training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from vetdino.platform.core.run_folder import RunFolder
from vetdino.platform.data.manifest import Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View
from vetdino.platform.measure.predictions import Predictions, predictions_file, save_predictions
from vetdino.platform.measure.results import metric_values
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.saving import save_backbone

FINDINGS = ("mass", "stones")
PATIENTS = tuple(f"canary-patient-{n // 2}" for n in range(60))
SMALL = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, heads=2, depth=2)


class RunFolders:
    """Writes runs below a root. manifest: the digest of the shards that they use by default."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = self._shards(root / "shards")

    def training(self, name: str, seed: int, lr: float = 0.1, backbone: bool = False) -> Path:
        """A training of 5 records whose curve depends on the seed; optionally with a backbone."""
        folder = self._folder(
            name,
            params={"optim.lr": lr, "seed": seed, "out": str(self.root / name), "shards": "shards"},
            tags={"config": f"config-{lr}", "seed": seed, "views": "multi"},
        )
        run = RunFolder(folder)
        for step in range(10, 60, 10):
            run.append_metrics(
                step, {"loss/total": 5 - lr * step + seed, "probe/auroc_macro": 0.5 + lr * step / 99}
            )
        if backbone:
            made = random_backbone(SMALL, seed + round(1000 * lr))  # one training, one backbone
            object.__setattr__(made.card, "origin", {"config": f"config-{lr}", "manifest": self.manifest})
            save_backbone(folder / "backbone", made)
        return folder

    def evaluation(
        self, name: str, skill: float, digest: str = "d", seed: int = 0, manifest: str = "", keep: bool = True
    ) -> Path:
        """Predictions of a backbone (the more skill the better) and of pixels to two findings, with figures."""
        manifest = manifest or self.manifest
        predictions = {"backbone": predictions_of(skill, seed), "pixels": predictions_of(0.0, 99)}
        folder = self._folder(name, params={"resamples": 50}, tags={"manifest": manifest, "backbone": digest})
        values = metric_values(predictions, 50)
        run = RunFolder(folder)
        run.write_table("knn", [asdict(value) for value in values])
        run.append_metrics(0, {"knn/auroc.macro.backbone": values[0].value})
        whole = {
            "sources": {"backbone": {"digest": digest}, "pixels": {"digest": "pixels-32"}},
            "left_out": {"knn": {"never": "0 present and 60 absent in train"}},
        }
        (folder / "metrics.json").write_text(json.dumps(whole))
        for source, each in predictions.items() if keep else ():
            save_predictions(predictions_file(folder, "knn", source), each, manifest, digest)
        return folder

    def _folder(self, name: str, params: dict, tags: dict) -> Path:
        folder = self.root / name
        folder.mkdir(parents=True)
        start = {"params": params, "tags": {"manifest": self.manifest, "git_revision": "abc", **tags}}
        (folder / "params.json").write_text(json.dumps(start))
        return folder

    def _shards(self, folder: Path) -> str:
        random = np.random.default_rng(0)
        with ShardWriter(folder, "test") as writer:
            for number in range(3):
                views = tuple(
                    View(random.integers(0, 255, (60, 40)).astype(np.uint8), p) for p in ("VD", "DV")
                )
                views = views[:1] if number == 1 else views
                writer.write(Study(f"canarykey{number}", f"canary-patient-{number}", views, split="test"))
        manifest = Manifest(1, "noise", FINDINGS, tuple(writer.shards), {"patients": 3}, "c")
        save_manifest(folder, manifest)
        return manifest.digest


def predictions_of(skill: float, seed: int) -> Predictions:
    """Scores that follow the truth by `skill` beside noise; the truth and the patients are always the same."""
    truth = np.random.default_rng(5).integers(0, 2, (60, 2)).astype(float)
    noise = np.random.default_rng(seed).normal(size=(60, 2))
    return Predictions(FINDINGS, PATIENTS, truth, skill * truth + noise)


@pytest.fixture
def folders(tmp_path) -> RunFolders:
    return RunFolders(tmp_path)


@pytest.fixture(scope="session")
def folders_below() -> type[RunFolders]:
    """For fixtures that several tests share: give it a folder."""
    return RunFolders
