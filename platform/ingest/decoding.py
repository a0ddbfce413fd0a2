"""Decoding in worker processes, which may crash or hang: such a worker costs only the file it had.

Identifiers in clear text stay inside the workers: a result knows its patient and study only as keyed hashes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np

from ..archive.containers import HEAD, check_no_container
from ..archive.discovery import ListedFile, has_changed, open_bytes
from ..core.errors import DicomError
from ..data.samples import stored_bits, stored_view
from ..data.study import StoredView
from ..dicom.header import check_radiograph, identity_of, is_dicom, read_header
from ..dicom.pixels import normalized_view, picture_pixels, picture_view, raw_pixels
from ..dicom.screening import screened
from .config import IngestConfig
from .output.near_duplicates import difference_hash
from .pseudonyms import pseudonym
from .workers import prepare_worker, silence_output, worker_context, worker_environment

Task = tuple[Callable[..., Any], Any]
"""What a worker does: a function of (root, files, secret, config), and the files."""

HASH = 32
"""Hexadecimal digits of a file's and of its pixels' hash: 128 bits."""

END = object()

WINDOW = 256
"""Answers that a pool holds back, at most, because an earlier one is not there yet."""


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


def decode(root: Path | str, entry: ListedFile, secret: bytes, config: IngestConfig) -> DecodeResult:
    """Decodes one file; every failure becomes a result with a code. secret: the key of the pseudonyms."""
    try:
        return _decode(root, entry, secret, config)
    except DicomError as error:
        return DecodeResult(code=error.code, detail=error.detail)
    except FileNotFoundError:
        return DecodeResult(code="MISSING_FILE")
    except IsADirectoryError:
        return DecodeResult(code="UNREADABLE_HEADER", detail="a link to a folder; it is not followed")
    except MemoryError:
        return DecodeResult(code="DECODE_FAILED", detail="it needs more memory than allowed")
    except OSError as error:
        return DecodeResult(code="UNREADABLE_HEADER", detail=error.strerror or type(error).__name__)
    except Exception as error:  # headers lie in ways nobody foresaw: that file is refused, the rest goes on
        return DecodeResult(code="DECODE_FAILED", detail=type(error).__name__)


def _decode(root: Path | str, entry: ListedFile, secret: bytes, config: IngestConfig) -> DecodeResult:
    task = entry.task
    with open_bytes(root, task) as file:
        head = file.read(HEAD)
        if task.named is None and not is_dicom(head):
            check_no_container(head, is_inside=task.member is not None)
            raise DicomError("NOT_DICOM", "no DICM mark and no leading tag")
        data = head + file.read()
        if has_changed(file, entry):
            raise DicomError("FILE_CHANGED", "since the archive was listed")
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
        file_hash=hashlib.sha256(data).hexdigest()[:HASH],
        pixel_hash=_pixel_hash(raw),
        dhash=difference_hash(view.decode().pixels),
        view=stored_view(view, config.shards),
    )


def _pixel_hash(raw: np.ndarray) -> str:
    digest = hashlib.sha256(f"{raw.shape} {raw.dtype}".encode())
    digest.update(np.ascontiguousarray(raw).data)
    return digest.hexdigest()[:HASH]


class DecodePool:
    """Worker processes that read files; one that dies or hangs costs only the files that it had, and is replaced.

    Each worker has a pipe of its own, so that one that is killed while it answers harms no other.
    """

    def __init__(self, root: Path | str, secret: bytes, config: IngestConfig) -> None:
        self._arguments = (root, secret, config)
        self._timeout = config.timeout_s
        self._count = config.workers or os.cpu_count() or 1
        self._workers: list[DecodeWorker] = []

    def map(self, tasks: Iterable[Task | None]) -> Iterator[Any]:
        """The answer of each task, in their order; None for None.

        A task is the files that `scan_files` reads in one go, or one file for `decode`. Where the worker died or took
        longer than `config.timeout_s` the answer is a `DecodeResult` with the code DECODER_CRASHED.
        """
        queue, answers = iter(tasks), dict[int, Any]()
        given = due = 0
        task = next(queue, END)
        while True:
            while task is not END and given - due < WINDOW:
                if task is None:
                    answers[given] = None
                elif (worker := self._idle()) is not None:
                    worker.start(given, cast(Task, task))
                else:
                    break
                given += 1
                task = next(queue, END)
            if due in answers:
                yield answers.pop(due)
                due += 1
            elif due == given:
                return
            else:
                self._receive(answers)

    def _idle(self) -> DecodeWorker | None:
        """A worker without a task, started where there are fewer than there may be."""
        idle = next((worker for worker in self._workers if worker.number is None), None)
        if idle is None and len(self._workers) < self._count:
            idle = DecodeWorker(*self._arguments)
            self._workers.append(idle)
        return idle

    def _receive(self, answers: dict[int, Any]) -> None:
        """Waits for an answer, or until a worker has taken too long."""
        busy = [worker for worker in self._workers if worker.number is not None]
        first_timeout = min(worker.started for worker in busy) + self._timeout
        ready = wait([worker.pipe for worker in busy], timeout=max(0.0, first_timeout - time.monotonic()))
        for worker in busy:
            if worker.pipe in ready:
                answer = worker.answer()
            elif time.monotonic() - worker.started >= self._timeout:
                answer = _crashed(f"no answer within {self._timeout:g} s")
            else:
                continue
            assert worker.number is not None, "a busy worker has a task"
            answers[worker.number], worker.number = answer, None
            if getattr(answer, "code", "") == "DECODER_CRASHED":
                worker.restart()

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DecodeWorker:
    """A process that does one task at a time, and the pipe to it."""

    def __init__(self, root: Path | str, secret: bytes, config: IngestConfig) -> None:
        self._arguments = (root, secret, config)
        self.number: int | None = None
        """Which task it has; None where it has none."""
        self.started = 0.0
        """When it got its task, by time.monotonic."""
        self._start_process()
        self._is_ready = False

    def _start_process(self) -> None:
        context = worker_context(__name__)
        self.pipe, far_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(far_end, worker_environment(), *self._arguments), daemon=True
        )
        self._process.start()
        far_end.close()

    def start(self, number: int, task: Task) -> None:
        """Sends a task to the process."""
        if not self._is_ready:
            self._wait_until_ready()
        self.number, self.started = number, time.monotonic()
        with suppress(BrokenPipeError):  # its end is noticed when the answer is awaited
            self.pipe.send(task)

    def _wait_until_ready(self) -> None:
        """Waits for the process's first message. Raises RuntimeError where it ended before that."""
        try:
            self.pipe.recv()
        except EOFError:
            raise RuntimeError("a decoding worker ended before its first file") from None
        self._is_ready = True

    def answer(self) -> Any:
        """The answer to the task, once it is there; DECODER_CRASHED where the process died."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError, UnpicklingError):  # it ended, perhaps in the middle of a word
            return _crashed("the decoder ended")

    def restart(self) -> None:
        """Replaces the process by a new one."""
        self.end()
        self._start_process()
        self._is_ready = False

    def end(self) -> None:
        """Kills the process."""
        self.pipe.close()
        self._process.kill()
        self._process.join()
        self._process.close()


def _crashed(detail: str) -> DecodeResult:
    return DecodeResult(code="DECODER_CRASHED", detail=detail)


def _serve(
    pipe: Connection, environment: dict[str, str], root: Path | str, secret: bytes, config: IngestConfig
) -> None:
    """Runs in a worker: sends None when ready, then an answer for each task until the pipe closes.

    environment: of the pool's process now; the fork server has that of its own start, perhaps without credentials.
    """
    prepare_worker(environment, config.memory_gib)
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        pipe.send(None)
        silence_output()
        while True:
            function, files = pipe.recv()
            pipe.send(function(root, files, secret, config))
