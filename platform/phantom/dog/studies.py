"""Generated studies in memory: whose they are, what is wrong, which views, and the radiographs with their truth.

A study is first drawn as a plan (patient, disease, region) and then made into images, so the same seed gives the
same bytes on any number of workers. Every draw has its own generator, keyed by the seed, a number for its purpose and
the indices it depends on.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import numpy as np

from ..config import FINDINGS, PhantomConfig
from ..rotations import rotation
from .animal import Animal, Disease, DogPose, draw_animal, draw_pose
from .body import build_body
from .detector import Exposure, draw_exposure, exposed_image
from .solids import Rays
from .xray import Projection, project

FRAMES = {
    "VD": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "DV": ((1, 0, 0), (0, 0, -1), (0, -1, 0)),
    "LLAT": ((0, 0, -1), (0, -1, 0), (1, 0, 0)),
    "RLAT": ((0, 0, -1), (0, -1, 0), (-1, 0, 0)),
}
"""Position -> rows u, v, t of `Rays.frame`: head up and the animal's left on the right, or head left and spine up."""

HANGINGS = (
    ("VD", "RLAT"), ("DV", "RLAT"), ("VD", "LLAT"), ("VD", "RLAT", "LLAT"), ("DV", "RLAT", "LLAT"),
    ("VD", "DV", "RLAT"), ("VD", "DV", "RLAT", "LLAT"), ("VD", "DV", "RLAT", "LLAT", "VD"),
    ("VD", "DV", "RLAT", "LLAT", "RLAT"), ("DV", "VD", "LLAT", "RLAT"),
)  # fmt: skip
"""Positions of the views that a study may consist of, in the order of exposure."""

REGIONS = {"whole": 0.3, "chest": 0.37, "belly": 0.33}
"""Region that the views of a study show -> share of the studies."""

VISIBLE_FINDINGS = {
    "whole": FINDINGS,
    "chest": ("cardiomegaly", "pleural_effusion", "lung_mass", "rib_fracture"),
    "belly": ("hepatomegaly", "gastric_dilatation", "bladder_stones"),
}
"""Region -> findings that its views can show; a study has no label for the others."""

VISITS = (1, 1, 1, 2, 3)
"""Studies of each of the five patients that share eight consecutive studies, before shuffling."""


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """One visit of a patient, before any image. patient: PatientID; uid: StudyInstanceUID."""

    index: int
    patient: str
    uid: str
    region: str
    animal: Animal
    disease: Disease

    @property
    def labels(self) -> dict[str, int]:
        """Finding that the region's views can show -> 0 or 1."""
        return {finding: int(self.disease.get(finding) > 0) for finding in VISIBLE_FINDINGS[self.region]}


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedView:
    """One radiograph and everything it was made from.

    pixels: (H, W) uint16 of 12 bits, dense is bright; spacing: mm per pixel; truth: None unless requested.
    """

    pixels: np.ndarray
    projection: str
    spacing: float
    rays: Rays
    pose: DogPose
    exposure: Exposure
    truth: Projection | None

    def __repr__(self) -> str:
        return f"GeneratedView({self.projection}, {'x'.join(map(str, self.pixels.shape))})"


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedStudy:
    """All radiographs of one visit."""

    plan: StudyPlan
    views: tuple[GeneratedView, ...]

    def __repr__(self) -> str:
        names = " ".join(view.projection for view in self.views)
        return f"GeneratedStudy({self.plan.index}, {len(self.views)} views: {names})"


def plan_study(config: PhantomConfig, index: int) -> StudyPlan:
    """The index-th study, drawn but not yet made into images."""
    patient, visit = _patient_and_visit(config, index)
    region = np.random.default_rng((config.seed, 7, index))
    return StudyPlan(
        index=index,
        patient=f"K9-{config.seed}-{patient:06d}",
        uid=dicom_uid(config, "study", index),
        region=str(region.choice(list(REGIONS), p=list(REGIONS.values()))),
        animal=draw_animal(np.random.default_rng((config.seed, 1, patient))),
        disease=_draw_disease(config, patient, visit),
    )


def generate_study(config: PhantomConfig, index: int, truth: bool = True) -> GeneratedStudy:
    """The index-th study with its images; a little faster without truth.

    >>> generate_study(PhantomConfig(side=64), 3, truth=False)
    GeneratedStudy(3, 2 views: VD LLAT)
    """
    plan = plan_study(config, index)
    random = np.random.default_rng((config.seed, 2, index))
    hanging = HANGINGS[int(random.integers(len(HANGINGS)))]
    aspect = float(random.choice([1.0, 0.83, 0.72]))
    shape = (config.side, round(config.side * aspect))
    views = tuple(_generate_view(plan, position, shape, random, truth) for position in hanging)
    return GeneratedStudy(plan, views)


def _generate_view(
    plan: StudyPlan, position: str, shape: tuple[int, int], random: np.random.Generator, truth: bool
) -> GeneratedView:
    """One radiograph. shape: (H, W) of an upright view; a lateral one has it the other way round."""
    pose = draw_pose(random, position)
    body = build_body(plan.animal, plan.disease, pose)
    lateral = position in ("LLAT", "RLAT")
    rays, spare = _aim(body.landmarks[plan.region], pose, shape[::-1] if lateral else shape, random)
    marker = position[0] if lateral else str(random.choice(["L", "R"]))
    exposure = draw_exposure(random, spare, marker, right=None if lateral else marker == "L")
    projection = project(body.solids, rays, truth)
    pixels = exposed_image(projection.path, exposure, random)
    return GeneratedView(
        pixels, position, rays.pixel * 10, rays, pose, exposure, projection if truth else None
    )


def _aim(
    landmarks: np.ndarray, pose: DogPose, shape: tuple[int, int], random: np.random.Generator
) -> tuple[Rays, tuple[float, float, float, float]]:
    """Rays that meet all landmarks (N, 3) cm, with the margins and tilt of imperfect positioning.

    Also the part of the image beyond the landmarks: top, bottom, left, right, as shares.
    """
    frame = _tilted_frame(np.array(FRAMES[pose.position], float), pose.rotation)
    on_detector = landmarks @ frame.T
    first, last = on_detector.min(0), on_detector.max(0)
    lateral = pose.position in ("LLAT", "RLAT")
    margin = random.uniform(0.03, 0.12, (2, 2))
    if random.uniform() < 0.4:  # off center along the animal
        margin[int(random.integers(2)), 0 if lateral else 1] += random.uniform(0.1, 0.3)
    low, high = first.copy(), last.copy()
    low[:2] -= margin[0] * (last - first)[:2].max()
    high[:2] += margin[1] * (last - first)[:2].max()
    rows, columns = shape
    pixel = max((high[0] - low[0]) / columns, (high[1] - low[1]) / rows)
    middle = (low + high) / 2
    width, height = columns * pixel, rows * pixel
    spare = (
        (first[1] - middle[1]) / height + 0.5,
        0.5 - (last[1] - middle[1]) / height,
        (first[0] - middle[0]) / width + 0.5,
        0.5 - (last[0] - middle[0]) / width,
    )
    return Rays(frame, frame.T @ middle, shape, float(pixel)), spare


def _tilted_frame(frame: np.ndarray, angles: tuple[float, float, float]) -> np.ndarray:
    """Rotate `Rays.frame` by degrees about the animal's long axis, its other in-plane axis and the ray."""
    long_axis, tilt, spin = angles
    pitch, yaw = (long_axis, tilt) if abs(frame[0, 2]) > 0.5 else (tilt, long_axis)
    return rotation(pitch, yaw, spin) @ frame


def _patient_and_visit(config: PhantomConfig, index: int) -> tuple[int, int]:
    """Numbers of the patient and of the visit; eight consecutive studies belong to five patients."""
    block, within = divmod(index, sum(VISITS))
    counts = np.random.default_rng((config.seed, 3, block)).permutation(VISITS)
    patients = np.repeat(np.arange(len(VISITS)), counts)
    visits = np.concatenate([np.arange(count) for count in counts])
    order = np.random.default_rng((config.seed, 4, block)).permutation(len(patients))
    return block * len(VISITS) + int(patients[order[within]]), int(visits[order[within]])


def _draw_disease(config: PhantomConfig, patient: int, visit: int) -> Disease:
    """Findings of a visit: each is that of the visit before, better or worse, or drawn anew."""
    random = np.random.default_rng((config.seed, 5, patient))
    severity: dict[str, float] = {}
    for step in range(visit + 1):
        keeps, present = random.uniform(size=len(FINDINGS)), random.uniform(size=len(FINDINGS))
        amount, change = random.uniform(0.2, 1, len(FINDINGS)), random.uniform(0.6, 1.5, len(FINDINGS))
        for number, finding in enumerate(FINDINGS):
            if step and keeps[number] < 0.6:
                old = severity[finding]
                severity[finding] = float(np.clip(old * change[number], 0.2, 1)) if old else 0.0
            else:
                severity[finding] = float(amount[number] * (present[number] < getattr(config, finding)))
    return Disease(severity, int(random.integers(2**31)))


def dicom_uid(config: PhantomConfig, *key: object) -> str:
    """A DICOM UID under 2.25 that depends on the seed, the side and the key alone."""
    name = "/".join(map(str, ("vetdino", config.seed, config.side, *key)))
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, name).int}"
