"""Ingest: files in, shards out, nothing lost, nobody named, and the same bytes whoever does the work."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.platform.ingest.archives import add_files, change_files, check_counts, expected, output_in
from tests.platform.ingest.radiographs import NAMES, write_dicom
from tests.platform.ingest.test_ranges import dying_after
from vetdino.platform.archive.config import TableConfig
from vetdino.platform.core.errors import ConfigError, DataError, ShardError
from vetdino.platform.data.checksums import verify
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.manifest import Manifest, load_manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter, read
from vetdino.platform.data.study import SPLITS, Study
from vetdino.platform.dicom.config import DicomConfig
from vetdino.platform.dicom.header import CODES
from vetdino.platform.ingest import ingest as module
from vetdino.platform.ingest.assembly import CHANGES, summary
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.ingest import ingest
from vetdino.platform.ingest.pseudonyms import pseudonym, split_of

ROOT = Path(__file__).parents[3]


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
    secret = Path(config.secret).read_bytes()
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
    Path(config.secret).write_bytes(b"abc")
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
    secret = Path(config.secret).read_bytes()
    mass = {study.key: study.labels["mass"] for study in studies_in(tmp_path / "out")}
    values = [mass[pseudonym(secret, f"study:1.2.3.{number}")] for number in range(6)]
    assert values[:4] == [1, 0, 1, 0]
    assert np.isnan(values[4:]).all()


def test_labels_of_another_archive_are_refused_before_anything_is_decoded(
    archive, tmp_path, config, monkeypatch
):
    labels = tmp_path / "labels.csv"
    pd.DataFrame({"study": ["9.9"], "mass": [1]}).to_csv(labels, index=False)
    monkeypatch.setattr(module, "write_range", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(DataError, match="names none of the 8 studies"):
        ingest(archive, tmp_path / "out", replace(config, labels=labels))
    pictures = a_picture_table(tmp_path / "pictures")
    with pytest.raises(DataError, match="names none of the 8 studies"):
        ingest(pictures, tmp_path / "out", replace(config, labels=labels))
    assert not (tmp_path / "out").exists()


def test_where_no_file_is_a_picture_the_labels_are_not_blamed(tmp_path, config):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    labels = tmp_path / "labels.csv"
    pd.DataFrame({"study": ["9.9"], "mass": [1]}).to_csv(labels, index=False)
    with pytest.raises(DataError, match="none of its 1 files gave a view"):
        ingest(tmp_path / "in", tmp_path / "out", replace(config, labels=labels))


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
    return next(line["done"] for line in lines if line.get("progress") == "decode")


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
    monkeypatch.setattr(module, "write_range", lambda *arguments: pytest.fail("decoded"))
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
    Path(config.secret).write_bytes(b"another secret!!" * 2)
    with pytest.raises(DataError, match=r"another secret.*--secret"):
        ingest(archive, out, config)
    Path(config.secret).unlink()
    with pytest.raises(DataError, match=r"is not there.*--secret"):
        ingest(archive, out, config)
    assert not Path(config.secret).exists()
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}


def test_the_output_may_not_lie_in_the_source(archive, config):
    with pytest.raises(DataError, match="inside the source"):
        ingest(archive, archive / "out", config)


def test_a_stopped_run_goes_on_where_it_was(archive, tmp_path, config, monkeypatch, capsys):
    stopped(archive, tmp_path / "out", config, monkeypatch)
    write_dicom(archive / "zz", "Rex", "1.2.3.0", 999)
    capsys.readouterr()
    ingest(archive, tmp_path / "out", config)
    assert decoded_files(capsys.readouterr().err) == 1
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
    secret = Path(config.secret).read_bytes()
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
        "from vetdino.platform.dicom.config import DicomConfig\n"
        "from vetdino.platform.ingest.config import IngestConfig\n"
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
    assert (work / "ranges").is_dir()
    assert not (tmp_path / "out").exists()
    capsys.readouterr()
    ingest(archive, tmp_path / "out", replace(config, val=0.1))  # a split is no reason to decode again
    assert decoded_files(capsys.readouterr().err) == 0


def test_damaged_results_of_a_stopped_run_are_one_line(archive, tmp_path, config, monkeypatch):
    stopped(archive, tmp_path / "out", config, monkeypatch)
    [rows] = tmp_path.glob("out.tmp-*/ranges/*/rows.arrow")
    rows.write_bytes(b"no rows" * 100)
    with pytest.raises(ShardError, match=r"damaged .* remove it"):
        ingest(archive, tmp_path / "out", config)


def stopped(archive: Path, out: Path, config: IngestConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped after all files are decoded."""

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "arrange_shards", stop)
        with pytest.raises(KeyboardInterrupt):
            ingest(archive, out, config)
    assert not out.exists()


def test_an_output_that_lost_its_findings_gets_a_version_that_has_them(archive, tmp_path, config):
    labels = tmp_path / "labels.csv"
    pd.DataFrame({"study": ["1.2.3.0"], "mass": [1]}).to_csv(labels, index=False)
    out = tmp_path / "out"
    manifest = ingest(archive, out, replace(config, labels=labels))
    save_manifest(out, replace(manifest, findings=()))  # as a version that lost the column wrote it
    repaired = ingest(archive, out, replace(config, labels=labels))
    assert (repaired.findings, repaired.shards) == (("mass",), manifest.shards)
    assert load_manifest(out) == repaired


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
    strict = replace(config, min_views=1, table=TableConfig(labels="*"), max_refused=0.0)
    manifest = ingest(tmp_path / "t.csv", tmp_path / "out", strict)
    assert (manifest.counts["views"], manifest.counts["studies"], manifest.counts["patients"]) == (5, 5, 3)
    assert (manifest.findings, manifest.counts["labelled_studies"]) == (("mass",), 4)
    secret = Path(config.secret).read_bytes()
    studies = {study.key: study for study in studies_in(tmp_path / "out")}
    first, second = (studies[pseudonym(secret, f"study:Rex\0{number}")] for number in range(2))
    assert first.patient == second.patient == pseudonym(secret, "patient:Rex")
    assert (first.labels, second.labels) == ({"mass": 1.0}, {"mass": 0.0})
    assert (first.view(0).projection, first.view(0).laterality) == ("CC", "L")
    assert (second.view(0).projection, second.view(0).laterality) == ("MLO", "R")


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_a_grown_archive_gets_a_new_version_and_keeps_its_old_shards(archive, tmp_path, config, capsys):
    out = tmp_path / "out"
    labels = tmp_path / "labels.csv"
    pd.DataFrame({"study": [f"1.2.3.{n}" for n in range(6)], "mass": [1, 0] * 3}).to_csv(labels, index=False)
    config = replace(config, labels=labels, shards=ShardConfig(max_bytes=7000))
    first = ingest(archive, out, config)
    before = tars(out)
    write_dicom(archive / "Bello" / "new0", "Bello", "1.2.3.6", 500)
    write_dicom(archive / "Bello" / "new1", "Bello", "1.2.3.6", 501)
    write_dicom(archive / "Hasso" / "more", "Hasso", "1.2.3.4", 502)  # a study gets a third view
    (archive / "Rex" / "00").unlink()  # and another has one left; `copy` takes its place
    capsys.readouterr()
    second = ingest(archive, out, config)
    err = capsys.readouterr().err
    assert decoded_files(err) == 4  # three new ones, and the copy, whose bytes no shard had
    assert verify(out) == second
    assert {name: tars(out)[name] for name in before} == before
    assert output_in(out) == expected(archive, config)
    check_counts(second.counts, output_in(out))
    changes = {name: count for name, count in second.counts.items() if name.split(".")[0] in CHANGES}
    assert changes == {"new.files": 3, "gone.files": 1, "new.studies": 1, "changed.studies": 2}
    assert "since the version before: files 3 new, 1 gone; studies 1 new, 2 changed" in summary(second)
    kept = {shard.path for shard in first.shards} & {shard.path for shard in second.shards}
    assert len(first.shards) - 2 <= len(kept) < len(first.shards)
    assert not ({shard.path for shard in second.shards} - kept) & set(before)
    assert Manifest(**json.loads((out / "manifest-000001.json").read_text())).counts == first.counts
    assert (out / "files-000002.parquet").exists()
    assert not (out / "files-000001.parquet").exists()
    labels_of = {study.key: study.labels["mass"] for study in studies_in(out)}
    secret = Path(config.secret).read_bytes()
    assert [labels_of[pseudonym(secret, f"study:1.2.3.{n}")] for n in range(6)] == [1, 0] * 3
    assert np.isnan(labels_of[pseudonym(secret, "study:1.2.3.6")])
    assert ingest(archive, out, config) == second
    assert sorted(os.listdir(tmp_path)) == ["archive", "key", "labels.csv", "out"]


def test_new_labels_are_a_new_version_for_which_nothing_is_decoded(archive, tmp_path, config, capsys):
    out, labels = tmp_path / "out", tmp_path / "labels.csv"
    first = ingest(archive, out, config)
    pd.DataFrame({"study": ["1.2.3.0", "1.2.3.1"], "mass": [1, 0]}).to_csv(labels, index=False)
    capsys.readouterr()
    second = ingest(archive, out, replace(config, labels=labels))
    assert decoded_files(capsys.readouterr().err) == 0
    assert (second.findings, second.counts["labelled_studies"]) == (("mass",), 2)
    assert second.counts["changed.studies"] == first.counts["studies"]
    pd.DataFrame({"study": ["1.2.3.0", "1.2.3.1"], "mass": [1, 1]}).to_csv(labels, index=False)
    third = ingest(archive, out, replace(config, labels=labels))
    assert third.counts["changed.studies"] == 1
    known = [study.labels["mass"] for study in studies_in(out) if not np.isnan(study.labels["mass"])]
    assert known == [1, 1]


def test_files_that_were_only_touched_change_nothing(archive, tmp_path, config, capsys):
    out = tmp_path / "out"
    first = ingest(archive, out, config)
    before = tars(out)
    for path in archive.rglob("*"):
        if path.is_file():
            os.utime(path, (1, 1))
    assert ingest(archive, out, config) == first
    assert tars(out) == before
    capsys.readouterr()
    assert ingest(archive, out, config) == first
    assert "decode" not in capsys.readouterr().err
    assert not list(out.glob("manifest-*"))


def test_another_archive_is_not_taken_for_a_grown_one(archive, tmp_path, config):
    out = tmp_path / "out"
    first = ingest(archive, out, config)
    write_dicom(tmp_path / "other" / "x", "Rex", "1.2", 0)
    with pytest.raises(DataError, match="shards of another archive"):
        ingest(tmp_path / "other", out, config)
    assert load_manifest(out) == first


def test_work_of_another_secret_is_named_and_kept(archive, tmp_path, config, monkeypatch, caplog):
    stopped(archive, tmp_path / "out", config, monkeypatch)
    [work] = tmp_path.glob("out.tmp-*")
    Path(config.secret).write_bytes(b"another secret!!")
    ingest(archive, tmp_path / "out", config)
    assert f"{work}: kept, but of no use here" in caplog.text
    assert work.exists()


def test_a_file_that_changes_or_vanishes_between_header_and_pixels_is_counted(
    archive, tmp_path, config, monkeypatch
):
    cut = module.cut_ranges

    def change(*arguments: object) -> object:
        write_dicom(archive / "Rex" / "00", "Rex", "1.2.3.0", 12345)
        (archive / "Rex" / "01").unlink()
        return cut(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "cut_ranges", change)
        manifest = ingest(archive, tmp_path / "out", replace(config, min_views=1))
    assert manifest.counts["refused.FILE_CHANGED"] == manifest.counts["refused.MISSING_FILE"] == 1
    check_counts(manifest.counts, output_in(tmp_path / "out"))
    again = ingest(archive, tmp_path / "out", replace(config, min_views=1))
    assert "refused.FILE_CHANGED" not in again.counts
    assert output_in(tmp_path / "out") == expected(archive, replace(config, min_views=1))


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_is_continued_and_writes_the_same_bytes(tmp_path, config, kill):
    archive = tmp_path / "archive"
    for number in range(300):
        write_dicom(archive / f"{number}", f"p{number // 9}", f"1.2.{number // 3}", number)
    words = ["--secret", str(config.secret), "--shards.max-bytes", "60000", "--dicom.search-text", "none"]
    command = [sys.executable, "-m", "vetdino", "ingest", str(archive), str(tmp_path / "out"), *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while sum(log.read_text().count("\n") for log in tmp_path.glob("out.tmp-*/ranges/*/log.jsonl")) < 60:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(kill)
    _, err = process.communicate()
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}.get(kill, -9)
    assert kill == signal.SIGKILL or "run the same command again to continue" in err
    again = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert again.returncode == 0, again.stderr
    assert (
        decoded_files(again.stderr) <= 300 - 60 + 30
    )  # a buffer of each split's tar was lost with its process
    same = replace(config, min_views=1, val=0.1, test=0.1, shards=ShardConfig(max_bytes=60000))
    ingest(archive, tmp_path / "anew", same)
    (tmp_path / "out" / "report.html").unlink()  # the command writes it after ingest
    assert everything_in(tmp_path / "out") == everything_in(tmp_path / "anew")


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_any_archive_gives_the_same_bytes_however_it_is_read(seed):
    random = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "key").write_bytes(bytes(32))
        config = IngestConfig(
            secret=work / "key",
            dicom=DicomConfig(search_text="none"),
            val=0.3,
            test=0.3,
            shards=ShardConfig(max_bytes=random.choice((1000, 10**6))),
        )
        (work / "in").mkdir()
        write_dicom(work / "in" / "one", "p0", "1.2.0", 1)
        add_files(work / "in", random, random.randrange(1, 16))
        manifest = ingest(work / "in", work / "one", replace(config, workers=1))
        assert output_in(work / "one") == expected(work / "in", config)
        check_counts(manifest.counts, output_in(work / "one"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ShardWriter, "write", dying_after(random.randrange(6)))
            with suppress(KeyboardInterrupt):
                ingest(work / "in", work / "two", replace(config, workers=2))
        ingest(work / "in", work / "two", replace(config, workers=2))
        assert everything_in(work / "one") == everything_in(work / "two")
        before = tars(work / "one")
        change_files(work / "in", random)
        write_dicom(work / "in" / "one", "p0", "1.2.0", 1)
        grown = ingest(work / "in", work / "one", config)
        check_counts(grown.counts, output_in(work / "one"))
        assert before.items() <= tars(work / "one").items()
        views = lambda output: sorted(view for views in output.studies.values() for view in views)
        assert views(output_in(work / "one")) == views(expected(work / "in", config))
