"""Random small archives with duplicates, clashes and damage, and what ingest must make of them."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.platform.ingest.radiographs import write_dicom
from vetdino.platform.archive.discovery import discover
from vetdino.platform.data.shards import read
from vetdino.platform.data.study import SPLITS
from vetdino.platform.ingest.assembly import judged
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import DecodePool, decode

KINDS = ("view",) * 12 + ("copy", "pixels", "pixels", "text", "ct", "cut", "nobody", "clash")


@dataclass(frozen=True)
class Output:
    """What an output folder says: path -> code, and study -> the encoded views."""

    codes: dict[str, str]
    studies: dict[str, list[bytes]]


def add_files(folder: Path, random: Random, count: int) -> None:
    """Adds files at random paths: views of six studies of three patients, and each way to be refused."""
    for _ in range(count):
        kind = random.choice(KINDS)
        path = folder / random.choice(("a", "b/c", "b", "b-d", "z")) / f"{random.randrange(10**6)}"
        study = random.randrange(6)
        patient, seed = f"p{study // 2}", random.randrange(10**6)
        existing = sorted(path for path in folder.rglob("*") if path.is_file())
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "text":
            path.write_text(f"Rex came by, {seed}")
        elif kind == "copy" and existing:
            shutil.copyfile(random.choice(existing), path)
        elif kind == "cut":
            write_dicom(path, patient, f"1.2.{study}", seed)
            path.write_bytes(path.read_bytes()[: random.randrange(100, 3000)])
        else:
            tags = {"ct": {"Modality": "CT"}}.get(kind, {})
            pixels = random.randrange(4) if kind == "pixels" else seed
            owner = {"nobody": "", "clash": "p9"}.get(kind, patient)
            write_dicom(path, owner, f"1.2.{study}", pixels, SeriesDescription=f"{seed}", **tags)


def change_files(folder: Path, random: Random) -> None:
    """Removes some files, touches one, replaces one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in random.sample(files, min(len(files), random.randrange(3))):
        path.unlink()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if files and random.random() < 0.3:
        random.choice(files).touch()
    if files and random.random() < 0.3:
        write_dicom(random.choice(files), "p1", "1.2.3", random.randrange(10**6))
    add_files(folder, random, 1 + random.randrange(4))


def expected(archive: Path, config: IngestConfig) -> Output:
    """The same by another way: every file decoded here, all of them judged at once in the order of their paths."""
    secret = Path(config.secret).read_bytes()
    files = list(discover(archive, archive.parent / "nowhere").entries())
    results = [decode(archive, file, secret, config) for file in files]
    verdicts = judged(results, config)
    studies: dict[str, list[bytes]] = {}
    for result, verdict in zip(results, verdicts, strict=True):
        if not verdict.code:
            studies.setdefault(result.study, []).append(result.view.encoded)
    return Output({f.task.path: v.code for f, v in zip(files, verdicts, strict=True) if v.code}, studies)


def output_in(folder: Path) -> Output:
    """What an output folder says."""
    with open(folder / "quarantine.csv", newline="") as file:
        codes = {row["path"]: row["code"] for row in csv.DictReader(file)}
    studies = [study for split in SPLITS for study in read(folder, split)]
    assert len({study.key for study in studies}) == len(studies), "a study is in one shard"
    return Output(codes, {study.key: [view.encoded for view in study.views] for study in studies})


def check_counts(counts: dict[str, int], output: Output) -> None:
    """Counts add up, and are those of the output."""
    codes = Counter(output.codes.values())
    assert counts["files"] == counts["views"] + counts["refused"] + counts["duplicates"]
    assert counts["views"] == sum(map(len, output.studies.values()))
    assert counts["studies"] == len(output.studies)
    assert counts["duplicates"] == codes.pop("DUPLICATE", 0)
    assert {name.partition(".")[2]: n for name, n in counts.items() if name.startswith("refused.")} == codes


class InProcess(DecodePool):
    """The same tasks in this process, one after another: for very many small archives."""

    def map(self, tasks):
        for task in tasks:
            yield None if task is None else task[0](self._arguments[0], task[1], *self._arguments[1:])
