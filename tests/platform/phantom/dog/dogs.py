"""One dog and its projections, for the tests of anatomy."""

from __future__ import annotations

import numpy as np

from vetdino.platform.phantom.dog.animal import Animal, Disease, DogPose
from vetdino.platform.phantom.dog.body import build_body
from vetdino.platform.phantom.dog.solids import Rays
from vetdino.platform.phantom.dog.studies import FRAMES
from vetdino.platform.phantom.dog.xray import Projection, project

DOG = Animal(
    size=1.0, width=1.0, depth=1.0, length=1.0, limb=1.0, fat=0.6, age=0.4, male=True, cat=False, seed=8
)


def shot(disease=None, position="VD", pose=None, seen_from=None, side=160) -> tuple[Projection, Rays]:
    body = build_body(DOG, disease or Disease(), pose or DogPose(position))
    frame = np.array(FRAMES[seen_from or position], float)
    beam = Rays(frame, np.array([0, -6.0, -3.0]), (side, side), 64 / side)
    return project(body.solids, beam), beam


def area(projection: Projection, organ: str) -> int:
    return int(projection.masks[organ].sum()) if organ in projection.masks else 0
