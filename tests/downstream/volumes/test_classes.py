"""Numbers and names of classes, from text, files and folders of organs."""

from __future__ import annotations

import pytest

from vetdino.downstream.volumes.classes import class_names, organ_classes
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


@pytest.mark.parametrize("text", ["liver", "x=liver", "300=liver", "1=", "nowhere.json"])
def test_names_of_classes_that_cannot_be_read_are_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="classes"):
        class_names(text, tmp_path)


def test_organs_are_numbered_by_the_alphabet_or_by_their_names(tmp_path, body, save_scan):
    for organ in ("spleen", "liver", "aorta"):
        save_scan(tmp_path / "segmentations" / f"{organ}.nii.gz", body()[1])
    folder = tmp_path / "segmentations"
    assert organ_classes([folder, None], {}) == {"aorta": 1, "liver": 2, "spleen": 3}
    assert organ_classes([folder], {1: "spleen", 9: "heart"}) == {"spleen": 1}
