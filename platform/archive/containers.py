"""Files inside of zip, tar and tar.gz files, read where they lie: nothing is ever extracted to disk.

`members` lists a container, `MemberReader` reads one file of it. A container is recognized by its content. Its names
and sizes may lie: sizes, their sum, the number of members and the ratio of compression are bounded, a link or a name
that leads out of the container is refused, and damage costs what lies behind it only. Every member that is no folder
is listed, with a reason code where it is not read.
"""

from __future__ import annotations

import io
import math
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from ..core.errors import DicomError
from ..dicom.header import PIXEL_BYTES_LIMIT

HEAD = 512
"""Bytes at a file's start that tell what it is: a tar's first header."""

MEMBER_LIMIT = PIXEL_BYTES_LIMIT + (64 << 20)
"""Bytes of one member: the most pixels that a header may promise, and what stands before them."""

MEMBERS_LIMIT = 1_000_000
"""Entries of one container; also bounds the memory of a zip's directory."""

RATIO_LIMIT = 200
"""Bytes that one compressed byte may become; a picture reaches 20, deflate of zeros 1,032."""

RATIO_FREE = 16 << 20
"""Bytes that may be compressed to any ratio: a small constant picture is no bomb."""

DIRECTORY_LIMIT = 64 << 20
"""Bytes of a zip's directory."""

UNPACKED_LIMIT = 32 << 30
"""Bytes of a tar.gz when unpacked: it can only be read from front to back, within the time that one file may take."""

HEADER_LIMIT = 1 << 20
"""Bytes of a tar's extended header."""

_GZIP = 16 + zlib.MAX_WBITS

OTHER_MAGIC = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
}
"""First bytes of containers that are not read -> their name."""

OFFICE_NAMES = {"[Content_Types].xml", "mimetype", "META-INF/MANIFEST.MF"}
"""Entries of documents and programs that are zip files: these are one file each, and no picture."""

Kind = Literal["zip", "tar", "tgz"]

Opener = Callable[[], IO[bytes]]


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside of a container, or a reason why it (without a name: something of the container) is not read.

    offset: of its bytes in the container; in a tgz, in the unpacked tar; in a zip, of its local header.
    packed, method, crc: of a zip: bytes as they lie there, how they are compressed (0, 8: deflate), CRC-32.
    """

    name: str
    kind: Kind = "zip"
    offset: int = 0
    size: int = 0
    packed: int = 0
    method: int = 0
    crc: int = 0
    code: str = ""
    detail: str = ""


def kind_of(head: bytes) -> Kind | Literal["other", ""]:
    """What a file that begins with these bytes is: a container, another one that is not read, or none (empty).

    >>> kind_of(b"PK\\x03\\x04"), kind_of(b"Rar!\\x1a\\x07"), kind_of(b"II*\\x00")
    ('zip', 'other', '')
    """
    if head[128:132] == b"DICM":
        return ""
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if head[:3] == b"\x1f\x8b\x08":
        return "tgz"
    if _is_tar(head):
        return "tar"
    return "other" if other_name(head) else ""


def other_name(head: bytes) -> str:
    """The name of a container that is not read, by its first bytes; empty where it is none."""
    return next((name for magic, name in OTHER_MAGIC.items() if head.startswith(magic)), "")


def _is_tar(head: bytes) -> bool:
    """Whether these are a tar's first 512 bytes: by the mark, or the checksum where a tar is older than the mark."""
    if head[257:262] == b"ustar":
        return True
    with suppress(tarfile.HeaderError, ValueError):
        return bool(tarfile.TarInfo.frombuf(head[:HEAD], "utf-8", "surrogateescape").name)
    return False


def check_no_container(head: bytes, is_inside: bool) -> None:
    """Raises DicomError for a container that is not read: one inside of another, or of another kind.

    head: the first bytes of a file that is no DICOM.
    """
    kind = kind_of(head)
    if kind and is_inside:
        raise DicomError("NESTED_CONTAINER", other_name(head) or kind)
    if kind:
        raise DicomError("UNSUPPORTED_CONTAINER", other_name(head) or f"a {kind} whose name does not say so")


def members(path: Path, kind: Kind, open_file: Opener | None = None) -> Iterator[Member]:
    """The files in a container in their order there; damage ends the list with a member that says so.

    open_file: opens the container where it is no file on disk.
    """
    count = 0
    try:
        with open_file() if open_file else open(path, "rb") as file:
            for member in _zip_members(file) if kind == "zip" else _tar_members(file, kind):
                count += 1
                if count > MEMBERS_LIMIT:
                    raise DicomError("OVERSIZED_MEMBER", f"more than {MEMBERS_LIMIT} members")
                yield member
        if not count:
            raise DicomError("DAMAGED_CONTAINER", "it holds no file")
    except DicomError as error:
        yield Member("", kind, code=error.code, detail=error.detail)
    except OSError as error:
        yield Member("", kind, code="UNREADABLE_HEADER", detail=error.strerror or type(error).__name__)
    except Exception as error:  # a damaged container can raise anything
        yield Member("", kind, code="DAMAGED_CONTAINER", detail=_reason(error))


def _reason(error: Exception) -> str:
    """What is wrong with a container, without the names in it, which the libraries' messages quote."""
    truncated = isinstance(error, EOFError) or "unexpected end" in str(error)
    return "it ends too early" if truncated else type(error).__name__


def _checked(member: Member, packed: int) -> Member:
    """The member, with a code where its name or its size forbid to read it."""
    name = member.name.replace("\\", "/")
    code, detail = member.code, member.detail
    if code:
        pass
    elif name.startswith("/") or name[1:2] == ":":
        code, detail = "UNSAFE_MEMBER", "an absolute name"
    elif ".." in name.split("/"):
        code, detail = "UNSAFE_MEMBER", "a name that leads out of the container"
    elif member.size > MEMBER_LIMIT:
        code, detail = "OVERSIZED_MEMBER", f"{member.size} bytes, the limit is {MEMBER_LIMIT}"
    elif member.size > RATIO_FREE + RATIO_LIMIT * packed:
        code, detail = "OVERSIZED_MEMBER", f"{packed} bytes that become {member.size}"
    return replace(member, name=printable(member.name) or "?", code=code, detail=detail)


def printable(name: str) -> str:
    """A name without characters that would break a line or a table.

    >>> printable("a\\0b/c")
    'a?b/c'
    """
    return "".join(character if character >= " " and character != "\x7f" else "?" for character in name)


class UnpackedFile(io.RawIOBase):
    """What a gzip file holds, to be read at any place.

    Going forward unpacks what lies between. So that going back need not begin at the start, the state of unpacking is
    remembered at up to MARKS places, 32 KiB each, at growing distances. Reading raises EOFError or zlib.error where the
    file is damaged.
    """

    MARKS = 256

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._distance = 16 << 20
        self._place = self._position = 0
        """Bytes unpacked so far; where the file goes on."""
        self._packed = b""
        self._unpacker = zlib.decompressobj(_GZIP)
        self._is_begun = False
        self._marks = [self._mark()]

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        assert not whence, "only the distance from the start is known"
        place, *state = [mark for mark in self._marks if mark[0] <= offset][-1]
        if not place <= self._place <= offset:
            self._place, (unpacker, self._packed, self._position, self._is_begun) = place, state
            self._unpacker = unpacker.copy()
        while self._place < offset and self._unpack(min(offset - self._place, 1 << 20)):
            pass
        return self._place

    def read(self, size: int = -1) -> bytes:
        assert size >= 0, "all of it may be too much"
        parts = []
        while size and (part := self._unpack(min(size, 1 << 20))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _unpack(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end of the file."""
        while True:
            if not self._packed:
                self._file.seek(self._position)
                self._packed = self._file.read(1 << 16)
                self._position += len(self._packed)
            if not self._packed and not self._is_begun:
                return b""
            unpacked = self._unpacker.decompress(self._packed, size)
            is_end = not self._packed and not unpacked
            self._packed, self._is_begun = self._unpacker.unconsumed_tail, True
            if self._unpacker.eof:  # another gzip file may follow, after zeros that fill a block
                self._packed = self._unpacker.unused_data.lstrip(b"\0")
                self._unpacker, self._is_begun = zlib.decompressobj(_GZIP), False
            elif is_end:
                raise EOFError("unexpected end")
            if unpacked:
                self._place += len(unpacked)
                if self._place >= self._marks[-1][0] + self._distance:
                    self._add_mark()
                return unpacked

    def _mark(self) -> tuple[int, Any, bytes, int, bool]:
        return self._place, self._unpacker.copy(), self._packed, self._position, self._is_begun

    def _add_mark(self) -> None:
        self._marks.append(self._mark())
        if len(self._marks) > self.MARKS:
            self._marks, self._distance = self._marks[::2], 2 * self._distance


class _Guarded(io.RawIOBase):
    """A container as zipfile and tarfile read it: never more than `at_once` bytes at once."""

    def __init__(self, file: IO[bytes] | io.RawIOBase, at_once: int) -> None:
        self._file, self._at_once, self.last = file, at_once, b""

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        if size < 0:  # what is left; zipfile reads a comment so
            here = self.tell()
            size = self.seek(0, 2) - here
            self.seek(here)
        if size > self._at_once:
            raise DicomError(
                "OVERSIZED_MEMBER", f"a header or a directory of more than {self._at_once} bytes"
            )
        self.last = self._file.read(size)
        return self.last


class _Forward(_Guarded):
    """A tar that is read from front to back, and not beyond `limit`: tarfile loops for ever over a negative size."""

    def __init__(self, file: IO[bytes] | io.RawIOBase, limit: float) -> None:
        super().__init__(file, HEADER_LIMIT)
        self._limit = limit

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence or offset < self.tell() - 1:  # tarfile looks at the byte before the next header
            raise DicomError("DAMAGED_CONTAINER", "an impossible size")
        if offset > self._limit:
            raise DicomError(
                "OVERSIZED_MEMBER", f"more than {self._limit} bytes when unpacked; give it as a tar"
            )
        return super().seek(offset)


def _tar_members(file: IO[bytes], kind: Kind) -> Iterator[Member]:
    """The files of a tar, packed by gzip where its kind says so; a link, a device or a sparse file has a code."""
    size = file.seek(0, 2)
    file.seek(0)
    forward = _Forward(file, math.inf)
    if kind == "tgz":
        unpacked = UnpackedFile(file)
        forward = _Forward(unpacked, min(RATIO_FREE + RATIO_LIMIT * size, UNPACKED_LIMIT))
        with suppress(EOFError, zlib.error):
            if not _is_tar(unpacked.read(HEAD)):
                raise DicomError("UNSUPPORTED_CONTAINER", "a gzip that holds no tar")
        unpacked.seek(0)
    with tarfile.open(fileobj=forward, mode="r:", errors="surrogateescape") as tar:
        while (info := tar.next()) is not None:
            for kept in ("members", "pax_headers"):  # else all of them stay in memory
                vars(tar)[kept].clear()
            if not info.isdir():
                yield _checked(_tar_member(info, kind), packed=info.size)
    _check_end_of_tar(forward)


def _tar_member(info: tarfile.TarInfo, kind: Kind) -> Member:
    detail = ""
    if info.issym() or info.islnk():
        detail = "a link"
    elif info.issparse():
        detail = "a sparse file"
    elif not info.isreg():
        detail = "a device"
    code = "UNSAFE_MEMBER" if detail else ""
    return Member(info.name.removeprefix("./"), kind, info.offset_data, info.size, code=code, detail=detail)


def _check_end_of_tar(file: _Forward) -> None:
    """Raises DicomError where a tar does not end with zeros: tarfile takes a damaged header for the end."""
    is_end = not file.last.strip(b"\0")
    while is_end and (chunk := file.read(1 << 16)):
        is_end = not chunk.strip(b"\0")
    if not is_end:
        raise DicomError("DAMAGED_CONTAINER", "what follows its last member is no member")


def _zip_members(file: IO[bytes]) -> Iterator[Member]:
    """The files of a zip by its directory; where that is lost, by what stands before each file."""
    size = file.seek(0, 2)
    file.seek(0)
    try:
        with zipfile.ZipFile(_Guarded(file, DIRECTORY_LIMIT)) as container:  # type: ignore[arg-type]
            infos = sorted(container.infolist(), key=lambda info: info.header_offset)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, UnicodeDecodeError):
        yield from _members_without_directory(file)
        raise DicomError("DAMAGED_CONTAINER", "its directory is missing or damaged") from None
    if OFFICE_NAMES & {info.filename for info in infos[:8]}:
        raise DicomError("NOT_DICOM", "an office document or a program")
    if sum(info.file_size for info in infos) > RATIO_FREE + RATIO_LIMIT * size:
        raise DicomError("OVERSIZED_MEMBER", f"more than {RATIO_LIMIT} times its size when unpacked")
    end = 0
    for info in infos:
        overlaps = info.header_offset < end
        end = max(end, info.header_offset + 30 + info.compress_size)
        if info.is_dir() and not info.file_size:
            continue
        code, detail = _zip_code(info.external_attr >> 16, info.flag_bits, info.compress_type)
        if overlaps or end > size:
            code, detail = (
                "DAMAGED_CONTAINER",
                "it lies where another member lies" if overlaps else "it is cut off",
            )
        yield _checked(
            Member(
                info.filename,
                "zip",
                info.header_offset,
                info.file_size,
                info.compress_size,
                info.compress_type,
                info.CRC,
                code,
                detail,
            ),
            packed=info.compress_size,
        )


def _zip_code(mode: int, flags: int, method: int) -> tuple[str, str]:
    """(code, detail) of a member that is not read by its file mode, flags or compression; empty where it is."""
    if stat.S_ISLNK(mode):
        return "UNSAFE_MEMBER", "a link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "UNSAFE_MEMBER", "a device"
    if flags & 0x1:
        return "ENCRYPTED", ""
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "UNSUPPORTED_CONTAINER", f"zip compression {method}"
    return "", ""


_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


def _local_header(file: IO[bytes], offset: int) -> tuple[int, int, int, int, int, bytes, int]:
    """(flags, method, crc, packed, size, name, where its bytes begin) of a zip's member. Raises DicomError."""
    file.seek(offset)
    head = file.read(_LOCAL_HEADER.size)
    if len(head) < _LOCAL_HEADER.size or head[:4] != b"PK\x03\x04":
        raise DicomError("DAMAGED_CONTAINER", "no member where the directory says")
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL_HEADER.unpack(head)
    name = file.read(name_length)
    return flags, method, crc, packed, size, name, offset + len(head) + name_length + extra_length


def _members_without_directory(file: IO[bytes]) -> Iterator[Member]:
    """The whole files of a zip whose directory at the end is lost, until one does not tell its size."""
    total, offset = file.seek(0, 2), 0
    while offset < total:
        try:
            flags, method, crc, packed, size, name, start = _local_header(file, offset)
        except DicomError:
            return
        if flags & 0x8 or start + packed > total:
            return
        code, detail = _zip_code(0, flags, method)
        text = name.decode("utf-8" if flags & 0x800 else "cp437", "surrogateescape")
        if not text.endswith("/"):
            yield _checked(Member(text, "zip", offset, size, packed, method, crc, code, detail), packed)
        offset = start + packed


class MemberReader:
    """Reads members. The last few containers stay open, since a tgz has to be unpacked up to what is read."""

    OPEN = 4

    def __init__(self) -> None:
        self._files: dict[Path, tuple[IO[bytes], IO[bytes] | UnpackedFile]] = {}

    def read(self, path: Path, member: Member, open_file: Opener | None = None) -> bytes:
        """The bytes of a member of the container at a path, or in what `open_file` opens.

        Raises DicomError with the member's code or DAMAGED_CONTAINER, OSError.
        """
        if member.code:
            raise DicomError(member.code, member.detail)
        file = self._opened(path, member, open_file)
        try:
            return _zip_bytes(file, member) if member.kind == "zip" else _plain_bytes(file, member)
        except (EOFError, zlib.error) as error:
            raise DicomError("DAMAGED_CONTAINER", _reason(error)) from None

    def _opened(self, path: Path, member: Member, open_file: Opener | None) -> Any:
        if path not in self._files:
            while len(self._files) >= self.OPEN:
                self._files.pop(next(iter(self._files)))[0].close()
            file = open_file() if open_file else open(path, "rb")  # noqa: SIM115  it stays open
            self._files[path] = file, UnpackedFile(file) if member.kind == "tgz" else file
        return self._files[path][1]

    def close(self) -> None:
        """Closes what is open."""
        for file, _ in self._files.values():
            file.close()
        self._files = {}

    def __del__(self) -> None:
        self.close()


def _plain_bytes(file: IO[bytes] | UnpackedFile, member: Member) -> bytes:
    file.seek(member.offset)
    data = file.read(member.size)
    if len(data) < member.size:
        raise DicomError("DAMAGED_CONTAINER", "it ends too early")
    return data


def _zip_bytes(file: IO[bytes], member: Member) -> bytes:
    """The bytes of a zip's member, never more than its directory promises."""
    *_, start = _local_header(file, member.offset)
    file.seek(start)
    packed = file.read(member.packed)
    if member.method == zipfile.ZIP_STORED:
        data = packed
    else:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        data = unpacker.decompress(packed, member.size) if member.size else b""
        if unpacker.decompress(unpacker.unconsumed_tail, 1):
            raise DicomError("DAMAGED_CONTAINER", "a member of another size than the directory says")
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise DicomError("DAMAGED_CONTAINER", "a member of another size or checksum than the directory says")
    return data
