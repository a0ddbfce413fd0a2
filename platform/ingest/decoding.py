"""Decoding in worker processes, which may crash or hang: such a worker costs only the file it had.

Identifiers in clear text stay inside the workers: a result knows its patient and study only as keyed hashes.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from ..core.errors import DicomError
from ..core.processes import without_main_script
from ..data.samples import stored_bits, stored_view
from ..data.study import StoredView
from .config import IngestConfig
from .discovery import DecodeTask
from .header import check_radiograph, identity_of, is_dicom, read_header
from .image.near_duplicates import difference_hash
from .pixels import normalized_view, picture_pixels, picture_view, raw_pixels
from .pseudonyms import pseudonym
from .screening import screened

PRELOAD = ["cv2", "imagecodecs", "numpy", "PIL.Image", "pydicom.encaps", "pydicom.pixels", __name__]
"""Modules that the fork server imports once, so that a new worker starts in a moment."""


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """What became of one file: a view with its pseudonyms, or a code of `header.CODES` and a detail."""

    code: str = ""
    detail: str = ""
    patient: str = ""
    study: str = ""
    file_hash: str = ""
    pixel_hash: str = ""
    dhash: str = ""
    view: StoredView | None = None


def decode(root: Path, task: DecodeTask, secret: bytes, config: IngestConfig) -> DecodeResult:
    """Decodes one file; every failure becomes a result with a code. secret: the key of the pseudonyms."""
    try:
        return _decode(root, task, secret, config)
    except DicomError as error:
        return DecodeResult(code=error.code, detail=error.detail)
    except FileNotFoundError:
        return DecodeResult(code="MISSING_FILE")
    except MemoryError:
        return DecodeResult(code="DECODE_FAILED", detail="it needs more memory than allowed")
    except OSError as error:
        return DecodeResult(code="UNREADABLE_HEADER", detail=error.strerror or type(error).__name__)
    except Exception as error:  # headers lie in ways nobody foresaw: that file is refused, the rest goes on
        return DecodeResult(code="DECODE_FAILED", detail=type(error).__name__)


def _decode(root: Path, task: DecodeTask, secret: bytes, config: IngestConfig) -> DecodeResult:
    with open(root / task.path, "rb") as file:
        head = file.read(132)
        if task.named is None and not is_dicom(head):
            raise DicomError("NOT_DICOM", "no DICM mark and no leading tag")
        data = head + file.read()
    patient = study = ""
    dataset, bits = None, stored_bits(config.shards)
    if is_dicom(head):
        dataset = read_header(data)
        check_radiograph(dataset, config.dicom)
        patient, study = identity_of(dataset)
        raw = raw_pixels(dataset)
        view = normalized_view(dataset, raw, config.dicom, bits)
    else:
        raw = picture_pixels(data)
        view = picture_view(raw, config.dicom, bits)
    if task.named is not None:
        patient, study, projection = task.named
        view = replace(
            view,
            projection=projection,
            laterality=task.laterality or view.laterality,
            facts={**view.facts, "projection_source": "table"},
        )
    if not patient or not study:
        raise DicomError("NO_IDENTITY", "no study" if patient else "no patient")
    view = screened(view, dataset, config.dicom)
    return DecodeResult(
        patient=pseudonym(secret, f"patient:{patient}"),
        study=pseudonym(secret, f"study:{study}"),
        file_hash=hashlib.sha256(data).hexdigest(),
        pixel_hash=hashlib.sha256(f"{raw.shape} {raw.dtype}".encode() + raw.tobytes()).hexdigest(),
        dhash=difference_hash(view.decode().pixels),
        view=stored_view(view, config.shards),
    )


def decode_all(
    root: Path, tasks: Sequence[DecodeTask], secret: bytes, config: IngestConfig
) -> Iterator[tuple[DecodeTask, DecodeResult]]:
    """Each task with its result, in the order in which they finish.

    A worker that dies or takes longer than `config.timeout_s` gives DECODER_CRASHED and is replaced.
    """
    waiting = iter(tasks)
    count = min(config.workers or os.cpu_count() or 1, len(tasks))
    workers = [DecodeWorker(root, secret, config) for _ in range(count)]
    try:
        for worker, task in zip(workers, waiting, strict=False):
            worker.wait_until_ready()
            worker.start(task)
        while busy := [worker for worker in workers if worker.task is not None]:
            first_timeout = min(worker.started for worker in busy) + config.timeout_s
            ready = wait([worker.pipe for worker in busy], timeout=max(0.0, first_timeout - time.monotonic()))
            for worker in busy:
                if worker.pipe in ready:
                    result = worker.result()
                elif time.monotonic() - worker.started >= config.timeout_s:
                    result = _crashed(f"no answer within {config.timeout_s:g} s")
                else:
                    continue
                finished, worker.task = worker.task, None
                assert finished is not None, "a busy worker has a task"
                if result.code == "DECODER_CRASHED":
                    worker.restart()
                if (next_task := next(waiting, None)) is not None:
                    worker.start(next_task)
                yield finished, result
    finally:
        for worker in workers:
            worker.end()


class DecodeWorker:
    """A process that decodes one file at a time, and the pipe to it."""

    def __init__(self, root: Path, secret: bytes, config: IngestConfig) -> None:
        self._arguments = (root, secret, config)
        self.task: DecodeTask | None = None
        self.started = 0.0
        """When it got its task, by time.monotonic."""
        self._start_process()

    def _start_process(self) -> None:
        context = multiprocessing.get_context("forkserver")  # a fork of a process with threads may hang
        context.set_forkserver_preload(PRELOAD)
        self.pipe, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end, *self._arguments), daemon=True)
        with without_main_script():
            self._process.start()
        far_end.close()

    def wait_until_ready(self) -> None:
        """Waits for the process's first message. Raises RuntimeError where it ended before that."""
        try:
            self.pipe.recv()
        except EOFError:
            raise RuntimeError("a decoding worker ended before its first file") from None

    def start(self, task: DecodeTask) -> None:
        """Sends a task to the process."""
        self.task, self.started = task, time.monotonic()
        with suppress(BrokenPipeError):  # its end is noticed when the result is awaited
            self.pipe.send(task)

    def result(self) -> DecodeResult:
        """The result of the task, once it is there; DECODER_CRASHED where the process died."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return _crashed("the decoder ended")

    def restart(self) -> None:
        """Replaces the process by a new one."""
        self.end()
        self._start_process()
        self.wait_until_ready()

    def end(self) -> None:
        """Kills the process."""
        self.pipe.close()
        self._process.kill()
        self._process.join()
        self._process.close()


def _crashed(detail: str) -> DecodeResult:
    return DecodeResult(code="DECODER_CRASHED", detail=detail)


def _serve(pipe: Connection, root: Path, secret: bytes, config: IngestConfig) -> None:
    """Runs in a worker: sends None when ready, then a result for each task until the pipe closes."""
    import signal

    import cv2
    import imagecodecs  # noqa: F401  before memory is limited
    import pydicom.pixels  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    cv2.setNumThreads(1)
    _limit_memory(config.memory_gib)
    null = os.open(os.devnull, os.O_WRONLY)
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        pipe.send(None)
        os.dup2(null, 1)  # C libraries print what they read, and that may be a name
        os.dup2(null, 2)
        while True:
            pipe.send(decode(root, pipe.recv(), secret, config))


def _limit_memory(gib: float) -> None:
    """Caps this process's address space at what it has plus `gib`, where the system reports what it has."""
    status = Path("/proc/self/statm")
    if status.exists():
        import resource

        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(gib * 2**30), resource.RLIM_INFINITY))
