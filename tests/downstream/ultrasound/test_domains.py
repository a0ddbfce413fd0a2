"""Folders of frames: what is a domain, what is left out and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.downstream.ultrasound.frame_files import save
from vetdino.downstream.ultrasound.domains import (
    Domain,
    domains_digest,
    read_domains,
    setup_difference,
    shuffled_frames,
    usable_domains,
)
from vetdino.platform.core.errors import DataError


def test_an_empty_folder_holds_no_domain(tmp_path):
    with pytest.raises(DataError, match="no domain here"):
        read_domains(tmp_path)


def test_a_place_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="no such folder or table"):
        read_domains(tmp_path / "nowhere")


def test_a_folder_with_images_is_one_domain_of_its_own_name(tmp_path, drawn):
    [domain] = read_domains(drawn(tmp_path / "leg", 3))
    assert domain.name == "leg"
    assert [frame.key for frame in domain.frames] == ["leg/00", "leg/01", "leg/02"]
    assert all(frame.pixels.dtype == np.uint8 and frame.mask.dtype == bool for frame in domain.frames)
    assert not domain.left_out


def test_domains_come_in_the_order_of_their_names(tmp_path, drawn):
    for name in ("leg", "arm", "foot"):
        drawn(tmp_path / name, 1)
    (tmp_path / "notes").mkdir()
    assert [domain.name for domain in read_domains(tmp_path)] == ["arm", "foot", "leg"]


def test_a_table_tells_who_was_scanned_with_what(tmp_path, drawn):
    drawn(tmp_path / "a", 1), drawn(tmp_path / "b", 1)
    (tmp_path / "domains.csv").write_text(
        "domain,folder,subject,device,body_part\nleft,a,s1,d1,arm\nright,b,s1,d2,leg\n"
    )
    left, right = read_domains(tmp_path)
    assert (left.name, left.subject, left.device, left.body_part) == ("left", "s1", "d1", "arm")
    assert setup_difference(left, right) == "device + body part"
    assert [domain.name for domain in read_domains(tmp_path / "domains.csv")] == ["left", "right"]


@pytest.mark.parametrize("fact", ["subject", "device", "body_part"])
def test_what_differs_between_two_domains_is_named(fact):
    one = Domain("a", (), "s", "d", "arm")
    assert setup_difference(one, replace(one, **{fact: "other"})) == fact.replace("_", " ")


def test_what_one_of_two_domains_does_not_tell_cannot_differ():
    assert setup_difference(Domain("a", (), subject="s1"), Domain("b", (), device="d1")) == "unknown"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "without rows"),
        ("domain,folder\n", "without rows"),
        ("domain,place\na,a\n", "no column 'folder'"),
        ("domain,folder\na,../a\n", "does not lie beside"),
        ("domain,folder\na,/tmp\n", "does not lie beside"),
        ("domain,folder\na,\n", "does not lie beside"),
        ("domain,folder\na,a\na,a\n", "unique name"),
        ("domain,folder\n,a\n", "unique name"),
        ("domain,folder\na,nowhere\n", "has no images/"),
    ],
)
def test_a_table_that_cannot_be_followed_is_refused(tmp_path, drawn, table, words):
    drawn(tmp_path / "a", 1)
    (tmp_path / "domains.csv").write_text(table)
    with pytest.raises(DataError, match=words):
        read_domains(tmp_path)


def test_an_image_without_a_mask_and_a_mask_without_an_image_are_left_out(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 3)
    (folder / "masks" / "01.png").unlink()
    (folder / "images" / "02.png").unlink()
    [domain] = read_domains(folder)
    assert [frame.name for frame in domain.frames] == ["00"]
    assert domain.left_out == {
        "images/01.png": "no mask in masks/",
        "masks/02.png": "no image of that name in images/",
    }


def test_an_empty_mask_is_kept_and_named(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    save(folder / "masks" / "01.png", np.zeros((48, 64), np.uint8))
    [domain] = read_domains(folder)
    assert len(domain.frames) == 2
    assert list(domain.doubts) == ["01"]


def test_a_domain_of_empty_masks_is_refused(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 1)
    save(folder / "masks" / "00.png", np.zeros((48, 64), np.uint8))
    with pytest.raises(DataError, match="every mask is empty"):
        read_domains(folder)


def test_a_domain_of_which_nothing_can_be_used_is_refused_with_the_first_reason(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 1)
    (folder / "masks" / "00.png").unlink()
    with pytest.raises(DataError, match=r"no usable frame; images/00.png: no mask"):
        read_domains(folder)


def test_a_folder_without_masks_is_a_domain_without_truth(tmp_path, drawn):
    folder = drawn(tmp_path / "leg", 2)
    for mask in (folder / "masks").iterdir():
        mask.unlink()
    (folder / "masks").rmdir()
    [domain] = read_domains(folder)
    assert not domain.labelled
    with pytest.raises(DataError, match="no masks/"):
        usable_domains([domain], 2)
    assert usable_domains([domain], 2, truth=False) == ([domain], {})


def test_too_few_images_leave_a_domain_out_and_too_few_domains_are_refused(tmp_path, drawn):
    drawn(tmp_path / "many", 3), drawn(tmp_path / "few", 1)
    domains = read_domains(tmp_path)
    kept, left_out = usable_domains(domains, 2)
    assert [domain.name for domain in kept] == ["many"]
    assert left_out == {"few": "1 usable images, this needs 2"}
    with pytest.raises(DataError, match=r"1 usable domains, this needs 2 \(few: 1 usable"):
        usable_domains(domains, 2, domains_needed=2)


def test_sets_are_drawn_by_the_seed_and_not_by_the_order_of_the_files(tmp_path, drawn):
    [domain] = read_domains(drawn(tmp_path / "leg", 8))
    backwards = replace(domain, frames=domain.frames[::-1])
    names = [frame.name for frame in shuffled_frames(domain, 0)]
    assert names == [frame.name for frame in shuffled_frames(backwards, 0)]
    assert sorted(names) == [frame.name for frame in domain.frames]
    assert names != [frame.name for frame in shuffled_frames(domain, 1)]


def test_the_digest_tells_pixels_masks_names_and_facts_apart(tmp_path, drawn):
    [domain] = read_domains(drawn(tmp_path / "leg", 2))
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
    digests = {domains_digest([one]) for one in variants}
    assert len(digests) == len(variants)
    assert domains_digest([domain]) == domains_digest(read_domains(tmp_path))
