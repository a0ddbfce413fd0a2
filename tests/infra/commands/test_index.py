"""`vetdino index` and `vetdino search`: what they print, what they leave, and how they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vetdino
from tests.serving.gallery.tables import renamed, table
from vetdino.infra import cli
from vetdino.infra.commands.demo import SHIPPED
from vetdino.platform.measure.descriptors import Descriptor
from vetdino.platform.measure.extraction import probed
from vetdino.platform.measure.features import save_features
from vetdino.platform.models.loading import load


@pytest.fixture(scope="module")
def features():
    """A table as the shipped backbone would have made it."""
    backbone = load(SHIPPED)
    drawn = table(40, 128)
    return replace(drawn, backbone=backbone.card.digest, probes=probed(backbone, Descriptor()))


@pytest.fixture
def gallery(features, tmp_path, capsys) -> Path:
    save_features(features, tmp_path / "features")
    assert cli.main(["index", "build", str(tmp_path / "features"), str(tmp_path / "gallery")]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("40 studies, 128 dimensions, Flat, recall@10 1.000, backbone ")
    assert last == str(tmp_path / "gallery")
    return tmp_path / "gallery"


def lines(capsys, *arguments: str) -> list[str]:
    assert cli.main(arguments) == 0
    return capsys.readouterr().out.splitlines()


def refused(capsys, *arguments: str) -> str:
    """The one line of a command that ends with exit code 1."""
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()[-1]


def test_a_gallery_is_built_searched_changed_and_verified(gallery, features, tmp_path, capsys):
    bundle = str(gallery)
    matches = lines(capsys, "search", bundle, "--key", "key3", "--k", "4")
    assert len(matches) == 4
    assert not any(patient in "".join(matches) for patient in features.patients)
    opened = vetdino.Gallery.open(gallery)
    assert [line.split()[1] for line in matches] == [match.item.key for match in opened.similar("key3", 4)]
    new = replace(renamed(features.rows(range(5)), "new"), probes=features.probes)
    save_features(new, tmp_path / "new.parquet")
    assert lines(capsys, "index", "add", bundle, str(tmp_path / "new.parquet"))[0].startswith("45 studies")
    assert "2 deleted" in lines(capsys, "index", "delete", bundle, "--keys", "key3", "newkey1")[0]
    assert lines(capsys, "index", "compact", bundle)[0].startswith("43 studies, 128 dimensions, Flat, recall")
    assert lines(capsys, "index", "verify", bundle, "--backbone", str(SHIPPED))[-1] == bundle


def test_matches_can_be_filtered(gallery, capsys):
    arguments = ("--present", "mass", "--absent", "fluid", "--projections", "VD", "--split", "train")
    for line in lines(capsys, "search", str(gallery), "--key", "key3", *arguments):
        assert "  train  " in line
        assert "VD" in line
        assert line.endswith("  mass")


def test_a_patient_is_deleted_by_pseudonym(gallery, features, capsys):
    (said, _) = lines(capsys, "index", "delete", str(gallery), "--patients", features.patients[0])
    count = features.patients.count(features.patients[0])
    assert f"{count} deleted" in said
    assert features.patients[0] not in said


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("index", "verify", "{}", "--backbone", "random:vit_tiny_patch16_224"), "the loaded one is"),
        (("index", "add", "{}", "{}/none.parquet"), "no feature table here"),
        (("index", "delete", "{}", "--keys", "nothere"), "no study nothere"),
        (("index", "compact", "{}/none"), "no gallery here"),
        (("search", "{}", "--key", "nothere"), "no row nothere"),
        (("search", "{}", "--key", "key1", "--present", "mas"), "the nearest is 'mass'"),
        (("search", "{}", "--key", "key1", "--present", "mass", "--absent", "mass"), "both in --present"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(gallery, capsys, arguments, fact):
    assert fact in refused(capsys, *(word.format(gallery) for word in arguments))


def test_a_table_of_an_evaluation_needs_probes(features, tmp_path, capsys):
    save_features(replace(features, probes=None), tmp_path)
    said = refused(capsys, "index", "build", str(tmp_path), str(tmp_path / "gallery"))
    assert "has no probes" in said
    assert "vetdino embed" in said
    assert not (tmp_path / "gallery").exists()


@pytest.mark.slow
def test_what_embed_writes_becomes_a_gallery_of_its_backbone(tmp_path, capsys):
    archive = vetdino.phantom(tmp_path / "archive", studies=8, side=64)
    vetdino.ingest(archive / "dicom", tmp_path / "shards", labels=archive / "labels.csv")
    for level in ("study", "view"):
        features = vetdino.embed(SHIPPED, tmp_path / "shards", tmp_path / level, level=level)
        bundle = str(tmp_path / f"gallery-{level}")
        assert cli.main(["index", "build", str(tmp_path / level), bundle]) == 0
        gallery = vetdino.Gallery.open(bundle, load(SHIPPED))
        assert len(gallery) == len(features)
        (matches,) = gallery.search(features.vectors[:1], 1, projections=[features.projections[0].split()[0]])
        assert matches[0].item.key == features.keys[0]
        assert matches[0].score == pytest.approx(1.0, abs=1e-4)
        known = {view for names in features.projections for view in names.split()}
        assert set(gallery.manifest.projections) == known
        assert np.isin(gallery.item(features.keys[0], features.views[0]).projections, list(known)).all()
