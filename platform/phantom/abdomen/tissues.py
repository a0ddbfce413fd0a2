"""The tissue and the organ label of every voxel of a generated abdomen.

Organs are painted one over the other, so no voxel belongs to two; vessels and contents come with their organ.
Z slices of H rows (front to back) and W columns (patient's right to left); T thin layers of all slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from ..fields import Field
from .organs import AbdomenBody
from .patient import LAYERS, Patient, ScanGrid
from .vessels import liver_vessels

CLASSES = dict(
    enumerate(("liver", "right kidney", "left kidney", "spleen", "gallbladder", "aorta", "spine"), start=1)
)
"""Value in the label map -> organ; the first four are those of the CHAOS challenge."""


class Tissue(IntEnum):
    """What a voxel consists of: the values of `TissueVolume.tissue_THW`."""

    AIR, SKIN, SUBCUTANEOUS, MUSCLE, FAT, LUNG, HEART, BOWEL, BOWEL_CONTENT, GAS = range(10)
    STOMACH, JUICE, PANCREAS, VEIN, LIVER, VESSEL, SPLEEN, CORTEX, MEDULLA, URINE = range(10, 20)
    BILE, AORTA, MARROW, BONE, DISC, LIQUOR, CORD = range(20, 27)


@dataclass(frozen=True, slots=True, eq=False)
class TissueVolume:
    """An abdomen in voxels.

    tissue_THW: uint8 of `Tissue`; labels_ZHW: uint8 of CLASSES, 0 elsewhere; content_THW: float32 wetness of the
    bowel's content, 0 dry to 1 wet.
    """

    tissue_THW: np.ndarray
    labels_ZHW: np.ndarray
    content_THW: np.ndarray

    def __repr__(self) -> str:
        organs = len(np.unique(self.labels_ZHW)) - 1
        return f"TissueVolume({'x'.join(map(str, self.labels_ZHW.shape))}, {organs} organs)"


def tissue_volume(patient: Patient, grid: ScanGrid, random: np.random.Generator) -> TissueVolume:
    """A patient's abdomen on the grid of a scan."""
    fields = AbdomenBody(patient, grid, random).organ_fields()
    _, y, _ = grid.axes(grid.side)
    gas_level = float(random.uniform(-55, 5))
    shape = (grid.slices * LAYERS, grid.side, grid.side)
    tissue, labels = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    content = np.zeros(shape, np.float32)
    for layer in range(len(tissue)):
        painter = _LayerPainter(fields, layer, tissue[layer], labels[layer], content[layer])
        _paint(painter, y[:, None] < gas_level, patient)
    liver = np.argwhere(labels == 1)
    tissue[tuple(liver[liver_vessels(liver, grid, random)].T)] = Tissue.VESSEL
    middle = np.ascontiguousarray(labels[LAYERS // 2 :: LAYERS])
    _remove_fragments(tissue, middle)
    return TissueVolume(tissue, middle, content)


@dataclass(frozen=True, slots=True, eq=False)
class _LayerPainter:
    """One thin layer: its fields, enlarged to the slice, and the three arrays (H, W) that are painted."""

    fields: dict[str, Field]
    layer: int
    tissue: np.ndarray
    labels: np.ndarray
    content: np.ndarray

    def field(self, name: str) -> np.ndarray:
        """A field, (H, W) float32; the coarse cells and the pixels share the edges of the slice."""
        import cv2

        coarse = self.fields[name][self.layer]
        return cv2.resize(coarse, self.tissue.shape[::-1], interpolation=cv2.INTER_LINEAR)

    def paint(self, where: np.ndarray, tissue: Tissue, label: int = 0) -> None:
        """Set the tissue and the label where `where` (H, W) bool is true."""
        self.tissue[where] = tissue
        self.labels[where] = label

    def organ(self, name: str, tissue: Tissue, label: int = 0) -> np.ndarray:
        """Paint the inside of a field; returns the field."""
        field = self.field(name)
        self.paint(field < 0, tissue, label)
        return field


def _paint(painter: _LayerPainter, above: np.ndarray, patient: Patient) -> None:
    """Paint one layer from the skin inwards; later tissues cover earlier ones. above: (H, 1) bool, where gas is."""
    skin = painter.organ("skin", Tissue.SUBCUTANEOUS)
    painter.paint((skin < 0) & (skin > -2), Tissue.SKIN)
    body = skin < -2
    painter.paint((painter.field("muscle_wall") < 0) & body, Tissue.MUSCLE)
    cavity = painter.organ("cavity", Tissue.FAT) < 0
    painter.paint((painter.field("lung") < 0) & cavity, Tissue.LUNG)
    painter.paint((painter.field("mediastinum") < 0) & cavity, Tissue.FAT)
    heart = painter.field("heart") < 0
    painter.paint(heart & cavity, Tissue.HEART)
    painter.paint((painter.field("chamber") < 0) & heart & cavity, Tissue.VEIN)
    painter.paint((painter.field("muscle") < 0) & body, Tissue.MUSCLE)
    painter.paint((painter.field("septum") < 0) & (painter.tissue == Tissue.MUSCLE), Tissue.FAT)
    _paint_bowel(painter, above, patient)
    painter.organ("pancreas", Tissue.PANCREAS)
    stomach = painter.organ("stomach", Tissue.STOMACH)
    painter.paint(stomach < -3.5, Tissue.JUICE)
    painter.paint((stomach < -3.5) & above, Tissue.GAS)
    painter.organ("cava", Tissue.VEIN)
    painter.organ("vein", Tissue.VEIN)
    painter.organ("liver", Tissue.LIVER, 1)
    painter.organ("spleen", Tissue.SPLEEN, 4)
    for name, label in (("right", 2), ("left", 3)):
        painter.organ(f"sinus_{name}", Tissue.FAT)
        painter.organ(f"pelvis_{name}", Tissue.URINE)
        kidney = painter.organ(f"kidney_{name}", Tissue.CORTEX, label) < 0
        painter.paint((painter.field(f"medulla_{name}") < 0) & kidney, Tissue.MEDULLA, label)
    painter.organ("gallbladder", Tissue.BILE, 5)
    painter.organ("aorta", Tissue.AORTA, 6)
    _paint_bone(painter)


def _paint_bowel(painter: _LayerPainter, above: np.ndarray, patient: Patient) -> None:
    """Small bowel and colon: wall, content, gas."""
    loops, wall, wet = painter.field("loops"), painter.field("loop_wall"), painter.field("loop_content")
    inside = (loops < 0) & (wet > 0.75 * (1 - patient.full) * patient.inner) & (wall > 1.5)
    painter.paint(inside, Tissue.BOWEL)
    lumen = inside & (wall > 8 - 4 * patient.full) & (loops < -2)
    painter.paint(lumen, Tissue.BOWEL_CONTENT)
    painter.paint(lumen & (wet > 0.95) & (wall > 9), Tissue.GAS)
    painter.content[lumen] = wet[lumen]
    colon, stool = painter.organ("colon", Tissue.BOWEL), painter.field("stool")
    lumen = colon < -2.4
    painter.paint(lumen, Tissue.BOWEL_CONTENT)
    painter.content[lumen] = np.clip(0.35 + 0.18 * stool, 0, 1)[lumen]
    painter.paint(lumen & (stool + above * (1 - stool) * 0.9 > 0.75), Tissue.GAS)


def _paint_bone(painter: _LayerPainter) -> None:
    """Ribs and spine: bone around marrow."""
    rib = painter.organ("rib", Tissue.BONE)
    painter.paint(rib < -2.2, Tissue.MARROW)
    canal = painter.field("canal")
    painter.organ("disc", Tissue.DISC)
    vertebra, arch = painter.organ("vertebra", Tissue.BONE, 7), painter.organ("arch", Tissue.BONE, 7)
    painter.paint((vertebra < -2) | (arch < -2.6), Tissue.MARROW, 7)
    painter.paint(canal < 0, Tissue.FAT)
    painter.paint(canal < -0.8, Tissue.LIQUOR)
    painter.paint((canal < -0.8) & (painter.field("cord") < 0), Tissue.CORD)


def _remove_fragments(tissue: np.ndarray, labels: np.ndarray) -> None:
    """Turn all but the largest piece of every labeled organ except the spine into fat, in place."""
    from scipy import ndimage

    for number in range(1, 7):
        pieces, count = ndimage.label(labels == number)
        if count < 2:
            continue
        fragments = (pieces > 0) & (pieces != np.argmax(np.bincount(pieces.ravel())[1:]) + 1)
        organ = np.unique(tissue[LAYERS // 2 :: LAYERS][fragments])
        for layer in range(LAYERS):
            thin = tissue[layer::LAYERS]
            thin[fragments & np.isin(thin, organ)] = Tissue.FAT
        labels[fragments] = 0
