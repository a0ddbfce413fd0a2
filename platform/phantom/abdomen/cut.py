"""An abdomen cut into slices: which tissue every voxel is, and which organ.

Organs are painted one over the other, so that no voxel belongs to two; what lies within them, vessels and
contents, comes with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from ..implicit import Field
from .abdomen import LAYERS, Body, Grid, Patient

# Z slices of H rows (front to back) and W columns (patient's right to left), T thin layers of all slices.

CLASSES = {
    1: "liver",
    2: "right kidney",
    3: "left kidney",
    4: "spleen",
    5: "gallbladder",
    6: "aorta",
    7: "spine",
}
"""Number in the label map -> name; the first four are those of the CHAOS challenge."""


class Tissue(IntEnum):
    """What a voxel consists of; values are those of `Torso.tissue_THW`."""

    AIR = 0
    SKIN = 1
    SUBCUTANEOUS = 2
    MUSCLE = 3
    FAT = 4
    LUNG = 5
    HEART = 6
    BOWEL = 7
    BOWEL_CONTENT = 8
    GAS = 9
    STOMACH = 10
    JUICE = 11
    PANCREAS = 12
    VEIN = 13
    LIVER = 14
    VESSEL = 15
    SPLEEN = 16
    CORTEX = 17
    MEDULLA = 18
    URINE = 19
    BILE = 20
    AORTA = 21
    MARROW = 22
    BONE = 23
    DISC = 24
    LIQUOR = 25
    CORD = 26


@dataclass(frozen=True, slots=True, eq=False)
class Torso:
    """A cut abdomen.

    tissue_THW: uint8 of `Tissue`; labels_ZHW: uint8 of CLASSES, 0 elsewhere; content_THW: float32 0 to 1, what
    the bowel holds, dry to wet.
    """

    tissue_THW: np.ndarray
    labels_ZHW: np.ndarray
    content_THW: np.ndarray

    def __repr__(self) -> str:
        return f"Torso({'x'.join(map(str, self.labels_ZHW.shape))}, {len(np.unique(self.labels_ZHW)) - 1} organs)"


def torso_of(patient: Patient, grid: Grid, random: np.random.Generator) -> Torso:
    """A patient's abdomen as the grid cuts it."""
    fields = Body(patient, grid, random).grown()
    _, y, _ = grid.axes(grid.side)
    level = float(random.uniform(-55, 5))
    layers = grid.slices * LAYERS
    tissue, labels, content = (
        np.zeros((layers, grid.side, grid.side), kind) for kind in (np.uint8, np.uint8, np.float32)
    )
    for layer in range(layers):
        brush = _Brush(fields, layer, tissue[layer], labels[layer], content[layer])
        _paint(brush, y[:, None] < level, patient)
    liver = np.argwhere(labels == 1)
    _vessels(tissue, liver, grid, random)
    middle = np.ascontiguousarray(labels[LAYERS // 2 :: LAYERS])
    _one_piece(tissue, middle)
    return Torso(tissue, middle, content)


class _Brush:
    """One thin layer of fields, enlarged to the picture, and the three pictures that are painted."""

    def __init__(
        self,
        fields: dict[str, Field],
        layer: int,
        tissue: np.ndarray,
        labels: np.ndarray,
        content: np.ndarray,
    ) -> None:
        self.fields, self.layer = fields, layer
        self.tissue, self.labels, self.content = tissue, labels, content

    def at(self, name: str) -> np.ndarray:
        """(H, W) float32 of a field; the grid's cells and the pixels share the picture's edges."""
        import cv2

        return cv2.resize(
            self.fields[name][self.layer], self.tissue.shape[::-1], interpolation=cv2.INTER_LINEAR
        )

    def paint(self, where: np.ndarray, tissue: Tissue, label: int = 0) -> None:
        self.tissue[where] = tissue
        self.labels[where] = label

    def organ(self, name: str, tissue: Tissue, label: int = 0) -> np.ndarray:
        """Paints a whole field; gives it back for what lies within."""
        field = self.at(name)
        self.paint(field < 0, tissue, label)
        return field


def _paint(brush: _Brush, above: np.ndarray, patient: Patient) -> None:
    """One layer, from the skin inwards; what comes later lies on top. above: (H, 1) where gas would be."""
    skin = brush.organ("skin", Tissue.SUBCUTANEOUS)
    brush.paint((skin < 0) & (skin > -2), Tissue.SKIN)
    body = skin < -2
    brush.paint((brush.at("muscle_wall") < 0) & body, Tissue.MUSCLE)
    cavity = brush.organ("cavity", Tissue.FAT) < 0
    brush.paint((brush.at("lung") < 0) & cavity, Tissue.LUNG)
    brush.paint((brush.at("mediastinum") < 0) & cavity, Tissue.FAT)
    heart = brush.at("heart") < 0
    brush.paint(heart & cavity, Tissue.HEART)
    brush.paint((brush.at("chamber") < 0) & heart & cavity, Tissue.VEIN)
    brush.paint((brush.at("muscle") < 0) & body, Tissue.MUSCLE)
    brush.paint((brush.at("septum") < 0) & (brush.tissue == Tissue.MUSCLE), Tissue.FAT)
    _paint_bowel(brush, above, patient)
    brush.organ("pancreas", Tissue.PANCREAS)
    stomach = brush.organ("stomach", Tissue.STOMACH)
    brush.paint(stomach < -3.5, Tissue.JUICE)
    brush.paint((stomach < -3.5) & above, Tissue.GAS)
    brush.organ("cava", Tissue.VEIN)
    brush.organ("vein", Tissue.VEIN)
    brush.organ("liver", Tissue.LIVER, 1)
    brush.organ("spleen", Tissue.SPLEEN, 4)
    for name, label in (("right", 2), ("left", 3)):
        brush.organ(f"sinus_{name}", Tissue.FAT)
        brush.organ(f"pelvis_{name}", Tissue.URINE)
        kidney = brush.organ(f"kidney_{name}", Tissue.CORTEX, label) < 0
        brush.paint((brush.at(f"medulla_{name}") < 0) & kidney, Tissue.MEDULLA, label)
    brush.organ("gallbladder", Tissue.BILE, 5)
    brush.organ("aorta", Tissue.AORTA, 6)
    _paint_bone(brush)


def _paint_bowel(brush: _Brush, above: np.ndarray, patient: Patient) -> None:
    loops, wall, wet = brush.at("loops"), brush.at("loop_wall"), brush.at("loop_content")
    inside = (loops < 0) & (wet > 0.75 * (1 - patient.full) * patient.inner) & (wall > 1.5)
    brush.paint(inside, Tissue.BOWEL)
    lumen = inside & (wall > 8 - 4 * patient.full) & (loops < -2)
    brush.paint(lumen, Tissue.BOWEL_CONTENT)
    brush.paint(lumen & (wet > 0.95) & (wall > 9), Tissue.GAS)
    brush.content[lumen] = wet[lumen]
    colon, stool = brush.organ("colon", Tissue.BOWEL), brush.at("stool")
    lumen = colon < -2.4
    brush.paint(lumen, Tissue.BOWEL_CONTENT)
    brush.content[lumen] = np.clip(0.35 + 0.18 * stool, 0, 1)[lumen]
    brush.paint(lumen & (stool + above * (1 - stool) * 0.9 > 0.75), Tissue.GAS)


def _paint_bone(brush: _Brush) -> None:
    """Ribs and spine: a cortex of bone round marrow."""
    rib = brush.organ("rib", Tissue.BONE)
    brush.paint(rib < -2.2, Tissue.MARROW)
    canal = brush.at("canal")
    brush.organ("disc", Tissue.DISC)
    vertebra, arch = brush.organ("vertebra", Tissue.BONE, 7), brush.organ("arch", Tissue.BONE, 7)
    brush.paint((vertebra < -2) | (arch < -2.6), Tissue.MARROW, 7)
    brush.paint(canal < 0, Tissue.FAT)
    brush.paint(canal < -0.8, Tissue.LIQUOR)
    brush.paint((canal < -0.8) & (brush.at("cord") < 0), Tissue.CORD)


def _vessels(tissue: np.ndarray, liver: np.ndarray, grid: Grid, random: np.random.Generator) -> None:
    """Two trees in the liver, one from its hilum and one from its top, painted into `tissue`.

    liver: (N, 3) voxels. A tree joins random points to the nearest of those before, long ways round being
    dear; a branch is as wide as what hangs on it asks for (Murray 1926, PNAS 12(3): the cube of the radius is
    the sum of the branches' cubes).
    """
    from scipy.spatial import cKDTree

    size = np.array([grid.thickness / LAYERS, grid.pixel, grid.pixel])
    mm = (liver * size).astype(np.float32)
    middle, wide = mm.mean(0), np.ptp(mm, axis=0)
    hilum, top = (middle + np.array(share) * wide for share in ((-0.1, 0.05, 0.12), (0.28, 0.28, 0.22)))
    for root, count in ((hilum, 170), (top, 100)):
        ends = mm[random.integers(len(mm), size=count)]
        nearest = mm[np.argmin(np.square(mm - root).sum(1))]
        spots, radii = _tree(np.concatenate([nearest[None], ends]), TWIG, random)
        tree = cKDTree(spots)
        far, which = tree.query(mm, distance_upper_bound=6.0)
        found = np.isfinite(far)
        found[found] = far[found] < radii[which[found]]
        tissue[tuple(liver[found].T)] = Tissue.VESSEL


TWIG = 1.15
"""Radius of the last branches, mm."""


def _tree(points: np.ndarray, thinnest: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Spots every mm along a tree's branches, (M, 3) mm, and the radius at each; points[0] is the root."""
    count = len(points)
    apart = np.sqrt(np.square(points[:, None] - points[None]).sum(-1))
    parent, way = np.zeros(count, int), np.zeros(count)
    order = np.argsort(apart[0])
    for rank, point in enumerate(order[1:], start=1):
        before = order[:rank]
        cost = apart[point, before] + 0.45 * way[before]
        parent[point] = before[np.argmin(cost)]
        way[point] = way[parent[point]] + apart[point, parent[point]]
    cubes = np.full(count, thinnest**3)
    for point in order[:0:-1]:
        cubes[parent[point]] += cubes[point]
    radii = np.minimum(np.cbrt(cubes), 5.8)
    spots, widths = [], []
    for point in order[1:]:
        a, b = points[parent[point]], points[point]
        t = np.linspace(0, 1, max(2, int(apart[point, parent[point]])))[:, None]
        bow = random.normal(0, 0.06, 3) * apart[point, parent[point]] * np.sin(np.pi * t)
        spots.append(a + t * (b - a) + bow)
        widths.append(np.full(len(t), radii[point]))
    return np.concatenate(spots).astype(np.float32), np.concatenate(widths)


def _one_piece(tissue: np.ndarray, labels: np.ndarray) -> None:
    """Turns crumbs of every labelled organ but the spine into fat, in labels and tissue."""
    from scipy import ndimage

    for number in range(1, 7):
        pieces, count = ndimage.label(labels == number)
        if count < 2:
            continue
        crumbs = (pieces > 0) & (pieces != np.argmax(np.bincount(pieces.ravel())[1:]) + 1)
        own = np.unique(tissue[LAYERS // 2 :: LAYERS][crumbs])
        for layer in range(LAYERS):
            thin = tissue[layer::LAYERS]
            thin[crumbs & np.isin(thin, own)] = Tissue.FAT
        labels[crumbs] = 0
