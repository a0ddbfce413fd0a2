"""Generated radiographs on disk: DICOM files, labels, and the truth behind every pixel.

No public veterinary archive can ship with a project; these studies can, because their patients never lived.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from ...core.files import atomic_path
from ..config import FINDINGS, PhantomConfig
from ..folder import FolderContents, csv_text, fill_folder
from .dicom import dicom_dataset
from .solids import Rays
from .studies import StudyPlan, generate_study, plan_study
from .xray import Projection

VERSION = 3
"""Version of the images; raised when the same config gives other bytes."""

TRUTH_SIDE = 256
"""Largest side of a truth map, in pixels."""


def write_radiographs(out: Path | str, config: PhantomConfig) -> Path:
    """Write OUT/dicom/PATIENT/STUDY/IMAGE.dcm, OUT/truth, OUT/labels.csv and OUT/phantom.json; returns OUT.

    A finished study is kept when run again. Raises ConfigError where OUT holds studies of other settings,
    DataError where OUT cannot be written.
    """
    out = Path(out)
    contents = FolderContents(
        version=VERSION,
        unit="studies",
        growing=("studies",),
        items=range(config.studies),
        is_written=lambda index: _study_folder(out, plan_study(config, index)).is_dir(),
        write=partial(write_study, out, config),
        tables={"labels.csv": labels_table(config)},
        card={"findings": FINDINGS},
    )
    fill_folder(out, config, contents)
    return out


def labels_table(config: PhantomConfig) -> str:
    """labels.csv: study, patient, and 0, 1 or nothing (not visible in its region) for every finding."""
    plans = (plan_study(config, index) for index in range(config.studies))
    rows = ((plan.uid, plan.patient, *(plan.labels.get(f, "") for f in FINDINGS)) for plan in plans)
    return csv_text(("study", "patient", *FINDINGS), rows)


def _study_folder(out: Path, plan: StudyPlan) -> Path:
    return out / "dicom" / plan.patient / plan.uid


def write_study(out: Path, config: PhantomConfig, index: int) -> None:
    """Write one study completely or not at all: its folder is renamed last, after the truth is written."""
    study = generate_study(config, index)
    folder = _study_folder(out, study.plan)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for number, view in enumerate(study.views):
            assert view.truth is not None
            random = np.random.default_rng((config.seed, 6, index, number))
            dataset = dicom_dataset(config, study, number, random)
            dataset.save_as(temporary / f"IMAGE{number}.dcm", enforce_file_format=True)
            path = out / "truth" / f"{study.plan.uid}_{number}.npz"
            _write_truth(path, view.truth, view.rays, str(dataset.SOPInstanceUID))
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_truth(path: Path, truth: Projection, rays: Rays, instance: str) -> None:
    """Write masks and 3-D points, subsampled to at most TRUTH_SIDE pixels a side.

    organs: names (K,); masks: np.packbits of (K, h, w) bool; shape: (h, w); points: (h, w, 3) float16 cm in
    the animal frame, of the densest organ along the ray, NaN outside the animal; instance: SOPInstanceUID;
    step: image pixels per pixel of the map; frame, centre, pixel: the rays (see `solids.Rays`).
    """
    step = -(-max(rays.shape) // TRUTH_SIDE)
    subsampled = (slice(step // 2, None, step), slice(step // 2, None, step))
    organs = sorted(truth.masks)
    masks = np.stack([truth.masks[organ][subsampled] for organ in organs])
    points = rays.points_at(truth.depth)[subsampled].astype(np.float16)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            organs=np.array(organs),
            masks=np.packbits(masks),
            shape=np.array(masks.shape[1:]),
            points=points,
            instance=np.array(instance),
            step=np.array(step),
            frame=rays.frame,
            centre=rays.center,
            pixel=np.array(rays.pixel),
        )
