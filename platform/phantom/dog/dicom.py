"""Generated radiographs as DICOM files, with tags that vary as they do between clinics."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from ..config import PhantomConfig
from .detector import BITS
from .studies import GeneratedStudy, GeneratedView, StudyPlan, dicom_uid

SYNTAXES = (
    "1.2.840.10008.1.2.1",  # explicit little endian
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.90",  # JPEG 2000, lossless only
    "1.2.840.10008.1.2.4.80",  # JPEG-LS, lossless
)
"""Transfer syntaxes, in turn over the images of a study."""

ENCODERS = {SYNTAXES[1]: "pylibjpeg", SYNTAXES[2]: "pylibjpeg", SYNTAXES[3]: "pyjpegls"}
"""Transfer syntax -> pydicom's encoding plugin."""

VIEW_NAMES = {"VD": "ventro-dorsal", "DV": "dorso-ventral", "LLAT": "left lateral", "RLAT": "right lateral"}

BODY_PARTS = {
    "whole": ("WHOLEBODY", "Thorax and abdomen"),
    "chest": ("CHEST", "Thorax"),
    "belly": ("ABDOMEN", "Abdomen"),
}
"""Region -> BodyPartExamined, SeriesDescription."""

PETS = ("Bella", "Luna", "Max", "Rocky", "Nala", "Simba", "Cleo", "Oskar", "Milo", "Frieda", "Bruno", "Pixel")

OWNERS = (
    "Archer", "Berger", "Castro", "Dubois", "Eriksen", "Fischer", "Garcia", "Hansen", "Ivanova", "Jansen",
)  # fmt: skip


def dicom_dataset(
    config: PhantomConfig, study: GeneratedStudy, number: int, random: np.random.Generator
) -> Dataset:
    """One view of a study as an encoded DX image for presentation."""
    plan, view = study.plan, study.views[number]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dicom_uid(config, "image", plan.index, number)
    dataset.StudyInstanceUID = plan.uid
    dataset.SeriesInstanceUID = dicom_uid(config, "series", plan.index, number)
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.InstanceNumber = number + 1
    dataset.SeriesNumber = number + 1
    _set_patient(dataset, plan)
    _set_view(dataset, plan.region, view, random)
    inverse = bool(random.uniform() < 0.35)
    _set_pixel_format(dataset, inverse, random)
    dataset.ImagerPixelSpacing = [f"{view.spacing:.5f}"] * 2
    pixels = (2**BITS - 1) - view.pixels if inverse else view.pixels
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    syntax = SYNTAXES[(plan.index + number) % len(SYNTAXES)]
    if syntax in ENCODERS:
        _compress(dataset, syntax)
    return dataset


def _compress(dataset: Dataset, syntax: str) -> None:
    """Encodes the pixels, in a thread: OpenJPEG's encoder calls Python back and crashes where Ctrl-C raises there."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(
            dataset.compress, syntax, encoding_plugin=ENCODERS[syntax], generate_instance_uid=False
        ).result()


def _set_patient(dataset: Dataset, plan: StudyPlan) -> None:
    """Tags of the patient and the visit, all invented."""
    animal = plan.animal
    dataset.PatientID = plan.patient
    dataset.IssuerOfPatientID = "VETDINO-PHANTOM"
    dataset.PatientName = f"{OWNERS[animal.seed % len(OWNERS)]}^{PETS[animal.seed // 16 % len(PETS)]}"
    dataset.PatientSex = "M" if animal.male else "F"
    dataset.PatientAge = f"{round(12 * (0.8 + 13 * animal.age)):03d}M"
    dataset.PatientWeight = f"{15 * animal.size**3:.1f}"
    dataset.PatientSpeciesDescription = "Felis catus" if animal.cat else "Canis lupus familiaris"
    dataset.StudyDate = f"20{20 + plan.index % 5}{1 + plan.index % 12:02d}{1 + plan.index % 28:02d}"
    dataset.StudyTime = "120000"
    dataset.AccessionNumber = f"G{plan.index:07d}"
    dataset.StudyID = f"{plan.index}"


def _set_view(dataset: Dataset, region: str, view: GeneratedView, random: np.random.Generator) -> None:
    """Tags of the view: most files have it in ViewPosition, one in ten only as a code, one in ten only in words."""
    lateral = view.projection in ("LLAT", "RLAT")
    style = random.uniform()
    part, title = BODY_PARTS[region]
    dataset.BodyPartExamined = part
    dataset.SeriesDescription = title
    if lateral:
        dataset.ImageLaterality = view.projection[0]
    if style < 0.8:
        dataset.ViewPosition = "LATERAL" if lateral and style < 0.15 else view.projection
        dataset.PatientOrientation = ["CD", "V"] if lateral else ["LE", "CD"]
    elif style < 0.9:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = view.projection, "99VETDINO"
        code.CodeMeaning = VIEW_NAMES[view.projection]
        dataset.ViewCodeSequence = [code]
    else:
        dataset.SeriesDescription = f"{title} {VIEW_NAMES[view.projection]}"


def _set_pixel_format(dataset: Dataset, inverse: bool, random: np.random.Generator) -> None:
    """Tags of photometry and window; one window in six is missing, one in twelve is misleading."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverse else "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, BITS, BITS - 1
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = 1 if inverse else -1
    dataset.BurnedInAnnotation = "NO"
    if random.uniform() < 0.85:
        dataset.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    window = random.uniform()
    if window < 0.75:
        dataset.WindowCenter, dataset.WindowWidth = "2048", "4096"
    elif window < 0.83:
        dataset.WindowCenter, dataset.WindowWidth = "30000", "10"
