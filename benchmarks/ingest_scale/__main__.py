"""Ingest of very many tiny DICOM files: memory, and the same bytes however it is run.

    python -m benchmarks.ingest_scale --files 10000 100000 --out scale.json

`benchmarks/README.md` explains the figures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]

UID = b"2.25.%012d"
"""Of studies, series and files: all of one length, so that one template serves."""

FILES_A_STUDY = 7


def write_archive(folder: Path, files: int, side: int) -> None:
    """Files of noise, 7 a study, 3 studies a patient; one template whose UIDs, name and pixels are replaced."""
    template = _template(side)
    marks = {name: template.index(mark) for name, mark in MARKS.items()}
    noise = np.random.default_rng(0).integers(0, 4096, side * side + files, np.uint16).astype("<u2").tobytes()
    content = bytearray(template)
    start = len(template) - 2 * side * side
    for number in range(files):
        study = number // FILES_A_STUDY
        values = {
            "study": UID % study,
            "file": UID % (10**9 + number),
            "patient": b"patient%09d" % (study // 3),
        }
        for name, value in values.items():
            content[marks[name] : marks[name] + len(value)] = value
        content[start:] = noise[2 * number : 2 * number + 2 * side * side]
        path = folder / f"{study // 1000:06d}" / f"{study:09d}"
        if number % FILES_A_STUDY == 0:
            path.mkdir(parents=True)
        (path / f"{number}.dcm").write_bytes(content)


MARKS = {"study": UID % 111111111111, "file": UID % 222222222222, "patient": b"patient333333333"}


def _template(side: int) -> bytes:
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = MARKS["file"].decode(), MARKS["study"].decode()
    dataset.PatientID, dataset.Modality, dataset.ViewPosition = MARKS["patient"].decode(), "DX", "VD"
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = bytes(2 * side * side)
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def start(archive: Path, out: Path, workers: int, max_bytes: int) -> subprocess.Popen[str]:
    """An ingest in a process of its own, which prints its peak memory."""
    settings = {"secret": str(archive.parent / "key"), "workers": workers, "max_bytes": max_bytes}
    command = [
        sys.executable,
        "-m",
        "benchmarks.ingest_scale",
        "--run",
        str(archive),
        str(out),
        json.dumps(settings),
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def run(archive: str, out: str, settings: str) -> None:
    """One ingest; prints seconds of processor time and peak memory in MiB of this process."""
    from vetdino.platform.data.config import ShardConfig
    from vetdino.platform.dicom.config import DicomConfig
    from vetdino.platform.ingest.config import IngestConfig
    from vetdino.platform.ingest.ingest import ingest

    values = json.loads(settings)
    config = IngestConfig(
        dicom=DicomConfig(search_text="none"),  # which is a network's time
        secret=Path(values["secret"]),
        workers=values["workers"],
        shards=ShardConfig(max_bytes=values["max_bytes"]),
    )
    manifest = ingest(Path(archive), Path(out), config)
    own = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "driver_mib": own.ru_maxrss / 1024,
        "driver_cpu_s": own.ru_utime + own.ru_stime,
        "counts": dict(manifest.counts),
        "shards": len(manifest.shards),
    }
    print(json.dumps(result))


def finished(process: subprocess.Popen[str], files: int) -> dict:
    """What a run printed, with its workers' peak memory and processor time, sampled while it ran."""
    began = time.monotonic()
    workers: dict[int, tuple[float, float]] = {}
    while process.poll() is None:
        workers.update(workers_of(process.pid))
        time.sleep(0.1)
    output, _ = process.communicate()
    assert process.returncode == 0, "an ingest failed"
    result = json.loads(output)
    result["files_per_second"] = files / (time.monotonic() - began)
    result["worker_mib"] = max(memory for memory, _ in workers.values())
    result["worker_cpu_s"] = sum(seconds for _, seconds in workers.values())
    return result


def workers_of(pid: int) -> dict[int, tuple[float, float]]:
    """Peak memory in MiB and processor time in seconds of each process below a process, from /proc."""
    below, found = {pid}, {}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        with suppress(OSError, ValueError, StopIteration):  # it has ended
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(words[1]) in below:
                below.add(int(folder.name))
                lines = (folder / "status").read_text().splitlines()
                peak = next(line for line in lines if line.startswith("VmHWM"))
                ticks = int(words[11]) + int(words[12])
                found[int(folder.name)] = int(peak.split()[1]) / 1024, ticks / os.sysconf("SC_CLK_TCK")
    return found


def killed(process: subprocess.Popen[str], work: Path, files: int) -> int:
    """Kills a run (SIGKILL) after about half of its files were decoded; how many were."""
    while process.poll() is None:
        done = sum(path.read_bytes().count(b"\n") for path in work.glob("*.tmp-*/ranges/*/log.jsonl"))
        if done >= files // 2:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.2)
    process.communicate()
    return done


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of an output."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        total.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def measure(files: int, side: int, max_bytes: int, work: Path) -> dict:
    """One, two and killed runs over an archive of so many files."""
    archive = work / "archive"
    write_archive(archive, files, side)
    (work / "key").write_bytes(bytes(32))
    results = {"files": files, "one": finished(start(archive, work / "one", 1, max_bytes), files)}
    results["two"] = finished(start(archive, work / "two", 2, max_bytes), files)
    results["killed_after"] = killed(start(archive, work / "again", 2, max_bytes), work, files)
    results["again"] = finished(start(archive, work / "again", 2, max_bytes), files)
    results["digests"] = {name: digest(work / name) for name in ("one", "two", "again")}
    return results


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    """Measures archives of each size and prints a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--side", type=int, default=24, help="pixels of a side")
    parser.add_argument("--max-bytes", type=int, default=4 << 20, help="bytes of a shard")
    parser.add_argument(
        "--folder", type=Path, help="where the archives are made; by default a temporary folder"
    )
    parser.add_argument("--out", type=Path, help="JSON of all figures")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        run(*options.run)
        return []
    results = []
    for files in options.files:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            results.append(measure(files, options.side, options.max_bytes, Path(folder)))
        _print(results[-1])
    if len(results) > 1:
        ratio = results[-1]["one"]["driver_mib"] / results[0]["one"]["driver_mib"]
        print(
            f"driver's peak memory, {results[-1]['files']:,} files against {results[0]['files']:,}: {ratio:.3f}"
        )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))
    return results


def _print(result: dict) -> None:
    for name in ("one", "two", "again"):
        row = result[name]
        core = result["files"] / (row["worker_cpu_s"] + row["driver_cpu_s"])
        print(
            f"{result['files']:>9,} files {name:>6}: driver {row['driver_mib']:.0f} MiB, "
            f"worker {row['worker_mib']:.0f} MiB, "
            f"{core:.0f} files/s/core, {row['shards']} shards, sha256 {result['digests'][name][:12]}"
        )
    print(f"          killed after {result['killed_after']:,} files")


if __name__ == "__main__":
    main()
