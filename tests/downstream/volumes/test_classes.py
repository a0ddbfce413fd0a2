"""Numbers and names of classes, from text, files and folders of organs."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.volumes.classes import class_names, label_classes, organ_classes
from vetdino.platform.core.errors import ConfigError


def test_names_of_classes_come_from_text_json_or_csv(tmp_path):
    expected = {1: "liver", 4: "left kidney"}
    texts = {
        "a.json": '{"0": "background", "1": "liver", "4": "left kidney"}',
        "b.json": '{"labels": {"background": 0, "liver": 1, "left kidney": 4}}',
        "c.csv": "number,name\n0,background\n1,liver\n4,left kidney\n",
    }
    assert class_names("1=liver,4=left kidney", tmp_path) == expected
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert class_names(str(tmp_path / name), tmp_path) == expected
    assert class_names("", tmp_path) == {}
    (tmp_path / "dataset.json").write_text(texts["b.json"])
    assert class_names("", tmp_path) == expected


@pytest.mark.parametrize("text", ["liver", "x=liver", "70000=liver", "1=", "nowhere.json"])
def test_names_of_classes_that_cannot_be_read_are_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="classes"):
        class_names(text, tmp_path)


def test_organs_are_numbered_by_the_alphabet_or_by_their_names(tmp_path, body, save_scan):
    for organ in ("spleen", "liver", "aorta"):
        save_scan(tmp_path / "segmentations" / f"{organ}.nii.gz", body()[1])
    folder = tmp_path / "segmentations"
    assert organ_classes([folder, None], {}) == {"aorta": 1, "liver": 2, "spleen": 3}
    assert organ_classes([folder], {1: "spleen", 9: "heart"}) == {"spleen": 1}


def test_named_values_above_255_are_numbered_in_their_order():
    names, values = label_classes([None], {600: "right", 200: "muscle", 500: "left"})
    assert names == {1: "muscle", 2: "left", 3: "right"}
    assert values.numbers == {200: 1, 500: 2, 600: 3}
    assert values.values == {1: 200, 2: 500, 3: 600}


def test_values_above_255_are_found_in_all_labels_of_a_folder(tmp_path, save_nifti):
    for name, stored in {"a": [0, 500, 500], "b": [200, 0, 600], "c": [-1, 0.5, 900]}.items():
        save_nifti(tmp_path / f"{name}.nii.gz", np.float32(stored).reshape(1, 1, 3))
    paths = [tmp_path / f"{name}.nii.gz" for name in "abc"]
    names, values = label_classes([*paths, None], {})
    assert values.numbers == {200: 1, 500: 2, 600: 3}  # c is no label map and is refused with its scan
    assert names == {1: "value 200", 2: "value 500", 3: "value 600"}


def test_values_up_to_255_keep_their_numbers(tmp_path, save_nifti):
    path = save_nifti(tmp_path / "a.nii.gz", np.int16([0, 4, 255]).reshape(1, 1, 3))
    names, values = label_classes([path], {})
    assert (names, values.numbers, values.white) == ({}, {}, True)
    assert not label_classes([path], {255: "bone"})[1].white
