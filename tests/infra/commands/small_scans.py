"""Folders of small labelled scans and a backbone, as the few-shot commands read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np

from vetdino.infra import cli
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.saving import save_backbone

PREPARE = ("--mri-spacing", "0", "0", "0", "--modality", "mri")
"""Keep the spacing that the scans have."""


def save_scan(folder: Path, number: int, image_ZHW: np.ndarray, labels_ZHW: np.ndarray) -> None:
    """image_N.nii.gz and label_N.nii.gz of one scan, 5 x 1.5 x 1.5 mm."""
    affine = np.diag([-1.5, -1.5, 5.0, 1.0])
    for kind, array in (("image", np.clip(image_ZHW, 0, 255).astype(np.float32)), ("label", labels_ZHW)):
        path = folder / f"{kind}_{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)


def prepared_folder(
    root: Path, write_scan: Callable[[Path, int], None], *, scans: int, side: int, patch: int
) -> Path:
    """`root`, filled with raw scans `raw`, prepared ones `volumes` and a backbone `net`."""
    (root / "raw").mkdir()
    for number in range(1, scans + 1):
        write_scan(root / "raw", number)
    config = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=patch, width=48, heads=2, depth=2)
    save_backbone(root / "net", random_backbone(config, seed=3))
    settings = ("--classes", "1=liver,2=kidneys", "--side", str(side), *PREPARE)
    assert cli.main(["fewshot", "prepare", str(root / "raw"), str(root / "volumes"), *settings]) == 0
    return root
