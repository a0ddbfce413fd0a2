"""Generated abdominal scans on disk: NIfTI images and labels, and their table."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ...core.files import atomic_write
from ..config import TorsoConfig
from ..folder import FolderContents, csv_text, fill_folder
from .scans import MODALITIES, Modality, generate_scan
from .tissues import CLASSES

VERSION = 1
"""Version of the scans; raised when the same config gives other bytes."""


def write_volumes(out: Path | str, config: TorsoConfig) -> Path:
    """Write OUT/images and OUT/labels (NAME.nii.gz), classes.json, scans.csv and phantom.json; returns OUT.

    Images are int16, labels uint8 on the same grid; classes.json: value -> name. scans.csv is the table that
    `vetdino fewshot prepare` reads: image, label, name, modality. A finished scan is kept when run again with
    more scans. Raises ConfigError where OUT holds scans of other settings, DataError where OUT cannot be
    written.
    """
    out = Path(out)
    modalities = MODALITIES if config.modality == "both" else (config.modality,)
    scans = [(modality, number) for number in range(1, config.scans + 1) for modality in modalities]
    contents = FolderContents(
        version=VERSION,
        unit="scans",
        growing=("scans",),
        items=scans,
        is_written=lambda scan: _file(out, scan, "images").exists(),
        write=partial(_write_scan, out, config),
        tables={"scans.csv": _scans_table(scans), "classes.json": json.dumps(CLASSES, indent=2) + "\n"},
        card={"kind": "volume"},
    )
    fill_folder(out, config, contents)
    return out


def _file(out: Path, scan: tuple[Modality, int], kind: str) -> Path:
    """File of a scan (modality, number); kind: images or labels."""
    modality, number = scan
    return out / kind / f"{modality}_{number:03d}.nii.gz"


def _write_scan(out: Path, config: TorsoConfig, scan: tuple[Modality, int]) -> None:
    """Write labels and image; the image comes last, so that a scan with an image has its labels too."""
    generated = generate_scan(config, *scan)
    for kind, voxels in (("labels", generated.labels_ZHW), ("images", generated.image_ZHW)):
        atomic_write(_file(out, scan, kind), _nifti(voxels, generated.affine, generated.stored))


def _nifti(voxels_ZHW: np.ndarray, affine: np.ndarray, stored: str) -> bytes:
    """A .nii.gz file in the orientation `stored`, without time or name in it, so that its bytes repeat."""
    import nibabel
    from nibabel.orientations import axcodes2ornt, ornt_transform

    image = nibabel.Nifti1Image(voxels_ZHW.transpose(2, 1, 0), affine)
    image = image.as_reoriented(ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(stored)))
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    return gzip.compress(image.to_bytes(), compresslevel=5, mtime=0)


def _scans_table(scans: Sequence[tuple[Modality, int]]) -> str:
    def row(scan: tuple[Modality, int]) -> tuple[str, ...]:
        image, label = (_file(Path(), scan, kind).as_posix() for kind in ("images", "labels"))
        return image, label, f"{scan[0]}_{scan[1]:03d}", scan[0]

    return csv_text(("image", "label", "name", "modality"), map(row, scans))
