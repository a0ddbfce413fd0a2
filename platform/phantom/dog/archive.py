"""Generated studies: patients who never lived, their radiographs as DICOM, and the truth behind every pixel.

No public veterinary archive can ship with a project; these studies can. A study is first a draw (animal,
disease, poses, films) and then pictures, so the same seed gives the same bytes on any number of workers.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from ...core.config import atomic_path, atomic_write
from ...core.errors import ConfigError, DataError
from ...core.progress import Progress
from ..folder import claim, each_done
from .anatomy import FINDINGS, SEEN, Animal, Disease, Pose, draw_animal, draw_pose, grow, turned
from .xray import BITS, Film, Projection, Rays, draw_film, expose, project


@dataclass(frozen=True, kw_only=True, slots=True)
class PhantomConfig:
    """How many studies, how large, and how often each finding is there."""

    studies: int = 200
    """Studies to generate."""
    side: int = 512
    """Long side of a picture, in pixels."""
    seed: int = 0
    """Another seed, other animals."""
    workers: int = 0
    """Processes; 0 is one for each core. The bytes do not depend on it."""
    cardiomegaly: float = 0.22
    """Share of studies with an enlarged heart."""
    pleural_effusion: float = 0.18
    """Share of studies with fluid round the lungs."""
    lung_mass: float = 0.18
    """Share of studies with a mass in a lung."""
    hepatomegaly: float = 0.20
    """Share of studies with an enlarged liver."""
    gastric_dilatation: float = 0.15
    """Share of studies with a stomach full of gas."""
    rib_fracture: float = 0.15
    """Share of studies with broken ribs."""
    long_bone_fracture: float = 0.18
    """Share of studies with a broken humerus or femur."""
    bladder_stones: float = 0.16
    """Share of studies with stones in the bladder."""


FRAMES = {
    "VD": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "DV": ((1, 0, 0), (0, 0, -1), (0, -1, 0)),
    "LLAT": ((0, 0, -1), (0, -1, 0), (1, 0, 0)),
    "RLAT": ((0, 0, -1), (0, -1, 0), (-1, 0, 0)),
}
"""Rows u, v, t: head up and the animal's left on the right, or head left and spine up, as films are hung."""

HANGINGS = (
    ("VD", "RLAT"), ("DV", "RLAT"), ("VD", "LLAT"), ("VD", "RLAT", "LLAT"), ("DV", "RLAT", "LLAT"),
    ("VD", "DV", "RLAT"), ("VD", "DV", "RLAT", "LLAT"), ("VD", "DV", "RLAT", "LLAT", "VD"),
    ("VD", "DV", "RLAT", "LLAT", "RLAT"), ("DV", "VD", "LLAT", "RLAT"),
)  # fmt: skip
"""What a study may consist of, in the order of exposure."""

REGIONS = {"whole": 0.3, "chest": 0.37, "belly": 0.33}
"""Share of the studies that picture the whole animal, its chest or its belly."""

VISITS = (1, 1, 1, 2, 3)
"""Studies of the five patients behind each run of eight studies, before shuffling."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedView:
    """One picture and how it came to be.

    pixels: (H, W) uint16 of 12 bits, bright is dense; spacing: mm per pixel; truth: None where unasked.
    """

    pixels: np.ndarray
    projection: str
    spacing: float
    rays: Rays
    pose: Pose
    film: Film
    truth: Projection | None

    def __repr__(self) -> str:
        return f"GeneratedView({self.projection}, {'x'.join(map(str, self.pixels.shape))})"


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedStudy:
    """All pictures of one visit. region: what they picture; labels: finding they can show -> 0 or 1."""

    index: int
    patient: str
    uid: str
    region: str
    animal: Animal
    disease: Disease
    views: tuple[GeneratedView, ...]
    labels: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        names = " ".join(view.projection for view in self.views)
        return f"GeneratedStudy({self.index}, {len(self.views)} views: {names})"


def study_images(config: PhantomConfig, index: int, truth: bool = True) -> GeneratedStudy:
    """The index-th study in memory; without truth it is a little faster.

    >>> study_images(PhantomConfig(side=64), 3, truth=False)
    GeneratedStudy(3, 2 views: VD LLAT)
    """
    patient, visit = _patient_of(config, index)
    animal = draw_animal(_random(config, 1, patient))
    disease = _disease(config, patient, visit)
    random = _random(config, 2, index)
    hanging = HANGINGS[int(random.integers(len(HANGINGS)))]
    aspect = float(random.choice([1.0, 0.83, 0.72]))
    region = _region(config, index)
    views = tuple(
        _view(config, animal, disease, region, position, aspect, random, truth) for position in hanging
    )
    return GeneratedStudy(
        index=index,
        patient=_patient_id(config, patient),
        uid=uid_of(config, "study", index),
        region=region,
        animal=animal,
        disease=disease,
        views=views,
        labels=_labels_of(disease, region),
    )


def uid_of(config: PhantomConfig, *what: object) -> str:
    """A DICOM UID under 2.25 that depends on the seed, the side and `what` alone."""
    name = "/".join(map(str, ("vetdino", config.seed, config.side, *what)))
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, name).int}"


def _patient_id(config: PhantomConfig, patient: int) -> str:
    return f"K9-{config.seed}-{patient:06d}"


def _random(config: PhantomConfig, *what: int) -> np.random.Generator:
    return np.random.default_rng((config.seed, *what))


def _patient_of(config: PhantomConfig, index: int) -> tuple[int, int]:
    """(patient, visit) of a study: eight studies at a time belong to five patients."""
    block, within = divmod(index, sum(VISITS))
    counts = _random(config, 3, block).permutation(VISITS)
    patients = np.repeat(np.arange(len(VISITS)), counts)
    visits = np.concatenate([np.arange(count) for count in counts])
    order = _random(config, 4, block).permutation(len(patients))
    return block * len(VISITS) + int(patients[order[within]]), int(visits[order[within]])


def _disease(config: PhantomConfig, patient: int, visit: int) -> Disease:
    """Findings of a visit. A later visit keeps each finding, better or worse, or draws it anew."""
    random = _random(config, 5, patient)
    severity: dict[str, float] = {}
    for step in range(visit + 1):
        kept, present = random.uniform(size=len(FINDINGS)), random.uniform(size=len(FINDINGS))
        amount, change = random.uniform(0.2, 1, len(FINDINGS)), random.uniform(0.6, 1.5, len(FINDINGS))
        for number, finding in enumerate(FINDINGS):
            if step and kept[number] < 0.6:
                old = severity[finding]
                severity[finding] = float(np.clip(old * change[number], 0.2, 1)) if old else 0.0
            else:
                severity[finding] = float(amount[number] * (present[number] < getattr(config, finding)))
    return Disease(severity, int(random.integers(2**31)))


def _region(config: PhantomConfig, index: int) -> str:
    """What the pictures of a study show: the whole animal, its chest or its belly."""
    return str(_random(config, 7, index).choice(list(REGIONS), p=list(REGIONS.values())))


def _labels_of(disease: Disease, region: str) -> dict[str, int]:
    return {finding: int(disease.of(finding) > 0) for finding in SEEN[region]}


def _view(
    config: PhantomConfig,
    animal: Animal,
    disease: Disease,
    region: str,
    position: str,
    aspect: float,
    random: np.random.Generator,
    truth: bool,
) -> GeneratedView:
    pose = draw_pose(random, position)
    body = grow(animal, disease, pose)
    rays, spare = _aimed(body.landmarks[region], pose, config.side, aspect, random)
    marker = {"LLAT": "L", "RLAT": "R"}.get(position) or str(random.choice(["L", "R"]))
    upright = position in ("VD", "DV")
    film = draw_film(random, spare, marker, right=marker == "L" if upright else None)
    shot = project(body.solids, rays, truth)
    pixels = expose(shot.path, film, random)
    return GeneratedView(pixels, position, rays.pixel * 10, rays, pose, film, shot if truth else None)


def _aimed(
    landmarks: np.ndarray, pose: Pose, side: int, aspect: float, random: np.random.Generator
) -> tuple[Rays, tuple[float, float, float, float]]:
    """Rays that hold all landmarks, with the margins and the tilt that positioning leaves.

    Also how much of the picture lies beyond the landmarks: top, bottom, left, right, as shares.
    """
    frame = _tilted(np.array(FRAMES[pose.position], float), pose.turn)
    seen = landmarks @ frame.T
    low, high = seen.min(0), seen.max(0)
    first, last = low.copy(), high.copy()
    lateral = pose.position in ("LLAT", "RLAT")
    margin = random.uniform(0.03, 0.12, (2, 2))
    if random.uniform() < 0.4:  # not centred along the animal
        margin[int(random.integers(2)), 0 if lateral else 1] += random.uniform(0.1, 0.3)
    low[:2] -= margin[0] * (high - low)[:2].max()
    high[:2] += margin[1] * (last - first)[:2].max()
    shape = (round(side * aspect), side) if lateral else (side, round(side * aspect))
    pixel = max((high[0] - low[0]) / shape[1], (high[1] - low[1]) / shape[0])
    middle = (low + high) / 2
    wide, tall = shape[1] * pixel, shape[0] * pixel
    spare = (
        (first[1] - middle[1]) / tall + 0.5,
        0.5 - (last[1] - middle[1]) / tall,
        (first[0] - middle[0]) / wide + 0.5,
        0.5 - (last[0] - middle[0]) / wide,
    )
    return Rays(frame, frame.T @ middle, shape, float(pixel)), spare


def _tilted(frame: np.ndarray, turn: tuple[float, float, float]) -> np.ndarray:
    """Turn the animal under the beam: about its long axis, its other in-plane axis and the ray."""
    long_axis, tilt, spin = turn
    lateral = abs(frame[0, 2]) > 0.5
    about = (
        turned(pitch=long_axis, yaw=tilt, roll=spin)
        if lateral
        else turned(pitch=tilt, yaw=long_axis, roll=spin)
    )
    return about @ frame


# Files --------------------------------------------------------------------------------------------


VERSION = 3
"""Of the pictures: raised when the same config gives other bytes."""

TRUTH_SIDE = 256
"""Most pixels a side of a truth map."""

SYNTAXES = (
    "1.2.840.10008.1.2.1",  # explicit little endian
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.90",  # JPEG 2000, lossless only
    "1.2.840.10008.1.2.4.80",  # JPEG-LS, lossless
)
"""Transfer syntaxes, in turn over the pictures of a study."""

ENCODERS = {SYNTAXES[1]: "pylibjpeg", SYNTAXES[2]: "pylibjpeg", SYNTAXES[3]: "pyjpegls"}

WORDS = {"VD": "ventro-dorsal", "DV": "dorso-ventral", "LLAT": "left lateral", "RLAT": "right lateral"}

PARTS = {
    "whole": ("WHOLEBODY", "Thorax and abdomen"),
    "chest": ("CHEST", "Thorax"),
    "belly": ("ABDOMEN", "Abdomen"),
}
"""Field of view -> BodyPartExamined and the words of the series."""

PETS = ("Bella", "Luna", "Max", "Rocky", "Nala", "Simba", "Cleo", "Oskar", "Milo", "Frieda", "Bruno", "Pixel")
KEEPERS = (
    "Archer",
    "Berger",
    "Castro",
    "Dubois",
    "Eriksen",
    "Fischer",
    "Garcia",
    "Hansen",
    "Ivanova",
    "Jansen",
)


def phantom(out: Path | str, config: PhantomConfig) -> Path:
    """Write OUT/dicom/PATIENT/STUDY/IMAGE.dcm, OUT/truth, OUT/labels.csv and OUT/phantom.json; gives OUT.

    A finished study is kept and skipped when run again. Raises ConfigError where a setting cannot be or where
    OUT holds studies of other settings, DataError where OUT cannot be written.
    """
    out = Path(out)
    _check(config)
    try:
        out.mkdir(parents=True, exist_ok=True)
        claim(out, config, VERSION, grows=("studies",), findings=FINDINGS)
        todo = [index for index in range(config.studies) if not _home(out, config, index).is_dir()]
        with Progress("phantom", total=config.studies) as progress:
            progress.advance(config.studies - len(todo))
            for _ in each_done(partial(write_study, out, config), todo, config.workers):
                progress.advance()
        atomic_write(out / "labels.csv", _labels(config))
    except OSError as error:
        raise DataError(
            f"{out}: cannot write ({error.strerror or error}); "
            "make room and run again, finished studies are kept"
        ) from error
    return out


def _check(config: PhantomConfig) -> None:
    if config.studies < 1:
        raise ConfigError(f"studies is {config.studies}; ask for at least 1")
    if not 32 <= config.side <= 4096:
        raise ConfigError(f"side is {config.side}; choose between 32 and 4096 pixels")
    for finding in FINDINGS:
        if not 0 <= getattr(config, finding) <= 1:
            raise ConfigError(f"{finding} is {getattr(config, finding)}; a share lies between 0 and 1")


def _home(out: Path, config: PhantomConfig, index: int) -> Path:
    patient, _ = _patient_of(config, index)
    return out / "dicom" / _patient_id(config, patient) / uid_of(config, "study", index)


def _labels(config: PhantomConfig) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("study", "patient", *FINDINGS))
    for index in range(config.studies):
        patient, visit = _patient_of(config, index)
        labels = _labels_of(_disease(config, patient, visit), _region(config, index))
        marks = (labels.get(finding, "") for finding in FINDINGS)
        table.writerow((uid_of(config, "study", index), _patient_id(config, patient), *marks))
    return text.getvalue()


def write_study(out: Path, config: PhantomConfig, index: int) -> None:
    """Write one study, all of it or nothing: its folder gets its name last, after the truth."""
    study = study_images(config, index)
    home = _home(out, config, index)
    temporary = home.with_name(f".{home.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for number, view in enumerate(study.views):
            random = _random(config, 6, index, number)
            dataset = dicom_of(config, study, number, random)
            dataset.save_as(temporary / f"IMAGE{number}.dcm", enforce_file_format=True)
            _write_truth(out / "truth" / f"{study.uid}_{number}.npz", view, str(dataset.SOPInstanceUID))
        os.replace(temporary, home)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_truth(path: Path, view: GeneratedView, instance: str) -> None:
    """Masks and 3-D points at no more than TRUTH_SIDE pixels a side.

    organs: names (K,); masks: np.packbits of (K, h, w) bool; shape: (h, w); points: (h, w, 3) float16 cm in
    the animal frame, of the densest organ along the ray, NaN outside the animal; instance: SOPInstanceUID;
    step: pixels of the picture for each of the map's; frame, centre, pixel: the rays (see `xray.Rays`).
    """
    step = -(-max(view.pixels.shape) // TRUTH_SIDE)
    some = (slice(step // 2, None, step), slice(step // 2, None, step))
    organs = sorted(view.truth.masks)
    masks = np.stack([view.truth.masks[organ][some] for organ in organs])
    points = view.rays.animal(view.truth.depth)[some].astype(np.float16)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            organs=np.array(organs),
            masks=np.packbits(masks),
            shape=np.array(masks.shape[1:]),
            points=points,
            instance=np.array(instance),
            step=np.array(step),
            frame=view.rays.frame,
            centre=view.rays.centre,
            pixel=np.array(view.rays.pixel),
        )


def dicom_of(
    config: PhantomConfig, study: GeneratedStudy, number: int, random: np.random.Generator
) -> Dataset:
    """One view as a DX image for presentation, encoded; tags vary as they do between clinics."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    view = study.views[number]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = uid_of(config, "image", study.index, number)
    dataset.StudyInstanceUID = study.uid
    dataset.SeriesInstanceUID = uid_of(config, "series", study.index, number)
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.InstanceNumber = number + 1
    dataset.SeriesNumber = number + 1
    _say_who(dataset, config, study)
    _say_view(dataset, study.region, view, random)
    inverse = bool(random.uniform() < 0.35)
    _say_grey(dataset, inverse, random)
    dataset.ImagerPixelSpacing = [f"{view.spacing:.5f}"] * 2
    pixels = (2**BITS - 1) - view.pixels if inverse else view.pixels
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    syntax = SYNTAXES[(study.index + number) % len(SYNTAXES)]
    if syntax in ENCODERS:
        dataset.compress(syntax, encoding_plugin=ENCODERS[syntax], generate_instance_uid=False)
    return dataset


def _say_who(dataset: Dataset, config: PhantomConfig, study: GeneratedStudy) -> None:
    """Patient and visit, all made up."""
    animal = study.animal
    dataset.PatientID = study.patient
    dataset.IssuerOfPatientID = "VETDINO-PHANTOM"
    dataset.PatientName = f"{KEEPERS[animal.seed % len(KEEPERS)]}^{PETS[animal.seed // 16 % len(PETS)]}"
    dataset.PatientSex = "M" if animal.male else "F"
    dataset.PatientAge = f"{round(12 * (0.8 + 13 * animal.age)):03d}M"
    dataset.PatientWeight = f"{15 * animal.size**3:.1f}"
    dataset.PatientSpeciesDescription = "Felis catus" if animal.cat else "Canis lupus familiaris"
    dataset.StudyDate = f"20{20 + study.index % 5}{1 + study.index % 12:02d}{1 + study.index % 28:02d}"
    dataset.StudyTime = "120000"
    dataset.AccessionNumber = f"G{study.index:07d}"
    dataset.StudyID = f"{study.index}"


def _say_view(dataset: Dataset, region: str, view: GeneratedView, random: np.random.Generator) -> None:
    """Most files say the view in ViewPosition, one in ten only as a code, one in ten only in words."""
    lateral = view.projection in ("LLAT", "RLAT")
    how = random.uniform()
    part, title = PARTS[region]
    dataset.BodyPartExamined = part
    dataset.SeriesDescription = title
    if lateral:
        dataset.ImageLaterality = view.projection[0]
    if how < 0.8:
        dataset.ViewPosition = "LATERAL" if lateral and how < 0.15 else view.projection
        dataset.PatientOrientation = ["CD", "V"] if lateral else ["LE", "CD"]
    elif how < 0.9:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = view.projection, "99VETDINO"
        code.CodeMeaning = WORDS[view.projection]
        dataset.ViewCodeSequence = [code]
    else:
        dataset.SeriesDescription = f"{title} {WORDS[view.projection]}"


def _say_grey(dataset: Dataset, inverse: bool, random: np.random.Generator) -> None:
    """Photometry and window; one window in six is missing, one in twelve misleads."""
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
