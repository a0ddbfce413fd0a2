"""Names of scans: natural order, keys that join labels to images, and safe names of files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vetdino.downstream.volumes.names import (
    first_few,
    is_label,
    natural_key,
    safe_name,
    scan_key,
    stem,
)

names = st.text(st.sampled_from("ab01 29_-."), max_size=8)


@given(st.lists(names, unique=True, max_size=6))
def test_different_names_have_one_order_however_they_come(some):
    assert sorted(some, key=natural_key) == sorted(reversed(some), key=natural_key)
    assert len({str(natural_key(name)) for name in some}) == len(some)


@given(st.integers(0, 999), st.integers(0, 999))
def test_numbers_in_names_are_ordered_as_numbers(one, other):
    assert (natural_key(f"scan{one}") < natural_key(f"scan{other}")) == (one < other)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii.gz", "a"), ("a.NII", "a"), ("a.b.png", "a.b"), ("a.dcm", "a.dcm"), ("", "")],
)
def test_only_endings_of_nifti_and_pictures_are_removed(name, expected):
    assert stem(name) == expected


@pytest.mark.parametrize(
    ("image", "label"),
    [("img_1.nii", "label_1.nii"), ("Volume-04.nii.gz", "Segmentation-04.nii.gz"), ("7.png", "7_mask.png")],
)
def test_an_image_and_its_label_share_a_key(image, label):
    assert scan_key(image) == scan_key(label) != ""
    assert is_label(label)
    assert not is_label(image)


def test_words_within_words_are_not_words_for_labels():
    assert not is_label("maskelyne.nii")
    assert scan_key("imagery_1.nii") == "imagery_1"


@given(st.text(max_size=20))
def test_a_safe_name_has_no_separator_and_is_never_empty(name):
    safe = safe_name(name)
    assert safe
    assert not set(safe) & set("/\\ :")
    assert safe not in (".", "..")
    assert safe_name(safe) == safe


def test_long_lists_are_cut_after_four_values():
    assert first_few([]) == ""
    assert first_few(["a", 2, 0.5]) == "a, 2, 0.5"
    assert first_few(range(9)) == "0, 1, 2, 3, …"
