"""Overlays: each class has its color, labels are outlined, and a sheet shows the labeled slices."""

import cv2
import numpy as np

from vetdino.downstream.volumes.overlays import (
    COLUMNS,
    LINE,
    TILE,
    class_color,
    outline_labels,
    overlay_sheet,
)


def image_of(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_neighboring_classes_have_colors_far_apart():
    colors = np.array([class_color(number) for number in range(1, 25)])
    assert len({tuple(color) for color in colors}) == 24
    assert np.abs(np.diff(colors, axis=0)).max(axis=1).min() > 60


def test_a_slice_without_labels_is_gray_and_enlarged():
    slice_HW = np.array([[0.0, 300.0], [100.0, -5.0]])
    painted = outline_labels(slice_HW, None)
    assert painted[..., 0].tolist() == [[0, 255], [100, 0]]
    assert outline_labels(slice_HW, None, scale=3).shape == (6, 6, 3)


def test_a_class_is_outlined_in_its_color_and_not_filled():
    labels = np.zeros((20, 20), np.uint8)
    labels[5:15, 5:15] = 2
    painted = outline_labels(np.zeros((20, 20)), labels)
    colored = (painted == class_color(2)).all(axis=2)
    assert colored[5, 5:15].all()
    assert colored[5:15, 14].all()
    assert not colored[7:13, 7:13].any()
    assert not painted[~colored].any()


def test_a_sheet_shows_the_labeled_slices_and_names_their_classes():
    image, labels = np.zeros((9, 32, 32), np.uint8), np.zeros((9, 32, 32), np.uint8)
    plain = image_of(overlay_sheet(image, None, {}, title="no labels"))
    assert plain.shape == (LINE + 3 * TILE, COLUMNS * TILE, 3)  # nine slices on three rows, no legend
    labels[4:6, 8:24, 8:24] = 1
    sheet = image_of(overlay_sheet(image, labels, {1: "liver"}, title="labels"))
    assert sheet.shape == (LINE + TILE + LINE, COLUMNS * TILE, 3)
    shown = sheet[LINE:-LINE].reshape(TILE, COLUMNS, TILE, 3).max(axis=3)
    assert [bool((tile > 200).sum() > 500) for tile in shown.transpose(1, 0, 2)] == [True, True, False, False]
    assert sheet[-LINE:].any()


def test_many_classes_are_named_on_several_lines_and_the_rest_counted():
    labels = np.arange(1, 33, dtype=np.uint8).reshape(1, 4, 8)
    few = overlay_sheet(np.zeros((1, 4, 8)), np.minimum(labels, 2), {}, title="")
    many = overlay_sheet(np.zeros((1, 4, 8)), labels, {}, title="")
    assert image_of(many).shape[0] > image_of(few).shape[0]


def test_a_sheet_names_the_sides_of_its_plane():
    image = np.zeros((1, 32, 32), np.uint8)
    axial, coronal, sagittal = (
        overlay_sheet(image, None, {}, title="", plane=plane) for plane in ("axial", "coronal", "sagittal")
    )
    assert axial == coronal == overlay_sheet(image, None, {}, title="")
    assert axial != sagittal
