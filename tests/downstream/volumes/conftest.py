"""Scans on disk: NIfTI files, pictures, DICOM series, and a drawn body stored in any orientation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from vetdino.downstream.volumes.grid import CANONICAL, affine_of

SPACING = (5.0, 2.0, 1.5)
"""mm of the drawn body, (z, y, x)."""


def write_nifti(path: Path, values, affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(values)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def write_picture(path: Path, pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)
    return path


def write_series(folder: Path, hu_ZHW: np.ndarray, *, patient: str = "Doe^Jane", **changes) -> Path:
    """A CT series as scanners write it: HU + 1024 stored, slices every 4 mm, names that do not follow the position.

    changes: tag -> value, or a function of the slice number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid(entropy_srcs=[str(folder)])
    for z, hu_HW in enumerate(hu_ZHW):
        one = pydicom.Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = CTImageStorage
        uid = generate_uid(entropy_srcs=[str(folder), str(z)])
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = uid
        one.SeriesInstanceUID, one.Modality, one.PatientName, one.PatientID = series, "CT", patient, "P-17"
        one.Rows, one.Columns = hu_HW.shape
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
        one.PixelSpacing, one.SliceThickness = [0.8, 0.7], 5
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.ImagePositionPatient = [-30, -40, 100 + 4 * z]
        one.PixelData = (hu_HW + 1024).astype("<u2").tobytes()
        for tag, value in changes.items():
            setattr(one, tag, value(z) if callable(value) else value)
        one.save_as(folder / f"IM{len(hu_ZHW) - z}", enforce_file_format=True)
    return folder


def draw_body(seed: int = 0, shape=(6, 24, 32)) -> tuple[np.ndarray, np.ndarray]:
    """(HU, labels) of a drawn body, axes SPL: a large liver at the right, a small spleen behind at the left."""
    random = np.random.default_rng(seed)
    _, height, width = shape
    y, x = np.mgrid[:height, :width]
    hu, labels = np.full(shape, -1000.0), np.zeros(shape, np.uint8)
    inside = ((y - height / 2) / (0.45 * height)) ** 2 + ((x - width / 2) / (0.45 * width)) ** 2 < 1
    hu[:, inside] = -80
    liver = (y - 0.45 * height) ** 2 + (x - 0.3 * width) ** 2 < (0.2 * height) ** 2
    spleen = (y - 0.65 * height) ** 2 + (x - 0.75 * width) ** 2 < (0.1 * height) ** 2
    for z in range(1, shape[0] - 1):
        labels[z, liver] = 1
        labels[z, spleen if z > 2 else spleen & False] = 2
    hu[labels == 1], hu[labels == 2] = 110, 170
    return np.round(hu + random.normal(0, 5, shape)), labels


def store(array_ZHW: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """(array, affine) of the same body with its axes stored another way, turned by nibabel."""
    turn = ornt_transform(axcodes2ornt(CANONICAL), axcodes2ornt(axes))
    turned = apply_orientation(array_ZHW, turn)
    affine = affine_of(CANONICAL, SPACING)
    return turned, affine @ nibabel.orientations.inv_ornt_aff(turn, array_ZHW.shape)


def write_scan(path: Path, array_ZHW: np.ndarray, axes: str = "RAS") -> Path:
    """A canonical array as NIfTI, stored with the given axes."""
    array, affine = store(array_ZHW, axes)
    return write_nifti(path, array.astype(np.int16 if array.dtype == float else array.dtype), affine)


def write_archive(root: Path, scans: int = 3) -> Path:
    """A folder of images/ and labels/ of drawn bodies, 1.nii.gz and so on."""
    for number in range(1, scans + 1):
        hu, labels = draw_body(number)
        write_scan(root / "images" / f"{number}.nii.gz", hu)
        write_scan(root / "labels" / f"{number}.nii.gz", labels)
    return root


@pytest.fixture(scope="session")
def save_nifti() -> Callable[..., Path]:
    return write_nifti


@pytest.fixture(scope="session")
def save_picture() -> Callable[..., Path]:
    return write_picture


@pytest.fixture(scope="session")
def save_series() -> Callable[..., Path]:
    return write_series


@pytest.fixture(scope="session")
def hounsfield() -> Callable[..., np.ndarray]:
    """A function: whole numbers from -1000 to 999, (Z, H, W)."""
    return lambda seed=0, shape=(5, 6, 7): np.random.default_rng(seed).integers(-1000, 1000, shape)


@pytest.fixture(scope="session")
def body() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return draw_body


@pytest.fixture(scope="session")
def stored() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return store


@pytest.fixture(scope="session")
def save_scan() -> Callable[..., Path]:
    return write_scan


@pytest.fixture(scope="session")
def archive() -> Callable[..., Path]:
    return write_archive
