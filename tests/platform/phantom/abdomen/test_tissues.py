"""Tissues and labels of voxels."""

from __future__ import annotations

import numpy as np

from vetdino.platform.phantom.abdomen.patient import LAYERS, ScanGrid, draw_patient
from vetdino.platform.phantom.abdomen.tissues import (
    CLASSES,
    Tissue,
    _LayerPainter,
    _remove_fragments,
    tissue_volume,
)


def test_fragments_of_an_organ_become_fat_and_its_largest_piece_stays():
    labels = np.zeros((2, 8, 8), np.uint8)
    labels[:, :4, :4] = 1
    labels[1, 7, 7] = 1
    labels[0, 6, 0] = labels[0, 6, 5] = 7
    tissue = np.repeat(np.where(labels == 1, Tissue.LIVER, Tissue.MUSCLE).astype(np.uint8), LAYERS, axis=0)
    before = tissue.copy()
    _remove_fragments(tissue, labels)
    assert labels[1, 7, 7] == 0
    assert (labels == 1).sum() == 32
    assert (labels == 7).sum() == 2
    assert (np.argwhere(tissue != before) == [[3, 7, 7], [4, 7, 7], [5, 7, 7]]).all()
    assert (tissue[3:, 7, 7] == Tissue.FAT).all()


def test_a_volume_has_tissues_on_thin_layers_and_labels_in_the_middle_of_each_slice():
    random = np.random.default_rng(5)
    patient = draw_patient(random)
    volume = tissue_volume(patient, ScanGrid(64, 6.5, 24, 8.0, 90.0, (0.0, 11.0)), random)
    assert repr(volume) == "TissueVolume(24x64x64, 7 organs)"
    assert volume.tissue_THW.shape == volume.content_THW.shape == (24 * LAYERS, 64, 64)
    middle = volume.tissue_THW[LAYERS // 2 :: LAYERS]
    organs = {
        "liver": {Tissue.LIVER, Tissue.VESSEL},
        "spleen": {Tissue.SPLEEN},
        "right kidney": {Tissue.CORTEX, Tissue.MEDULLA},
        "left kidney": {Tissue.CORTEX, Tissue.MEDULLA},
        "gallbladder": {Tissue.BILE},
        "aorta": {Tissue.AORTA},
        "spine": {Tissue.BONE, Tissue.MARROW},
    }
    for number, name in CLASSES.items():
        assert set(np.unique(middle[volume.labels_ZHW == number])) <= organs[name], name
    corners = volume.tissue_THW[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == Tissue.AIR).all()
    wet = volume.content_THW > 0
    assert wet.any()
    assert volume.content_THW.max() <= 1


def test_a_later_organ_covers_an_earlier_one_and_takes_its_label():
    fields = {name: np.full((1, 8, 8), 1, np.float32) for name in ("liver", "aorta")}
    fields["liver"][0, :, :5] = -1
    fields["aorta"][0, :, 3:] = -1
    tissue, labels = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    painter = _LayerPainter(fields, 0, tissue, labels, np.zeros((8, 8), np.float32))
    painter.organ("liver", Tissue.LIVER, 1)
    painter.organ("aorta", Tissue.AORTA, 6)
    assert (tissue[:, :3] == Tissue.LIVER).all()
    assert (labels[:, 3:] == 6).all()
    painter.paint(labels == 1, Tissue.FAT)
    assert (labels[:, :3] == 0).all()
