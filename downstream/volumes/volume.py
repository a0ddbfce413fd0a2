"""Prepared scans, read back from the folder that `vetdino fewshot prepare` wrote, and masks over the original scan."""

# Z, H, W slices, rows and columns as prepared; I, J, K axes as stored.

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...platform.core.errors import DataError
from ...platform.core.files import atomic_write
from ..common.shapes import shape_text
from .config import Modality, Plane
from .grid import MAX_SHEAR, Grid, Spacing, grid_from_card, restore_from_grid, shear, voxel_volume
from .names import natural_key

VERSION = 2
"""Version of the prepared folder's format."""

BEFORE_UNITS = 1
"""Version that had no checks of units and sheared grids and cut all scans axially; it is read with a warning."""

ITK_SHEAR = 1e-5
"""ITK opens no NIfTI file whose sform is more sheared than this; it takes the qform then, if there is one."""

log = logging.getLogger(__name__)

MANIFEST = "volumes.json"


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One prepared scan: slices from the feet up, oriented as radiologists read them.

    >>> Volume("7", np.zeros((5, 8, 8), np.float32), None, (5.0, 1.0, 1.0), "ct", None)
    Volume(7, ct 5x8x8, no labels)
    """

    name: str
    image_ZHW: np.ndarray
    """float32, 0 to 255: the CT window, or an MRI from its lowest to its clipped value."""
    labels_ZHW: np.ndarray | None
    """uint8 class numbers, 0 is background."""
    spacing: Spacing
    """mm from slice to slice, row to row, column to column."""
    modality: Modality
    affine: np.ndarray | None
    """(4, 4) of the scan as stored: index -> mm in RAS+."""
    grid: Grid | None = None
    """How the stored scan became these slices, to bring masks back."""
    in_mm: bool = True
    """Whether the spacing is known, in mm; else it is that of pictures that are 1 apart."""

    @property
    def plane(self) -> Plane:
        """Plane of the slices."""
        return self.grid.plane if self.grid is not None else "axial"

    @property
    def steps(self) -> np.ndarray | None:
        """(3, 3) mm: rows lead to the next slice, row and column (`Grid.steps`); None where the spacing is unknown."""
        if not self.in_mm:
            return None
        return self.grid.steps if self.grid is not None else np.diag(self.spacing)

    @property
    def voxel_ml(self) -> float | None:
        """Milliliters of a prepared voxel; None where the spacing is unknown."""
        return None if self.steps is None else voxel_volume(self.steps) / 1000

    def __repr__(self) -> str:
        shape = shape_text(self.image_ZHW.shape)
        if self.labels_ZHW is None:
            return f"Volume({self.name}, {self.modality} {shape}, no labels)"
        count = np.count_nonzero(np.unique(self.labels_ZHW))
        return f"Volume({self.name}, {self.modality} {shape}, {count} classes)"


@dataclass(frozen=True, slots=True, eq=False)
class Volumes:
    """A prepared folder. cards: name -> the scan's entry in volumes.json; names in natural order (2 before 10)."""

    folder: Path
    classes: Mapping[int, str]
    names: tuple[str, ...]
    cards: Mapping[str, Mapping[str, Any]] = field(repr=False)
    left_out: Mapping[str, str] = field(default_factory=dict, repr=False)
    digest: str = ""
    """sha256 over names, classes and files: equal data, equal digest."""

    def load(self, name: str) -> Volume:
        """Reads one scan. Raises DataError where it is not among the names or its file is damaged."""
        if name not in self.cards:
            raise DataError(f"{self.folder}: no scan '{name}'; there are {', '.join(self.names)}")
        path = self.folder / self.cards[name]["file"]
        try:
            with path.open("rb") as stream, np.load(stream) as file:
                card = json.loads(str(file["card"]))
                image_ZHW = file["image"].astype(np.float32)
                labels_ZHW = file["labels"] if "labels" in file.files else None
            grid = grid_from_card(card["grid"])
            in_mm = card["in_mm"] if "in_mm" in card else not _is_assumed(grid.affine)
            modality = card["modality"]
            return Volume(name, image_ZHW, labels_ZHW, grid.spacing, modality, grid.affine, grid, in_mm)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path}: damaged ({type(error).__name__}); run `vetdino fewshot prepare` again"
            ) from None

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Volume]:
        return map(self.load, self.names)


def load_volumes(folder: Path | str) -> Volumes:
    """The scans of a folder that `prepare` wrote. Raises DataError for another folder."""
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest["version"] not in (BEFORE_UNITS, VERSION):
            raise DataError(
                f"{path}: version {manifest['version']}, this vetdino reads {BEFORE_UNITS} and {VERSION}; prepare again"
            )
        if manifest["version"] == BEFORE_UNITS:
            log.warning(
                "%s: prepared when units and sheared grids were not checked and all scans were cut axially; "
                "run `vetdino fewshot prepare` again to have them checked",
                path,
            )
        cards = manifest["volumes"]
        classes = {int(number): name for number, name in manifest["classes"].items()}
        content = json.dumps(
            [[name, cards[name]["sha256"]] for name in sorted(cards)] + [sorted(classes.items())]
        )
        return Volumes(
            folder,
            classes,
            tuple(sorted(cards, key=natural_key)),
            cards,
            manifest["left_out"],
            hashlib.sha256(content.encode()).hexdigest(),
        )
    except FileNotFoundError:
        raise DataError(f"{folder}: no {MANIFEST} here; make it with `vetdino fewshot prepare`") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise DataError(f"{path}: damaged; run `vetdino fewshot prepare` again") from None


def _is_assumed(affine: np.ndarray) -> bool:
    """Whether an affine is what pictures without spacing had in version 1: steps of 1 along the axes, from 0."""
    steps = np.abs(affine[:3, :3])
    return bool(np.isin(steps, (0, 1)).all() and (steps.sum(axis=0) == 1).all() and not affine[:3, 3].any())


def to_original(mask_ZHW: np.ndarray, volume: Volume) -> np.ndarray:
    """A mask on the prepared slices, brought back to the scan as stored: (I, J, K), same dtype, 0 where it was cut.

    Raises DataError where the mask has another shape, or the volume has no grid.
    """
    if volume.grid is None:
        raise DataError(f"{volume.name}: its original grid is unknown; prepare it from its file")
    return restore_from_grid(mask_ZHW, volume.grid)


def save_mask(path: Path | str, mask_ZHW: np.ndarray, volume: Volume) -> Path:
    """Writes a mask (uint8 or uint16) as NIfTI (.nii or .nii.gz) over the original scan.

    The same mask gives the same bytes. The header of a scan of unknown spacing says so.
    """
    import nibabel

    path = Path(path)
    dtype = np.uint16 if mask_ZHW.dtype == np.uint16 else np.uint8
    array = np.ascontiguousarray(to_original(mask_ZHW, volume), dtype)
    image: Any = nibabel.Nifti1Image(array, volume.affine)
    if not volume.in_mm:
        image.header["descrip"] = b"spacing unknown, 1 stands for it"
    if volume.affine is not None and ITK_SHEAR < shear(volume.affine) <= MAX_SHEAR:
        image.set_qform(volume.affine, code="aligned")
    content = image.to_bytes()
    atomic_write(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path
