"""Generated abdominal scans: patients nobody was, in a CT or an MRI scanner, every organ known to the voxel.

A patient (`abdomen`) lies down somewhere in a field of view, is cut into thick slices (`cut`) and goes through a
scanner (`scanner`). Bytes depend on the seed, the modality and the scan's number alone: not on how many scans
follow, not on the workers.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...core.errors import DataError
from ...core.files import atomic_write
from ...core.progress import Progress
from ..config import TorsoConfig
from ..folder import claim_folder, run_all
from .abdomen import Grid, Patient, draw_patient
from .cut import CLASSES, torso_of
from .scanner import Modality, scanned

# Z slices from the feet up, H rows front to back, W columns from the patient's right to the left.


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """One generated scan.

    image_ZHW: int16, HU or grey; labels_ZHW: uint8, numbers of CLASSES; stored: axes of its file (nibabel's
    letters, "LPS" runs to the left, to the back, to the head).
    """

    name: str
    image_ZHW: np.ndarray
    labels_ZHW: np.ndarray
    grid: Grid
    patient: Patient
    stored: str

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) from (column, row, slice) to mm in RAS+, NIfTI's space: x to the right, y to the front."""
        _, y, x = self.grid.axes(self.grid.side)
        affine = np.diag([-self.grid.pixel, -self.grid.pixel, self.grid.thickness, 1.0])
        affine[:3, 3] = -x[0], -y[0], self.grid.top - (self.grid.slices - 1) * self.grid.thickness
        return affine

    def __repr__(self) -> str:
        return f"Scan({self.name}, {'x'.join(map(str, self.image_ZHW.shape))})"


MODALITIES: tuple[Modality, ...] = ("ct", "mri")


def scan_of(config: TorsoConfig, modality: Modality, number: int) -> Scan:
    """The number-th scan of a modality, from 1.

    >>> scan_of(TorsoConfig(side=64), "ct", 1)
    Scan(ct_001, 38x64x64)
    """
    random = np.random.default_rng((config.seed, MODALITIES.index(modality), number))
    patient = draw_patient(random)
    grid = _draw_grid(config.side, patient, random)
    stored = str(random.choice(["LPS", "LAS", "RAS"]))
    torso = torso_of(patient, grid, random)
    image_ZHW = scanned(torso, grid, modality, random)
    return Scan(f"{modality}_{number:03d}", image_ZHW, torso.labels_ZHW, grid, patient, stored)


def _draw_grid(side: int, patient: Patient, random: np.random.Generator) -> Grid:
    """Slices of 5.5 to 8 mm from the heart to below the kidneys; the patient somewhere in the picture."""
    side = round(side * float(random.choice([0.75, 0.875, 1.0])))
    wide = 2 * (143 + patient.fat) * patient.scale[0]
    field = wide * random.uniform(1.06, 1.3)
    thickness = random.uniform(5.5, 8)
    top, bottom = random.uniform(72, 100) * patient.scale[2], random.uniform(-138, -116) * patient.scale[2]
    slices = int(np.clip(round((top - bottom) / thickness) + 1, 24, 40))
    loose = (field - wide) / 4
    left, back = np.clip(random.normal(0, 8, 2), -loose, loose).tolist()
    return Grid(side, field / side, slices, thickness, top, (left, 11 + back))


# Files --------------------------------------------------------------------------------------------

VERSION = 1
"""Of the scans: raised when the same config gives other bytes."""


def write_volumes(out: Path | str, config: TorsoConfig) -> Path:
    """Write OUT/images and OUT/labels (NAME.nii.gz), classes.json, scans.csv and phantom.json; gives OUT.

    Images are int16, labels uint8 on the same grid; classes.json: number -> name. scans.csv is the table that
    `vetdino fewshot prepare` reads: image, label, name, modality. A finished scan is kept when run again with
    more scans. Raises ConfigError where OUT holds scans of other settings, DataError where OUT cannot be
    written.
    """
    out = Path(out)
    kinds = MODALITIES if config.modality == "both" else (config.modality,)
    wanted = [(kind, number) for number in range(1, config.scans + 1) for kind in kinds]
    try:
        out.mkdir(parents=True, exist_ok=True)
        claim_folder(out, config, VERSION, growing=("scans",), kind="volume")
        todo = [which for which in wanted if not _file(out, which).exists()]
        with Progress("phantom", total=len(wanted), unit="scans") as progress:
            progress.advance(len(wanted) - len(todo))
            for _ in run_all(partial(_write_scan, out, config), todo, config.workers):
                progress.advance()
        atomic_write(out / "scans.csv", _table(wanted))
        atomic_write(out / "classes.json", json.dumps(CLASSES, indent=2) + "\n")
    except OSError as error:
        raise DataError(
            f"{out}: cannot write ({error.strerror or error}); make room and run again, finished scans are kept"
        ) from error
    return out


def _file(out: Path, which: tuple[Modality, int], kind: str = "images") -> Path:
    modality, number = which
    return out / kind / f"{modality}_{number:03d}.nii.gz"


def _write_scan(out: Path, config: TorsoConfig, which: tuple[Modality, int]) -> None:
    """Both files of a scan; the image comes last, so that where it is the labels are too."""
    scan = scan_of(config, *which)
    for kind, voxels in (("labels", scan.labels_ZHW), ("images", scan.image_ZHW)):
        atomic_write(_file(out, which, kind), _nifti(voxels, scan.affine, scan.stored))


def _nifti(voxels_ZHW: np.ndarray, affine: np.ndarray, stored: str) -> bytes:
    """A .nii.gz in memory, its axes turned to `stored`; no time and no name in it, so that bytes repeat."""
    import nibabel
    from nibabel.orientations import axcodes2ornt, ornt_transform

    image = nibabel.Nifti1Image(voxels_ZHW.transpose(2, 1, 0), affine)
    image = image.as_reoriented(ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(stored)))
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    return gzip.compress(image.to_bytes(), compresslevel=5, mtime=0)


def _table(wanted: list[tuple[Modality, int]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("image", "label", "name", "modality"))
    for modality, number in wanted:
        image, label = (_file(Path(), (modality, number), kind).as_posix() for kind in ("images", "labels"))
        table.writerow((image, label, f"{modality}_{number:03d}", modality))
    return text.getvalue()
