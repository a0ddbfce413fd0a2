"""Names that stand in every place where a name can stand are found nowhere but in the paths of `quarantine.csv`."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, Sequence
from pydicom.datadict import DicomDictionary
from pydicom.uid import JPEG2000Lossless

from tests.archives.mutations import in_syntax
from tests.platform.ingest.packing import add, dicomdir, pack, zipped
from tests.platform.ingest.radiographs import radiograph, saved
from tests.platform.ingest.test_team import cluster
from vetdino.platform.dicom.tags import quiet
from vetdino.platform.ingest.assembly import QUARANTINE

__all__ = ["cluster"]

pytestmark = pytest.mark.slow

WORD = "KANARI"

NUMBER = "73519264"

CANARIES = (WORD, NUMBER)
"""In every text, and in every number and UID, of what is ingested."""

TEXTS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}

NUMBERS = {"AS", "DA", "DT", "TM", "IS", "DS"}

KEPT = {
    "Modality",
    "PhotometricInterpretation",
    "SOPClassUID",
    "PresentationLUTShape",
    "SpecificCharacterSet",
}
"""Tags that decide what a file is: with a canary in one of these it is refused, see `refused_files`."""

DECIDING = (
    "NumberOfFrames",
    "Window",
    "Rescale",
    "Spacing",
    "PixelPadding",
    "LUT",
    "Rows",
    "Columns",
    "Samples",
)


def canary_dataset(seed: int, **tags: object) -> Dataset:
    """A radiograph with a canary in every text of the dictionary, private tags, sequences, UIDs and its meta header."""
    pixels_HW = np.random.default_rng(seed).integers(0, 4096, (48, 40)).astype(np.uint16)
    dataset = radiograph(pixels_HW)
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        group, element = tag >> 16, tag & 0xFFFF
        if (
            group <= 2
            or keyword in KEPT
            or not element
            or not keyword
            or any(word in keyword for word in DECIDING)
        ):
            continue
        if vr in TEXTS:
            dataset.add_new(tag, vr, f"{WORD}^{keyword}"[: 16 if vr in ("AE", "CS", "SH") else 60])
        elif vr in NUMBERS:
            dataset.add_new(tag, vr, NUMBER)
        elif vr == "UI":
            dataset.add_new(tag, vr, f"1.2.{NUMBER}.{seed}")
    item = Dataset()
    item.PatientName = f"{WORD}^item"
    dataset.ReferencedStudySequence = Sequence([item])
    block = dataset.private_block(0x0029, f"{WORD} creator", create=True)
    block.add_new(0x10, "LO", f"{WORD} private")
    block.add_new(0x11, "OB", f"{WORD} private bytes ".encode())
    block.add_new(0x12, "UN", f"{WORD} unknown ".encode())
    block.add_new(0x13, "SQ", Sequence([item]))
    dataset.StudyInstanceUID, dataset.PatientID = f"1.2.{NUMBER}.{seed // 2}", f"{WORD}{seed // 4}"
    dataset.preamble = WORD.encode().ljust(128, b"\0")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.ImplementationVersionName = WORD
    dataset.file_meta.SourceApplicationEntityTitle = WORD
    dataset.file_meta.PrivateInformationCreatorUID = f"1.2.{NUMBER}"
    dataset.file_meta.PrivateInformation = f"{WORD} meta".encode()
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        elif value == WORD:
            dataset.add_new(name, "CS", value)
        else:
            setattr(dataset, name, value)
    return dataset


def canary_file(seed: int, syntax: str = "", **tags: object) -> bytes:
    with quiet():
        data = saved(canary_dataset(seed, **tags))
    if syntax:
        usual = b"1.2.840.10008.1.2.1\0"
        data = data.replace(usual, syntax.encode().ljust(len(usual), b"\0")[: len(usual)], 1)
    assert data.count(WORD.encode()) > 1000
    assert data.count(NUMBER.encode()) > 300
    return data


def refused_files() -> dict[str, bytes]:
    """Name -> a file for each way to be refused that quotes, or might quote, what stands in it."""
    tags: dict[str, dict[str, object]] = {
        "modality": {"Modality": WORD},
        "class": {"SOPClassUID": f"1.2.{NUMBER}", "Modality": None},
        "color": {"PhotometricInterpretation": WORD},
        "burned": {"BurnedInAnnotation": "YES"},
        "charset": {"SpecificCharacterSet": WORD},
        "nobody": {"PatientID": ""},
        "frames": {"NumberOfFrames": NUMBER},
        "window": {"WindowCenter": WORD, "WindowWidth": WORD, "RescaleSlope": NUMBER},
        "rows": {"Rows": 0},
        "short": {"PixelData": WORD.encode()},
        "constant": {"PixelData": bytes(48 * 40 * 2)},
    }
    files = {f"{WORD} {name}": canary_file(100 + at, **more) for at, (name, more) in enumerate(tags.items())}
    files[f"{WORD} syntax"] = canary_file(120, f"1.2.{NUMBER}")
    files[f"{WORD} claimed"] = canary_file(121, "1.2.840.10008.1.2.5")
    files[f"{WORD} clash"] = canary_file(0, PatientID=f"{WORD} other")
    whole = canary_file(122)
    for share in (0.01, 0.2, 0.99):
        files[f"{WORD} cut {share}"] = whole[: int(share * len(whole))]
    damaged = bytearray(whole)
    damaged[700:90_000:97] = WORD.encode()[:1] * len(damaged[700:90_000:97])
    files[f"{WORD} damaged"] = bytes(damaged)
    files[f"{WORD} text"] = f"{WORD} was here".encode()
    stream = bytearray(saved(in_syntax(np.arange(4096, dtype=np.uint16).reshape(64, 64), JPEG2000Lossless)))
    stream[-300:-200] = bytes(100)
    files[f"{WORD} stream"] = bytes(stream)
    return files


def malicious() -> dict[str, bytes]:
    """Name -> container whose members have such names, and are refused."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        for name, kind in (
            ("link", tarfile.SYMTYPE),
            ("device", tarfile.CHRTYPE),
            ("../out", tarfile.REGTYPE),
        ):
            member = tarfile.TarInfo(f"{name} {WORD}")
            member.type, member.linkname, member.uname = kind, f"/{WORD}", WORD
            add(writer, member)
    encrypted = bytearray(zipped([(f"{WORD} secret", b"x")]))
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    return {
        f"{WORD}.tar": tar.getvalue(),
        f"{WORD}.encrypted": bytes(encrypted),
        f"{WORD}.cut": zipped([(f"{WORD} member", canary_file(123)), (f"{WORD} 2", b"x")])[:-30],
        f"{WORD}.nested": zipped([(f"{WORD} inner", zipped([(WORD, b"x")]))]),
        "DICOMDIR": dicomdir([f"{WORD}/{NUMBER}"]),
    }


@pytest.fixture(scope="module")
def archive_of_canaries(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "archive"
    (folder / f"{WORD}^Rex").mkdir(parents=True)
    good = {f"{WORD} {number}/{NUMBER}": canary_file(number) for number in range(8)}
    for name, data in {**dict(list(good.items())[:4]), **refused_files(), **malicious()}.items():
        path = folder / name if name == "DICOMDIR" else folder / f"{WORD}^Rex" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    pack(folder / f"{WORD}.zip", dict(list(good.items())[4:6]), "zip")
    pack(folder / f"{WORD}.tgz", dict(list(good.items())[6:]), "tgz")
    (folder / "broken link").symlink_to(f"/{WORD}/{NUMBER}")
    return folder


@dataclass(frozen=True, slots=True)
class Run:
    """What `vetdino ingest` printed and left, in a folder with its own folder for temporary files."""

    folder: Path
    code: int
    printed: str

    def leaks(self) -> list[str]:
        """Places where a canary is found: what was printed, names of files, and their contents."""
        found = [f"printed: {line}" for line in self.printed.splitlines() if has_canary([line.encode()])]
        for parent, folders, names in os.walk(self.folder):
            found += [f"name: {parent}/{name}" for name in folders + names if has_canary([name.encode()])]
            for path in (path for name in names if (path := Path(parent, name)).is_file()):
                contents = [path.read_bytes()] if path.name != QUARANTINE else details_of(path)
                found += [f"content: {path}"] * has_canary(contents)
        return found


def has_canary(contents: Iterable[bytes]) -> bool:
    """Whether a canary stands in one of them, in UTF-8 or UTF-16, in capitals or not."""
    forms = [canary.encode(encoding) for canary in CANARIES for encoding in ("utf-8", "utf-16-le")]
    return any(form.lower() in content.lower() for content in contents for form in forms)


def details_of(quarantine: Path) -> list[bytes]:
    """All of the quarantine table but its paths."""
    with open(quarantine, newline="") as file:
        return [" ".join(row[1:]).encode() for row in csv.reader(file)]


def run_ingest(folder: Path, source: Path, *settings: str, **more: str) -> Run:
    """Runs the command in a new process. more: variables of its environment."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix="t"))  # of a short path, for there are sockets in it
    command = [
        sys.executable,
        "-X",
        "dev",
        "-m",
        "vetdino",
        "ingest",
        str(source),
        str(folder / "out"),
        *settings,
    ]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONWARNINGS": "always", **more}
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    temporary.rename(folder / "tmp")
    return Run(folder, result.returncode, result.stdout + result.stderr)


@pytest.mark.parametrize(
    ("settings", "printed"),
    [
        ((), "read "),
        (("--max-refused", "0"), "more than --max-refused"),
        (("--timeout-s", "0.001"), "DECODER_CRASHED"),
        (("--dicom.burned-in", "keep", "--min-views", "3"), "--min-views"),
    ],
)
def test_no_name_in_an_archive_is_printed_or_written(archive_of_canaries, tmp_path, settings, printed):
    run = run_ingest(tmp_path / "run", archive_of_canaries, *settings)
    assert printed in run.printed
    assert run.leaks() == []
    if not settings:
        rows = (tmp_path / "run" / "out" / QUARANTINE).read_text()
        assert WORD in rows  # a path
        assert rows.count("\n") > 25


def test_no_name_in_an_archive_is_in_the_logs_of_ray(
    cluster, archive_of_canaries, tmp_path, tmp_path_factory
):
    run = run_ingest(tmp_path / "run", archive_of_canaries, **cluster)
    assert "waiting for 2 nodes" in run.printed
    assert run.leaks() == []
    logs = Path(cluster["RAY_FILES"])
    assert len(list(logs.rglob("*.log"))) > 5
    assert Run(logs, 0, "").leaks() == []


def test_a_leak_is_found(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "x").write_text("a kanari")
    (tmp_path / f"{NUMBER}.log").write_text("")
    (tmp_path / QUARANTINE).write_text(f"path,code,detail\n{WORD},X,y\nz,X,{WORD}\n")
    run = Run(tmp_path, 0, f"{WORD}\nnothing")
    assert len(run.leaks()) == 4


def a_table(folder: Path, **columns: object) -> Path:
    """An image table of three pictures with canaries in its cells."""
    folder.mkdir()
    rows = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{WORD}{number}.png")
        row = {"path": f"{WORD}{number}.png", "patient": f"{WORD}{number}", "study": f"{NUMBER}{number}"}
        rows.append({**row, "view": f"{WORD} AP", "note": WORD, "mass": "1", **columns})
    (folder / f"{WORD}3.png").write_text(WORD)
    rows.append({**rows[0], "path": f"{WORD}3.png"})
    rows.append({**rows[0], "path": f"{WORD}4.png"})
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "table.csv"


@pytest.mark.parametrize(
    ("columns", "labels", "message"),
    [
        ({}, "mass", ""),
        ({}, "*", ""),
        ({"laterality": "L", "view": f"R CC {WORD}"}, "mass", "laterality"),
        ({"mass": WORD}, "mass,note", "is no label"),
        ({"study": ""}, "mass", "NO_IDENTITY"),
    ],
)
def test_no_cell_of_an_image_table_is_printed_or_written(tmp_path, columns, labels, message):
    table = a_table(tmp_path / "in", **columns)
    run = run_ingest(tmp_path / "run", table, "--table.labels", labels)
    assert (run.code == 0) == (not message)
    assert message in run.printed
    assert run.leaks() == []


def test_no_cell_of_a_label_table_is_printed(archive_of_canaries, tmp_path):
    for number, row in enumerate((f"1.3.{NUMBER},1", f"{WORD},{WORD}")):
        labels = tmp_path / f"labels{number}.csv"
        labels.write_text(f"study,mass\n{row}\n")
        settings = ("--labels", str(labels), *(("--table.labels", "mass") if number else ()))
        run = run_ingest(tmp_path / f"run{number}", archive_of_canaries, *settings)
        assert run.code == 1
        assert run.leaks() == []


def test_a_zip_with_names_alone_is_listed_by_them(tmp_path):
    """The paths are there: without them nobody finds what was refused."""
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "x", "w") as container:
        container.writestr(f"{WORD}/1", b"no picture")
        container.writestr("2", canary_file(1))
    run = run_ingest(tmp_path / "run", tmp_path / "in")
    assert run.leaks() == []
    assert f"x!/{WORD}/1,NOT_DICOM" in (tmp_path / "run" / "out" / QUARANTINE).read_text()
