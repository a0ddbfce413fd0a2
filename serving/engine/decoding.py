"""Uploaded files decoded in processes of their own, which may crash, hang or need too much memory: such a process costs
only the file that it had.

What comes back has no identifier: a view with pixels and the few facts of `StoredView`, or a code with a detail that
quotes no text of the file. No process writes a file.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ...platform.core.errors import DicomError
from ...platform.data.config import ShardConfig
from ...platform.data.study import StoredView
from ...platform.dicom.burned_in import load_networks
from ...platform.dicom.config import DicomConfig
from ...platform.dicom.file_view import file_view
from ...platform.dicom.header import is_dicom
from ...platform.dicom.screening import with_known_search
from ...platform.ingest.workers import prepare_worker, silence_output, worker_context, worker_environment
from ..config import ServiceConfig
from .errors import MEMORY, overloaded

PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
"""How a PNG and a JPEG begin."""

TASKS = 64
"""Files of one process, which then makes room for a fresh one."""


class UploadDecoder:
    """Warm processes that decode one file at a time.

    Whether text in pixels is searched is decided here, as ingest decides it. Raises ConfigError where it shall be and
    cannot, or where processes cannot be started.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self.config = replace(config, dicom=with_known_search(config.dicom))
        self._waiting = 0
        self._lock = threading.Lock()
        self._closed = False
        self._pool = self._start()
        self._pool.schedule(os.getpid).result()  # the first file starts all processes

    def _start(self) -> Any:
        from pebble import ProcessPool

        return ProcessPool(
            self.config.decoders,
            max_tasks=TASKS,
            initializer=_start_process,
            initargs=(worker_environment(), self.config.limits.decode_gib, self.config.dicom),
            context=worker_context(__name__),
        )

    def _living(self) -> Any:
        """The pool; a new one where the old one gave up, as pebble does when a process is killed between two files."""
        with self._lock:
            if not self._pool.active and not self._closed:
                self._pool = self._start()
            return self._pool

    @property
    def waiting(self) -> int:
        """Files that are being decoded or wait for it."""
        return self._waiting

    @contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Within the block that many files of one request may be given to `decode`; they are refused all or none.

        Raises RefusedError (503) where too many wait already.
        """
        if self._waiting + count > self.config.limits.decode_queue:
            raise overloaded(f"{self._waiting} files wait to be decoded", "decode_queue")
        self._waiting += count
        try:
            yield
        finally:
            self._waiting -= count

    async def decode(self, data: bytes) -> StoredView:
        """The view of one file, as ingest would store it.

        Raises DicomError, with DECODER_CRASHED where the process died or took too long; RefusedError (503) where the
        file waits for too long.
        """
        if not (is_dicom(data[:132]) or data.startswith(PICTURES)):
            raise DicomError("NOT_PICTURE", "its first bytes are of another kind of file")
        limits = self.config.limits
        try:
            async with asyncio.timeout(limits.inference_s + limits.decode_s):
                result = await self._result(data)
        except TimeoutError:
            raise overloaded("no process decoded this file in time", "inference_s", 5) from None
        if isinstance(result, StoredView):
            return result
        raise DicomError(*result)

    async def _result(self, data: bytes) -> StoredView | tuple[str, str]:
        """What `decode_file` gives in a process, tried once more where the pool has given up."""
        from pebble import ProcessExpired

        limits = self.config.limits
        arguments = (data, self.config.dicom, self.config.stored, limits.megapixels)
        for is_last in (False, True):
            try:
                task = self._living().schedule(decode_file, arguments, timeout=limits.decode_s)
                return await asyncio.wrap_future(task)
            except TimeoutError:
                return "DECODER_CRASHED", f"no answer within {limits.decode_s:g} s"
            except ProcessExpired:
                return "DECODER_CRASHED", "the decoder ended"
            except (BrokenProcessPool, RuntimeError):
                if is_last:
                    break
        return "DECODER_CRASHED", "the decoder ended"

    async def alive(self) -> bool:
        """Whether processes can be given work."""
        return bool(self._living().active)

    def close(self) -> None:
        """Kills the processes."""
        with self._lock:
            self._closed = True
            self._pool.stop()
            self._pool.join()


def decode_file(
    data: bytes, dicom: DicomConfig, stored: ShardConfig, megapixels: float
) -> StoredView | tuple[str, str]:
    """Runs in a process: the view, or the code and detail of a DicomError; never an exception, whose text may quote."""
    try:
        view = file_view(data, dicom, stored, megapixels)
        return replace(view, facts={})
    except DicomError as error:
        return error.code, error.detail
    except MemoryError:
        return "DECODE_FAILED", f"it needs {MEMORY}"
    except Exception as error:  # headers lie in ways nobody foresaw
        return "DECODE_FAILED", type(error).__name__


def _start_process(environment: dict[str, str], memory_gib: float, dicom: DicomConfig) -> None:
    """Runs first in each process. dicom: with `search_text` decided; networks are loaded before memory is limited."""
    silence_output()
    if dicom.search_text != "none":
        load_networks()
    prepare_worker(environment, memory_gib)
