"""Ingest: files in, shards out, nothing lost, nobody named, and the same bytes whoever does the work."""

from __future__ import annotations

import csv
import json
import os
import resource
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.platform.ingest.radiographs import NAMES, write_dicom
from vetdino.platform.core.errors import ConfigError, DataError, ShardError
from vetdino.platform.data.checksums import verify
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.manifest import save_manifest
from vetdino.platform.data.shards import read
from vetdino.platform.data.study import SPLITS, Study
from vetdino.platform.ingest import ingest as module
from vetdino.platform.ingest.config import TableConfig
from vetdino.platform.ingest.header import CODES
from vetdino.platform.ingest.ingest import ingest
from vetdino.platform.ingest.pseudonyms import pseudonym, split_of


def studies_in(folder: Path) -> list[Study]:
    return [study for split in SPLITS for study in read(folder, split)]


def everything_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_an_empty_folder_is_refused(tmp_path, config):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="an empty folder"):
        ingest(tmp_path / "empty", tmp_path / "out", config)
    with pytest.raises(DataError, match="no such folder"):
        ingest(tmp_path / "nowhere", tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_archive_becomes_studies_and_every_file_is_accounted_for(archive, tmp_path, config):
    out = tmp_path / "out"
    manifest = ingest(archive, out, config)
    assert verify(out) == manifest
    assert manifest.counts == {
        "files": 20,
        "views": 12,
        "refused": 6,
        "duplicates": 2,
        "studies": 6,
        "patients": 3,
        "labelled_studies": 0,
        "refused.NOT_DICOM": 1,
        "refused.NOT_RADIOGRAPH": 1,
        "refused.NO_IDENTITY": 1,
        "refused.PATIENT_CLASH": 2,
        "refused.TOO_FEW_VIEWS": 1,
    }
    with open(out / "quarantine.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"]: row["code"] for row in rows} == {
        "same-pixels": "DUPLICATE",
        "copy": "DUPLICATE",
        "notes.txt": "NOT_DICOM",
        "ct.dcm": "NOT_RADIOGRAPH",
        "nobody.dcm": "NO_IDENTITY",
        "clash1": "PATIENT_CLASH",
        "clash2": "PATIENT_CLASH",
        "alone": "TOO_FEW_VIEWS",
    }
    assert {row["code"] for row in rows} <= set(CODES)
    assert [len(study.views) for study in studies_in(out)] == [2] * 6
    assert sorted(os.listdir(tmp_path)) == ["archive", "key", "out"]


def test_no_patient_is_in_two_splits(archive, tmp_path, config):
    ingest(archive, tmp_path / "out", config)
    homes = {(study.patient, study.split) for study in studies_in(tmp_path / "out")}
    assert len(homes) == 3
    secret = config.secret.read_bytes()
    shares = [split_of(secret, f"{number:x}", config) for number in range(4000)]
    assert abs(shares.count("train") / 4000 - 0.4) < 0.03
    assert abs(shares.count("test") / 4000 - 0.3) < 0.03


def test_nobody_is_named_in_the_output(archive, tmp_path, config):
    ingest(archive, tmp_path / "out", config)
    for name, content in everything_in(tmp_path / "out").items():
        if name == "quarantine.csv":  # it names paths, in its first column only
            content = b"\n".join(line.partition(b",")[2] for line in content.splitlines())
        for secret in (*NAMES, "Huber", "1.2.3.", "archive/"):
            assert secret.encode() not in content, (name, secret)
    assert stat.S_IMODE((tmp_path / "out" / "quarantine.csv").stat().st_mode) == 0o600


def test_the_output_does_not_depend_on_who_works(archive, tmp_path, config):
    ingest(archive, tmp_path / "one", replace(config, workers=1))
    ingest(archive, tmp_path / "three", replace(config, workers=3))
    assert everything_in(tmp_path / "one") == everything_in(tmp_path / "three")


def test_another_secret_gives_other_pseudonyms(archive, tmp_path, config):
    first = ingest(archive, tmp_path / "one", replace(config, secret=None))
    key = tmp_path / "one.secret"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32
    second = ingest(archive, tmp_path / "two", config)
    assert first.config_digest != second.config_digest
    keys = [{study.key for study in studies_in(tmp_path / name)} for name in ("one", "two")]
    assert not keys[0] & keys[1]


def test_a_short_secret_is_refused(archive, tmp_path, config):
    config.secret.write_bytes(b"abc")
    with pytest.raises(ConfigError, match="can be guessed"):
        ingest(archive, tmp_path / "out", config)


def test_labels_follow_their_study(archive, tmp_path, config):
    labels = archive / "labels.csv"
    pd.DataFrame(
        {"study": [f"1.2.3.{n}" for n in range(5)], "mass": [1, 0, 1, 0, None], "dog": ["Rex"] * 5}
    ).to_csv(labels, index=False)
    manifest = ingest(archive, tmp_path / "out", replace(config, labels=labels))
    assert manifest.findings == ("mass",)
    assert manifest.counts["labelled_studies"] == 4
    assert manifest.counts["files"] == 20  # the table itself is not counted
    secret = config.secret.read_bytes()
    mass = {study.key: study.labels["mass"] for study in studies_in(tmp_path / "out")}
    values = [mass[pseudonym(secret, f"study:1.2.3.{number}")] for number in range(6)]
    assert values[:4] == [1, 0, 1, 0]
    assert np.isnan(values[4:]).all()


def test_labels_of_another_archive_are_refused_before_anything_is_decoded(
    archive, tmp_path, config, monkeypatch
):
    labels = tmp_path / "labels.csv"
    pd.DataFrame({"study": ["9.9"], "mass": [1]}).to_csv(labels, index=False)
    monkeypatch.setattr(module, "decode_all", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(DataError, match="names none of the 8 studies"):
        ingest(archive, tmp_path / "out", replace(config, labels=labels))
    pictures = a_picture_table(tmp_path / "pictures")
    with pytest.raises(DataError, match="names none of the 8 studies"):
        ingest(pictures, tmp_path / "out", replace(config, labels=labels))
    assert not (tmp_path / "out").exists()


def test_labels_of_refused_studies_alone_are_an_error_that_keeps_what_was_decoded(
    archive, tmp_path, config, capsys
):
    labels = tmp_path / "labels.csv"
    pd.DataFrame({"study": ["1.2.4"], "mass": [1]}).to_csv(labels, index=False)  # the clash
    with pytest.raises(DataError, match="names none of the 6 studies"):
        ingest(archive, tmp_path / "out", replace(config, labels=labels))
    assert not (tmp_path / "out").exists()
    pd.DataFrame({"study": ["1.2.3.0"], "mass": [1]}).to_csv(labels, index=False)
    capsys.readouterr()
    assert ingest(archive, tmp_path / "out", replace(config, labels=labels)).counts["labelled_studies"] == 1
    assert decoded_files(capsys.readouterr().err) == 0
    assert sorted(os.listdir(tmp_path)) == ["archive", "key", "labels.csv", "out"]


def decoded_files(stderr: str) -> int:
    """How many files a run decoded, by its lines of progress."""
    lines = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    return next(line["done"] for line in lines if line["progress"] == "decode")


def test_too_few_views_everywhere_is_one_line(archive, tmp_path, config):
    with pytest.raises(DataError, match=r"none of its 20 files .*TOO_FEW_VIEWS 13.*--min-views"):
        ingest(archive, tmp_path / "out", replace(config, min_views=3))
    assert not (tmp_path / "out").exists()


def test_more_refused_than_allowed_writes_a_list_and_no_shards(archive, tmp_path, config, capsys):
    with pytest.raises(
        DataError, match=r"6 of 20 files are refused \(PATIENT_CLASH 2, .*--max-refused 0.2"
    ) as caught:
        ingest(archive, tmp_path / "out", replace(config, max_refused=0.2))
    assert not (tmp_path / "out").exists()
    quarantine = Path(str(caught.value).split("; ")[1].removesuffix(" lists them"))
    assert stat.S_IMODE(quarantine.stat().st_mode) == 0o600
    assert quarantine.read_text().count("PATIENT_CLASH") == 2
    capsys.readouterr()
    manifest = ingest(archive, tmp_path / "out", replace(config, max_refused=0.3))
    assert decoded_files(capsys.readouterr().err) == 0
    assert sorted(os.listdir(tmp_path)) == ["archive", "key", "out"]
    assert ingest(archive, tmp_path / "out", config) == manifest  # the share changes nothing of the output
    with pytest.raises(DataError, match="6 of 20 files are refused"):
        ingest(archive, tmp_path / "out", replace(config, max_refused=0.2))


def test_what_a_table_refuses_is_known_before_anything_is_decoded(tmp_path, config, monkeypatch):
    pictures = a_picture_table(tmp_path / "pictures")
    monkeypatch.setattr(module, "decode_all", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"1 of 11 files are refused \(MISSING_FILE 1\)"):
        ingest(pictures, tmp_path / "out", replace(config, min_views=1, max_refused=0.05))
    with pytest.raises(DataError, match=r"none of its 11 files .*--min-views"):
        ingest(pictures, tmp_path / "out", replace(config, min_views=9))


def test_a_finished_output_is_returned_and_another_one_is_left_alone(archive, tmp_path, config, capsys):
    out = tmp_path / "out"
    manifest = ingest(archive, out, config)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert ingest(archive, out, config) == manifest
    assert "decode" not in capsys.readouterr().err
    with pytest.raises(DataError, match="already holds something else"):
        ingest(archive, out, replace(config, val=0.1))
    write_dicom(archive / "new", "Rex", "1.2.3.0", 999)
    with pytest.raises(DataError, match="already holds something else"):
        ingest(archive, out, config)
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}


def test_the_output_may_not_lie_in_the_source(archive, config):
    with pytest.raises(DataError, match="inside the source"):
        ingest(archive, archive / "out", config)


def test_a_stopped_run_goes_on_where_it_was(archive, tmp_path, config, monkeypatch, capsys):
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_shards", stop)
        with pytest.raises(KeyboardInterrupt):
            ingest(archive, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
    write_dicom(archive / "zz", "Rex", "1.2.3.0", 999)
    capsys.readouterr()
    ingest(archive, tmp_path / "out", config)
    decoded = json.loads(capsys.readouterr().err.splitlines()[0])
    assert (decoded["progress"], decoded["done"]) == ("decode", 1)
    ingest(archive, tmp_path / "anew", config)
    assert everything_in(tmp_path / "out") == everything_in(tmp_path / "anew")
    assert sorted(os.listdir(tmp_path)) == ["anew", "archive", "key", "out"]


def a_picture_table(folder: Path) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = []
    for number in range(8):
        name = f"{number}.{('png', 'jpg', 'tif')[number % 3]}"
        wide = number % 3 == 2
        pixels = random.integers(0, 65536 if wide else 256, (60, 90)).astype(np.uint16 if wide else np.uint8)
        Image.fromarray(pixels).save(folder / name)
        finding = ("Mass|Edema", "No Finding", "")[number % 3]
        rows.append((name, NAMES[number % 3], f"study {number // 2 * 3 + number % 3}", "LATERAL", finding))
    rows.append(("gone.png", "Rex", "study 0", "VD", "Mass"))
    rows.append(("text.png", "Rex", "study 0", "VD", "Mass"))
    rows.append(rows[0])
    (folder / "text.png").write_text("no picture")
    table = folder / "table.csv"
    pd.DataFrame(rows, columns=["path", "patient", "study", "view", "findings"]).to_csv(table, index=False)
    return table


def test_a_table_of_pictures_becomes_studies(tmp_path, config):
    table = a_picture_table(tmp_path / "pictures")
    manifest = ingest(
        table, tmp_path / "out", replace(config, min_views=1, shards=ShardConfig(encoding="png"))
    )
    assert manifest.findings == ("Edema", "Mass")
    counts = manifest.counts
    assert (counts["files"], counts["views"], counts["duplicates"], counts["refused"]) == (11, 8, 1, 2)
    assert counts["refused.MISSING_FILE"] == counts["refused.NOT_PICTURE"] == 1
    secret = config.secret.read_bytes()
    studies = {study.key: study for study in studies_in(tmp_path / "out")}
    first = studies[pseudonym(secret, "study:study 0")]
    assert first.patient == pseudonym(secret, "patient:Rex")
    assert first.labels == {"Edema": 1.0, "Mass": 1.0}
    view = first.view(0)
    assert view.facts == {"voi": "none", "projection_source": "table"}
    assert view.projection == "LATERAL"
    assert np.array_equal(view.pixels, np.asarray(Image.open(tmp_path / "pictures" / "0.png")))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_half_written_output(archive, tmp_path, config):
    # A limit on the size of a file is a real refusal by the kernel, as a full disk is.
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from vetdino.platform.core.errors import ShardError\n"
        "from vetdino.platform.ingest.config import DicomConfig, IngestConfig\n"
        "from vetdino.platform.ingest.ingest import ingest\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        ingest(Path(sys.argv[1]), Path(sys.argv[2]), IngestConfig(\n"
        "            secret=Path(sys.argv[3]), dicom=DicomConfig(search_text='none')))\n"
        "    except ShardError as error:\n"
        "        print(error)\n"
    )
    command = [sys.executable, "-c", code, str(archive), str(tmp_path / "out"), str(config.secret)]
    root = Path(__file__).parents[3]
    run = subprocess.run(command, cwd=root, preexec_fn=limit, capture_output=True, text=True, check=True)
    assert "cannot be written" in run.stdout
    assert run.stdout.count("\n") == 1
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out").exists()
    assert ingest(archive, tmp_path / "out", replace(config, min_views=1)).counts["files"] == 20
    assert sorted(os.listdir(tmp_path)) == ["archive", "key", "out"]


def test_shards_that_cannot_be_written_leave_what_was_decoded_and_nothing_else(
    archive, tmp_path, config, monkeypatch, capsys
):
    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_manifest", refuse)
        with pytest.raises(ShardError, match=r"No space left on device.*kept in") as caught:
            ingest(archive, tmp_path / "out", config)
    work = Path(str(caught.value).rpartition("kept in ")[2])
    assert os.listdir(work) == ["parts.sqlite"]
    assert not (tmp_path / "out").exists()
    capsys.readouterr()
    ingest(archive, tmp_path / "out", replace(config, val=0.1))  # a split is no reason to decode again
    assert decoded_files(capsys.readouterr().err) == 0


def test_damaged_results_of_a_stopped_run_are_one_line(archive, tmp_path, config, monkeypatch):
    monkeypatch.setattr(module, "_work_digest", lambda *arguments: "0" * 24)
    (tmp_path / "out.tmp-00000000").mkdir()
    (tmp_path / "out.tmp-00000000" / "parts.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(ShardError, match=r"damaged .* remove it"):
        ingest(archive, tmp_path / "out", config)


def test_an_output_with_other_findings_is_not_taken_for_finished(archive, tmp_path, config):
    labels = tmp_path / "labels.csv"
    pd.DataFrame({"study": ["1.2.3.0"], "mass": [1]}).to_csv(labels, index=False)
    out = tmp_path / "out"
    manifest = ingest(archive, out, replace(config, labels=labels))
    save_manifest(out, replace(manifest, findings=()))  # as a version that lost the column wrote it
    with pytest.raises(DataError, match="already holds something else"):
        ingest(archive, out, replace(config, labels=labels))


def test_studies_that_restart_for_each_patient_lose_no_picture(tmp_path, config):
    random = np.random.default_rng(0)
    rows = [
        ("Rex", 0, "L-CC"),
        ("Rex", 1, "RMLO"),
        ("Bello", 0, "AP"),
        ("Bello", 1, "AP"),
        ("Hasso", 0, "AP"),
    ]
    for number in range(5):
        pixels = random.integers(0, 256, (60, 90)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    table = pd.DataFrame(rows, columns=["patient", "study", "view"])
    table["path"], table["mass"] = [f"{number}.png" for number in range(5)], ["TRUE", "no", 1, "NA", 0]
    table.to_csv(tmp_path / "t.csv", index=False)
    settings = replace(config, min_views=1, table=TableConfig(labels="*"), max_refused=0.0)
    manifest = ingest(tmp_path / "t.csv", tmp_path / "out", settings)
    assert (manifest.counts["views"], manifest.counts["studies"], manifest.counts["patients"]) == (5, 5, 3)
    assert (manifest.findings, manifest.counts["labelled_studies"]) == (("mass",), 4)
    secret = config.secret.read_bytes()
    studies = {study.key: study for study in studies_in(tmp_path / "out")}
    first, second = (studies[pseudonym(secret, f"study:Rex\0{number}")] for number in range(2))
    assert first.patient == second.patient == pseudonym(secret, "patient:Rex")
    assert (first.labels, second.labels) == ({"mass": 1.0}, {"mass": 0.0})
    assert (first.view(0).projection, first.view(0).laterality) == ("CC", "L")
    assert (second.view(0).projection, second.view(0).laterality) == ("MLO", "R")
