"""Folders of frames: what is a domain, what is left out and why, what the network is shown."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from vetdino.downstream.ultrasound.frames import (
    Domain,
    Frame,
    digest_of,
    domains_of,
    drawn_from,
    enough,
    frames_of,
    picture_of,
    setup_of,
)
from vetdino.platform.core.errors import DataError


def save(path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def reason(domain: Domain, file: str) -> str:
    """Why the one file that was left out was left out."""
    assert list(domain.left_out) == [file]
    return domain.left_out[file]


def test_an_empty_folder_holds_no_domain(tmp_path):
    with pytest.raises(DataError, match="no domain here"):
        domains_of(tmp_path)


def test_a_place_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match="no such folder or table"):
        domains_of(tmp_path / "nowhere")


def test_a_folder_with_images_is_one_domain_of_its_own_name(tmp_path, drawn):
    [domain] = domains_of(drawn(tmp_path / "leg", 3))
    assert domain.name == "leg"
    assert [frame.key for frame in domain.frames] == ["leg/00", "leg/01", "leg/02"]
    assert all(frame.pixels.dtype == np.uint8 and frame.mask.dtype == bool for frame in domain.frames)
    assert not domain.left_out


def test_domains_come_in_the_order_of_their_names(tmp_path, drawn):
    for name in ("leg", "arm", "foot"):
        drawn(tmp_path / name, 1)
    (tmp_path / "notes").mkdir()
    assert [domain.name for domain in domains_of(tmp_path)] == ["arm", "foot", "leg"]


def test_a_table_tells_who_was_scanned_with_what(tmp_path, drawn):
    drawn(tmp_path / "a", 1), drawn(tmp_path / "b", 1)
    (tmp_path / "domains.csv").write_text(
        "domain,folder,subject,device,body_part\nleft,a,s1,d1,arm\nright,b,s1,d2,leg\n"
    )
    left, right = domains_of(tmp_path)
    assert (left.name, left.subject, left.device, left.body_part) == ("left", "s1", "d1", "arm")
    assert setup_of(left, right) == "device + body part"
    assert [domain.name for domain in domains_of(tmp_path / "domains.csv")] == ["left", "right"]


@pytest.mark.parametrize("fact", ["subject", "device", "body_part"])
def test_what_differs_between_two_domains_is_named(fact):
    one = Domain("a", (), "s", "d", "arm")
    assert setup_of(one, replace(one, **{fact: "other"})) == fact.replace("_", " ")


def test_what_one_of_two_domains_does_not_tell_cannot_differ():
    assert setup_of(Domain("a", (), subject="s1"), Domain("b", (), device="d1")) == "not told"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "without rows"),
        ("domain,folder\n", "without rows"),
        ("domain,place\na,a\n", "no column 'folder'"),
        ("domain,folder\na,../a\n", "does not lie beside"),
        ("domain,folder\na,/tmp\n", "does not lie beside"),
        ("domain,folder\na,\n", "does not lie beside"),
        ("domain,folder\na,a\na,a\n", "a name of its own"),
        ("domain,folder\n,a\n", "a name of its own"),
        ("domain,folder\na,nowhere\n", "has no images/"),
    ],
)
def test_a_table_that_cannot_be_followed_is_refused(tmp_path, drawn, table, words):
    drawn(tmp_path / "a", 1)
    (tmp_path / "domains.csv").write_text(table)
    with pytest.raises(DataError, match=words):
        domains_of(tmp_path)


def test_an_image_without_a_mask_and_a_mask_without_an_image_are_left_out(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 3)
    (folder / "masks" / "01.png").unlink()
    (folder / "images" / "02.png").unlink()
    [domain] = domains_of(folder)
    assert [frame.name for frame in domain.frames] == ["00"]
    assert domain.left_out == {
        "images/01.png": "no mask in masks/",
        "masks/02.png": "no image of that name in images/",
    }


def test_a_mask_of_another_size_is_left_out_and_both_sizes_are_told(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    save(folder / "masks" / "01.png", np.zeros((10, 20), np.uint8))
    [domain] = domains_of(folder)
    assert "48x64" in reason(domain, "images/01.png")
    assert "10x20" in reason(domain, "images/01.png")


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_file_that_is_no_picture_is_left_out(tmp_path, drawn, part):
    folder = drawn(tmp_path / "leg", 2)
    (folder / part / "01.png").write_bytes(b"no picture")
    [domain] = domains_of(folder)
    assert "not a readable picture" in reason(domain, "images/01.png")


def test_a_picture_cut_in_half_is_left_out(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    whole = (folder / "images" / "01.png").read_bytes()
    (folder / "images" / "01.png").write_bytes(whole[: len(whole) // 2])
    [domain] = domains_of(folder)
    assert "not a readable picture" in reason(domain, "images/01.png")


def test_sixteen_bits_and_strips_are_left_out(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 3)
    save(folder / "images" / "01.png", np.full((48, 64), 4000, np.uint16))
    save(folder / "images" / "02.png", np.zeros((5, 64), np.uint8))
    [domain] = domains_of(folder)
    assert "8 bits" in domain.left_out["images/01.png"]
    assert "strip" in domain.left_out["images/02.png"]


def test_two_images_of_one_name_are_left_out(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    save(folder / "images" / "01.jpg", np.zeros((48, 64), np.uint8))
    [domain] = domains_of(folder)
    assert "2 images of that name" in reason(domain, "images/01.jpg")


def test_a_label_painted_into_the_image_is_left_out(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    [first, _] = domains_of(folder)[0].frames
    painted = np.repeat(first.pixels[..., None], 3, axis=2)
    painted[first.mask] = (200, 60, 60)
    save(folder / "images" / "00.png", painted)
    [domain] = domains_of(folder)
    assert "painted" in reason(domain, "images/00.png")


def test_a_device_that_tints_the_whole_frame_is_no_painted_label(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    [first, _] = domains_of(folder)[0].frames
    tinted = np.stack([np.full_like(first.pixels, 200), first.pixels // 4, first.pixels // 4], axis=2)
    save(folder / "images" / "00.png", tinted)
    assert len(domains_of(folder)[0].frames) == 2


def test_colours_without_saturation_are_read_as_grey(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 1)
    [before] = domains_of(folder)[0].frames
    save(folder / "images" / "00.png", np.repeat(before.pixels[..., None], 3, axis=2))
    [after] = domains_of(folder)[0].frames
    assert np.array_equal(before.pixels, after.pixels)


def test_an_empty_mask_is_kept_and_told(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    save(folder / "masks" / "01.png", np.zeros((48, 64), np.uint8))
    [domain] = domains_of(folder)
    assert len(domain.frames) == 2
    assert list(domain.doubts) == ["01"]


def test_a_domain_of_empty_masks_is_refused(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 1)
    save(folder / "masks" / "00.png", np.zeros((48, 64), np.uint8))
    with pytest.raises(DataError, match="every mask is empty"):
        domains_of(folder)


def test_masks_of_0_and_1_are_masks_of_0_and_255(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 1)
    [before] = domains_of(folder)[0].frames
    save(folder / "masks" / "00.png", before.mask.astype(np.uint8))
    [after] = domains_of(folder)[0].frames
    assert np.array_equal(before.mask, after.mask)


def test_a_map_of_several_labels_is_no_mask(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    save(folder / "masks" / "01.png", (np.arange(48 * 64) % 4).astype(np.uint8).reshape(48, 64))
    [domain] = domains_of(folder)
    assert "values 0, 1, 2, 3" in reason(domain, "images/01.png")


def test_a_domain_of_which_nothing_can_be_used_is_refused_with_the_first_reason(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 1)
    (folder / "masks" / "00.png").unlink()
    with pytest.raises(DataError, match=r"no usable frame; images/00.png: no mask"):
        domains_of(folder)


def test_a_folder_without_masks_is_a_domain_without_truth(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    for mask in (folder / "masks").iterdir():
        mask.unlink()
    (folder / "masks").rmdir()
    [domain] = domains_of(folder)
    assert not domain.labelled
    with pytest.raises(DataError, match="no masks/"):
        enough([domain], 2)
    assert enough([domain], 2, truth=False) == ([domain], {})


def test_too_few_images_leave_a_domain_out_and_too_few_domains_are_refused(tmp_path, drawn):
    drawn(tmp_path / "many", 3), drawn(tmp_path / "few", 1)
    domains = domains_of(tmp_path)
    kept, left_out = enough(domains, 2)
    assert [domain.name for domain in kept] == ["many"]
    assert left_out == {"few": "1 usable images, this needs 2"}
    with pytest.raises(DataError, match=r"1 usable domains, this needs 2 \(few: 1 usable"):
        enough(domains, 2, domains_needed=2)


def test_sets_are_drawn_by_the_seed_and_not_by_the_order_of_the_files(tmp_path, drawn):
    [domain] = domains_of(drawn(tmp_path / "leg", 8))
    backwards = replace(domain, frames=domain.frames[::-1])
    names = [frame.name for frame in drawn_from(domain, 0)]
    assert names == [frame.name for frame in drawn_from(backwards, 0)]
    assert sorted(names) == [frame.name for frame in domain.frames]
    assert names != [frame.name for frame in drawn_from(domain, 1)]


def test_the_digest_tells_pixels_masks_names_and_facts_apart(tmp_path, drawn):
    [domain] = domains_of(drawn(tmp_path / "leg", 2))
    frame = domain.frames[0]
    other = replace(frame, mask=~frame.mask)
    turned = replace(frame, pixels=frame.pixels.T)
    variants = [
        domain,
        replace(domain, frames=domain.frames[:1]),
        replace(domain, frames=(other, *domain.frames[1:])),
        replace(domain, frames=(turned, *domain.frames[1:])),
        replace(domain, device="d2"),
    ]
    digests = {digest_of([one]) for one in variants}
    assert len(digests) == len(variants)
    assert digest_of([domain]) == digest_of(domains_of(tmp_path))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 150), (32, 48)), ((150, 100), (48, 32)), ((20, 20), (32, 32)), ((33, 330), (32, 320))],
)
def test_a_picture_has_the_short_side_asked_for_and_keeps_its_proportions(tiny, size, expected):
    picture = picture_of(Frame("a", "d", np.zeros(size, np.uint8)), tiny, short=32)
    assert picture.shape == (1, *expected)


def test_a_picture_is_reduced_by_area_and_normalised_by_the_card(tiny):
    pixels = np.random.default_rng(0).integers(0, 256, (96, 126), dtype=np.uint8)
    small = pixels.reshape(32, 3, 42, 3).mean(axis=(1, 3))
    exact = Frame("a", "d", pixels)
    picture = picture_of(exact, tiny, short=32)[0].numpy()
    assert picture.shape == (32, 42)
    grey = (picture * tiny.card.std + tiny.card.mean) * 255
    assert np.abs(grey - small).max() <= 0.51


def test_new_frames_are_read_from_files_and_folders_once_each(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    frames, left_out = frames_of([folder, folder / "images" / "00.png", folder / "masks" / "00.png"])
    assert [frame.name for frame in frames] == ["leg_00", "01", "masks_00"]
    assert all(frame.mask is None for frame in frames)
    assert left_out == {}


def test_what_is_no_picture_among_new_frames_is_told(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 1)
    bad = tmp_path / "bad.png"
    bad.write_text("nothing")
    frames, left_out = frames_of([folder, bad])
    assert len(frames) == 1
    assert "not a readable picture" in left_out[str(bad)]
    with pytest.raises(DataError, match="none is a frame"):
        frames_of([bad])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no picture here"):
        frames_of([tmp_path / "empty"])
    with pytest.raises(DataError, match="no such file"):
        frames_of([tmp_path / "nowhere.png"])


def test_shrinking_goes_by_area(tiny):
    """A checkerboard of single pixels becomes even grey: a picked pixel would be black or white."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    picture = picture_of(Frame("a", "d", board), tiny, short=32)[0].numpy()
    assert np.ptp(picture) == 0
    assert np.array_equal(cv2.resize(board, (32, 32), interpolation=cv2.INTER_AREA)[0, :1], [128])
