"""Frames are read from picture files and masks, or left out with a reason; the network input keeps proportions."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.downstream.ultrasound.frame_files import reason, save
from tests.platform.data.picture_files import png_file
from vetdino.downstream.ultrasound.domains import read_domains
from vetdino.downstream.ultrasound.frames import Frame, network_input, read_frames
from vetdino.platform.core.errors import DataError
from vetdino.platform.models.backbone import random_like


def test_a_mask_of_another_size_is_left_out_and_both_sizes_are_named(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    save(folder / "masks" / "01.png", np.zeros((10, 20), np.uint8))
    [domain] = read_domains(folder)
    assert "48x64" in reason(domain, "images/01.png")
    assert "10x20" in reason(domain, "images/01.png")


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_file_that_is_no_picture_is_left_out(tmp_path, drawn, part):
    folder = drawn(tmp_path / "leg", 2)
    (folder / part / "01.png").write_bytes(b"no picture")
    [domain] = read_domains(folder)
    assert "not a readable picture" in reason(domain, "images/01.png")


def test_a_picture_cut_in_half_is_left_out(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    whole = (folder / "images" / "01.png").read_bytes()
    (folder / "images" / "01.png").write_bytes(whole[: len(whole) // 2])
    [domain] = read_domains(folder)
    assert "not a readable picture" in reason(domain, "images/01.png")


def test_sixteen_bits_and_strips_are_left_out(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 3)
    save(folder / "images" / "01.png", np.full((48, 64), 4000, np.uint16))
    save(folder / "images" / "02.png", np.zeros((5, 64), np.uint8))
    [domain] = read_domains(folder)
    assert "8 bits" in domain.left_out["images/01.png"]
    assert "strip" in domain.left_out["images/02.png"]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_frame_lies_as_its_mask(tmp_path, drawn, orientation):
    folder = drawn(tmp_path / "leg", 1)
    [before] = read_domains(folder)[0].frames
    (folder / "images" / "00.png").write_bytes(png_file(before.pixels, orientation=orientation))
    [after] = read_domains(folder)[0].frames
    assert np.array_equal(after.pixels, before.pixels)


def test_what_a_frame_or_a_mask_hides_is_black(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 1)
    [before] = read_domains(folder)[0].frames
    alpha = np.where(before.mask, 255, 0)
    white = np.full_like(before.pixels, 255)
    (folder / "images" / "00.png").write_bytes(png_file(np.dstack([before.pixels, alpha]), "la"))
    (folder / "masks" / "00.png").write_bytes(png_file(np.dstack([white, white, white, alpha]), "rgba"))
    [after] = read_domains(folder)[0].frames
    assert np.array_equal(after.mask, before.mask)
    assert np.array_equal(after.pixels, before.pixels * before.mask)


def test_a_mask_in_the_alpha_channel_alone_is_left_out_not_taken_as_empty(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    alpha = (np.indices((48, 64))[0] > 20) * 255
    (folder / "masks" / "01.png").write_bytes(png_file(np.dstack([0 * alpha, alpha]), "la"))
    [domain] = read_domains(folder)
    assert "alpha channel" in reason(domain, "images/01.png")


def test_sixteen_bits_of_color_are_left_out_like_those_of_gray(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    (folder / "images" / "01.png").write_bytes(png_file(np.full((48, 64, 3), 4000), "rgb", depth=16))
    [domain] = read_domains(folder)
    assert "8 bits" in reason(domain, "images/01.png")


def test_two_images_of_one_name_are_left_out(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    save(folder / "images" / "01.jpg", np.zeros((48, 64), np.uint8))
    [domain] = read_domains(folder)
    assert "2 images of that name" in reason(domain, "images/01.jpg")


def test_a_label_painted_into_the_image_is_left_out(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    [first, _] = read_domains(folder)[0].frames
    painted = np.repeat(first.pixels[..., None], 3, axis=2)
    painted[first.mask] = (200, 60, 60)
    save(folder / "images" / "00.png", painted)
    [domain] = read_domains(folder)
    assert "painted" in reason(domain, "images/00.png")


def test_a_device_that_tints_the_whole_frame_is_no_painted_label(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    [first, _] = read_domains(folder)[0].frames
    tinted = np.stack([np.full_like(first.pixels, 200), first.pixels // 4, first.pixels // 4], axis=2)
    save(folder / "images" / "00.png", tinted)
    assert len(read_domains(folder)[0].frames) == 2


def test_colours_without_saturation_are_read_as_grey(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 1)
    [before] = read_domains(folder)[0].frames
    save(folder / "images" / "00.png", np.repeat(before.pixels[..., None], 3, axis=2))
    [after] = read_domains(folder)[0].frames
    assert np.array_equal(before.pixels, after.pixels)


def test_masks_of_0_and_1_are_masks_of_0_and_255(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 1)
    [before] = read_domains(folder)[0].frames
    save(folder / "masks" / "00.png", before.mask.astype(np.uint8))
    [after] = read_domains(folder)[0].frames
    assert np.array_equal(before.mask, after.mask)


def test_a_map_of_several_labels_is_no_mask(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    save(folder / "masks" / "01.png", (np.arange(48 * 64) % 4).astype(np.uint8).reshape(48, 64))
    [domain] = read_domains(folder)
    assert "values 0, 1, 2, 3" in reason(domain, "images/01.png")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 150), (32, 48)), ((150, 100), (48, 32)), ((20, 20), (32, 32)), ((33, 330), (32, 320))],
)
def test_a_picture_has_the_short_side_asked_for_and_keeps_its_proportions(tiny, size, expected):
    picture = network_input(Frame("a", "d", np.zeros(size, np.uint8)), tiny, short=32)
    assert picture.shape == (1, *expected)


def test_the_side_said_behind_a_backbone_holds_unless_a_setting_says_another(tiny):
    frame = Frame("a", "d", np.zeros((100, 150), np.uint8))
    assert network_input(frame, tiny).shape == (1, 224, 336)
    shown = random_like(tiny)
    shown.card = replace(shown.card, input_side=shown.card.config.side)  # `#side=` said its own side
    side = shown.card.config.side
    assert network_input(frame, shown).shape == (1, side, side * 3 // 2)
    assert network_input(frame, shown, short=64).shape == (1, 64, 96)


def test_a_picture_is_reduced_by_area_and_normalised_by_the_card(tiny):
    pixels = np.random.default_rng(0).integers(0, 256, (96, 126), dtype=np.uint8)
    small = pixels.reshape(32, 3, 42, 3).mean(axis=(1, 3))
    exact = Frame("a", "d", pixels)
    picture = network_input(exact, tiny, short=32)[0].numpy()
    assert picture.shape == (32, 42)
    gray = (picture * tiny.card.std + tiny.card.mean) * 255
    assert np.abs(gray - small).max() <= 0.51


def test_new_frames_are_read_from_files_and_folders_once_each(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    frames, left_out = read_frames([folder, folder / "images" / "00.png", folder / "masks" / "00.png"])
    assert [frame.name for frame in frames] == ["leg_00", "01", "masks_00"]
    assert all(frame.mask is None for frame in frames)
    assert left_out == {}


def test_what_is_no_picture_among_new_frames_is_named(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 1)
    bad = tmp_path / "bad.png"
    bad.write_text("nothing")
    frames, left_out = read_frames([folder, bad])
    assert len(frames) == 1
    assert "not a readable picture" in left_out[str(bad)]
    with pytest.raises(DataError, match="none of them"):
        read_frames([bad])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no picture here"):
        read_frames([tmp_path / "empty"])
    with pytest.raises(DataError, match="no such file"):
        read_frames([tmp_path / "nowhere.png"])


def test_shrinking_goes_by_area(tiny):
    """A checkerboard of single pixels becomes even gray: a picked pixel would be black or white."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    picture = network_input(Frame("a", "d", board), tiny, short=32)[0].numpy()
    assert np.ptp(picture) == 0
    assert np.array_equal(cv2.resize(board, (32, 32), interpolation=cv2.INTER_AREA)[0, :1], [128])
