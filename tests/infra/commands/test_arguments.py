"""Commands with URLs in place of paths, against a server of S3's protocol: the same results as with local folders."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

import vetdino
from vetdino.infra import cli
from vetdino.infra.cli import COMMANDS
from vetdino.infra.commands.arguments import Command
from vetdino.infra.commands.demo import SHIPPED
from vetdino.platform.core.config import with_settings
from vetdino.platform.core.errors import ConfigError, StorageError
from vetdino.platform.core.location import Location
from vetdino.platform.core.node_cache import node_cache
from vetdino.platform.core.storage import listing, localized, read_bytes, remove, upload
from vetdino.platform.data.manifest import load_manifest
from vetdino.platform.data.shards import read
from vetdino.platform.measure.features import load_features

INGEST = {"val": 0.2, "test": 0.3}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return vetdino.phantom(tmp_path_factory.mktemp("archive") / "dogs", studies=24, side=64)


@pytest.fixture(scope="module")
def local(archive, tmp_path_factory) -> Path:
    """Shards on this disk, with their secret."""
    folder = tmp_path_factory.mktemp("local")
    vetdino.ingest(archive / "dicom", folder / "shards", labels=archive / "labels.csv", **INGEST)
    return folder


@pytest.fixture(scope="module")
def place(s3, archive, local) -> str:
    """A folder of the bucket with the archive, its shards, and a backbone."""
    place = f"{s3.bucket}/commands"
    for name, folder in (("dogs", archive), ("backbone", SHIPPED)):
        upload(
            f"{place}/{name}",
            {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()},
        )
    vetdino.ingest(
        archive / "dicom",
        f"{place}/shards",
        labels=archive / "labels.csv",
        secret=local / "shards.secret",
        **INGEST,
    )
    return place


def run(capsys, *words: str | Path) -> str:
    """The last line that a command prints; it has to succeed."""
    code = cli.main([str(word) for word in words])
    printed = capsys.readouterr()
    assert code == 0, printed.err[-2000:]
    assert str(node_cache("outputs")) not in printed.out
    return (printed.out.splitlines() or [""])[-1]


def refused(capsys, *words: str | Path) -> str:
    assert cli.main([str(word) for word in words]) == 1
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_has_a_path_that_cannot_be_a_url(name):
    """Every setting that names a place is a Location, or a source of weights, which may be a URL as well."""

    def hints(cls: type) -> list[tuple[str, str]]:
        found = []
        for field in dataclasses.fields(cls):
            found.append((field.name, str(field.type)))
            default = field.default_factory() if callable(field.default_factory) else field.default
            if dataclasses.is_dataclass(default):
                found += hints(type(default))
        return found

    paths = {field for field, hint in hints(COMMANDS[name].load()) if re.search(r"\bPath\b", hint)}
    # Sources of weights, and two files of the machine that serves.
    assert paths <= {"backbones", "tokens", "ray_config"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nested:
    """Settings within settings."""

    labels: Location | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copy(Command):
    """Reads all of its places and writes what it read."""

    runs: tuple[Location, ...] = ()
    shards: Location = Location("shards")
    nested: Nested = Nested()
    out: Location = Location("out")

    def run(self) -> Path:
        texts = [place.path.read_text() for place in self.runs]
        labels = self.nested.labels.path.read_text() if self.nested.labels else ""
        self.out.path.mkdir()
        (self.out.path / "result").write_text(f"{texts} {labels} {self.shards}")
        return self.out.path


def test_local_places_stay_as_they_are(tmp_path):
    command = Copy(out=Location(tmp_path / "out"))
    with command.prepared("test") as local:
        assert local == command
        assert command.shown(local.run(), local) == tmp_path / "out"


def test_inputs_are_copied_shards_are_not_and_the_output_is_uploaded(s3, tmp_path):
    (tmp_path / "x").write_text("x")
    upload(f"{s3.bucket}/copy", {"x": tmp_path / "x"})
    url = f"{s3.bucket}/copy/x"
    command = with_settings(
        Copy,
        {"runs": (tmp_path / "x", url), "nested.labels": url, "shards": url, "out": f"{s3.bucket}/copy/out"},
    )
    with command.prepared("test") as local:
        written = local.run()
    assert command.shown(written, local) == Location(f"{s3.bucket}/copy/out")
    assert command.shown(written / "result", local) == Location(f"{s3.bucket}/copy/out/result")
    assert read_bytes(f"{s3.bucket}/copy/out/result") == f"['x', 'x'] x {url}".encode()
    assert not written.exists()


def test_a_missing_input_is_named_before_anything_is_locked(s3):
    command = with_settings(Copy, {"runs": (f"{s3.bucket}/none",), "out": f"{s3.bucket}/copy/none"})
    with pytest.raises(StorageError, match=rf"^{s3.bucket}/none: nothing is there"), command.prepared("test"):
        pass
    assert listing(f"{s3.bucket}/copy/.none.lock") == {}


def test_an_error_names_the_url_and_not_its_copy(s3):
    command = with_settings(Copy, {"out": f"{s3.bucket}/copy/error"})
    with (
        pytest.raises(ConfigError, match=rf"^{s3.bucket}/copy/error/x: bad"),
        command.prepared("test") as local,
    ):
        raise ConfigError(f"{local.out.path / 'x'}: bad")


def test_a_file_of_a_clinic_is_not_named_where_it_is_a_copy_either(s3):
    command = with_settings(COMMANDS["ingest"].load(), {"source": f"{s3.bucket}/clinic", "out": "x"})
    copy = node_cache("inputs") / "1" / "2" / "clinic" / "DOE^JANE.dcm"
    assert cli._hiding_patients(str(copy), command) == f"a file in {s3.bucket}/clinic"


# The commands --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shards_ingested_to_a_url_are_those_of_a_local_folder_byte_for_byte(place, local):
    names = {path.name for path in (local / "shards").iterdir()}
    assert set(listing(f"{place}/shards")) == names
    for path in (local / "shards").iterdir():
        if path.suffix in (".tar", ".json"):
            assert read_bytes(f"{place}/shards/{path.name}") == path.read_bytes(), path.name
    assert listing(f"{place}/.shards.lock") == {}


@pytest.mark.slow
def test_an_archive_is_read_from_a_url(place, local, capsys):
    words = ("--labels", f"{place}/dogs/labels.csv", "--secret", local / "shards.secret")
    shares = ("--val", "0.2", "--test", "0.3")
    out = run(capsys, "ingest", f"{place}/dogs/dicom", f"{place}/again", *words, *shares)
    assert out == f"{place}/again"
    assert load_manifest(f"{place}/again").shards == load_manifest(local / "shards").shards


@pytest.mark.slow
def test_a_url_is_no_place_for_the_secret(place, archive, capsys):
    line = refused(capsys, "ingest", archive / "dicom", f"{place}/none")
    assert "a URL is no place for the key of the pseudonyms; give its file with --secret" in line
    assert listing(f"{place}/none") == {}


@pytest.mark.slow
def test_verify_reads_every_byte_at_the_url(place, local, capsys, tmp_path):
    run(capsys, "verify", f"{place}/shards")
    assert len(list(read(f"{place}/shards", "train"))) == load_manifest(local / "shards").studies("train")
    files = {path.name: path for path in (local / "shards").iterdir()}
    upload(f"{place}/damaged", files)
    damaged = bytearray(files["train-000000.tar"].read_bytes())
    damaged[2000] ^= 1
    (tmp_path / "tar").write_bytes(damaged)
    upload(f"{place}/damaged", {"train-000000.tar": tmp_path / "tar"})
    assert " shards are not what was written" in refused(capsys, "verify", f"{place}/damaged")


@pytest.mark.slow
def test_features_and_a_gallery_at_urls_are_those_of_local_folders(place, local, capsys, tmp_path):
    assert run(capsys, "embed", f"{place}/backbone", f"{place}/shards", f"{place}/features") == (
        f"{place}/features"
    )
    run(capsys, "embed", SHIPPED, local / "shards", tmp_path / "features")
    theirs, ours = load_features(tmp_path / "features"), load_features(localized(f"{place}/features"))
    assert theirs.keys == ours.keys
    assert (theirs.vectors == ours.vectors).all()

    assert run(capsys, "index", "build", f"{place}/features", f"{place}/gallery") == f"{place}/gallery"
    run(capsys, "index", "build", tmp_path / "features", tmp_path / "gallery")
    key = ours.keys[0]
    matches = []
    for gallery in (f"{place}/gallery", tmp_path / "gallery"):
        assert cli.main(["search", str(gallery), "--key", key, "--k", "3"]) == 0
        matches.append(capsys.readouterr().out)
    assert matches[0] == matches[1] != ""

    before = read_bytes(f"{place}/gallery/CURRENT")
    assert run(capsys, "index", "delete", f"{place}/gallery", "--keys", key) == f"{place}/gallery"
    after = read_bytes(f"{place}/gallery/CURRENT")
    assert after != before
    versions = {name.partition("/")[0] for name in listing(f"{place}/gallery")}
    assert versions == {"CURRENT", after.decode().strip()}
    run(capsys, "index", "verify", f"{place}/gallery")
    assert key in refused(capsys, "search", f"{place}/gallery", "--key", key)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_evaluation_at_a_url_has_the_metrics_of_a_local_one_and_says_that_it_has_no_mlflow_run(
    place, local, capsys, tmp_path, caplog
):
    words = ("--tasks", "knn", "--resamples", "20")
    out = run(capsys, "evaluate", f"{place}/backbone", f"{place}/shards", "--out", f"{place}/report", *words)
    assert out == f"{place}/report"
    assert "no MLflow run: a URL has no database beside it; set MLFLOW_TRACKING_URI" in caplog.text
    run(capsys, "evaluate", SHIPPED, local / "shards", "--out", tmp_path / "report", *words)
    ours = json.loads(read_bytes(f"{place}/report/metrics.json") or b"")
    theirs = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert ours["metrics"] == theirs["metrics"]
    assert str(node_cache("outputs").parent) not in json.dumps(ours)
    assert "run.json" not in listing(f"{place}/report")


@pytest.mark.slow
def test_a_full_bucket_keeps_the_work_and_names_it(place, failing_s3, archive, local, capsys, monkeypatch):
    from vetdino.platform.core import mirror

    def full(place, sources):
        failing_s3(507, "InsufficientStorage", -1)
        upload(place, sources)

    words = ("ingest", archive / "dicom", f"{place}/full", "--secret", local / "shards.secret")
    with monkeypatch.context() as patch:
        patch.setattr(mirror, "upload", full)
        line = refused(capsys, *words)
    assert line.startswith(f"vetdino: {place}/full: the storage is full (InsufficientStorage)")
    kept = Path(line.partition("is kept in ")[2].partition(", and")[0])
    assert (kept / "manifest.json").is_file()
    failing_s3(500, "none", 0)
    remove(f"{place}/.full.lock", [""])  # nobody could remove it then
    assert run(capsys, *words) == f"{place}/full"
    assert load_manifest(f"{place}/full").studies("train") > 0
    assert not kept.exists()


@pytest.mark.slow
def test_a_missing_driver_is_named_with_its_extra(capsys, monkeypatch):
    monkeypatch.setattr("vetdino.platform.core.extras.find_spec", lambda name: None)
    assert "s3://b/x needs s3fs: pip install 'vetdino[s3]'" in refused(capsys, "verify", "s3://b/x")
