"""Zip, tar and tar.gz: every file in them is read as if it lay on disk, and nothing malicious does harm."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.platform.ingest.packing import add, pack, zipped
from vetdino.platform.archive import containers as module
from vetdino.platform.archive.containers import Member, MemberReader, UnpackedFile, kind_of, members
from vetdino.platform.core.errors import DicomError

KINDS = ("zip", "tar", "tgz")

FILES = {"b/2": b"two" * 999, "a": b"", "c.dcm": bytes(range(256)) * 40}


def listed(path: Path) -> list[Member]:
    """What is in a container, by its content alone."""
    kind = kind_of(path.read_bytes()[:512])
    assert kind in KINDS
    return list(members(path, kind))


def codes(path: Path) -> dict[str, str]:
    """Name -> code; the empty name is the container's."""
    return {member.name: member.code for member in listed(path)}


def _damage(reader: MemberReader, path: Path, member: Member) -> str:
    """The code of the error of a member that is not read, empty where it is."""
    try:
        reader.read(path, member)
    except DicomError as error:
        return error.code
    return ""


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yields a list that holds the most bytes that Python took inside of the block, once it is left."""
    peak: list[int] = []
    tracemalloc.start()
    try:
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@pytest.fixture
def packed(tmp_path):
    return lambda kind: pack(tmp_path / "x", FILES, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_in_a_container_is_read_in_any_order(packed, kind):
    path = packed(kind)
    found = listed(path)
    assert [(member.name, member.kind, member.size) for member in found] == [
        (name, kind, len(content)) for name, content in FILES.items()
    ]
    reader = MemberReader()
    for order in (found, found[::-1]):
        assert {member.name: reader.read(path, member) for member in order} == FILES


def test_a_folder_is_no_file_and_a_leading_dot_no_part_of_a_name(tmp_path):
    with tarfile.open(tmp_path / "x", "w") as tar:
        folder = tarfile.TarInfo("./a")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        add(tar, tarfile.TarInfo("./a/1"), b"one")
    assert codes(tmp_path / "x") == {"a/1": ""}
    (tmp_path / "y").write_bytes(zipped([("a/", b""), ("a/1", b"one")]))
    assert codes(tmp_path / "y") == {"a/1": ""}


def test_a_tgz_read_in_order_is_unpacked_once_and_in_any_order_not_from_its_start(tmp_path):
    random = np.random.default_rng(0)
    files = {f"{number:02}": random.bytes(3_000_000) for number in range(40)}
    path = pack(tmp_path / "x", files, "tgz")
    found = listed(path)
    read: list[int] = []

    class CountedFile(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            read.append(size)
            return super().read(size)

    unpacked = UnpackedFile(CountedFile(path.read_bytes()))

    def cost(members: list[Member]) -> float:
        """Bytes of the file that were read, in parts of it; a read takes 65,536."""
        read.clear()
        for member in members:
            unpacked.seek(member.offset)
            assert unpacked.read(member.size) == files[member.name]
        return len(read) * 65_536 / path.stat().st_size

    assert cost(found) < 1.02
    assert cost([found[number] for number in (38, 2, 30, 7)]) < 1.0  # 4 files, and 16 MB before each at most
    assert cost([found[-1]]) < 0.2


def test_a_gzip_of_several_parts_and_padding_is_one_file():
    data = gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b"two") + bytes(600)
    unpacked = UnpackedFile(io.BytesIO(data))
    assert (unpacked.read(4), unpacked.read(99), unpacked.read(1)) == (b"onet", b"wo", b"")
    unpacked.seek(2)
    assert unpacked.read(2) == b"et"
    for length in range(1, 20):
        cut = UnpackedFile(io.BytesIO(data[:length]))
        with pytest.raises(EOFError):
            cut.read(3) and cut.read(1)
    with pytest.raises(zlib.error):
        UnpackedFile(io.BytesIO(gzip.compress(b"one") + b"junk")).read(9)


def test_few_states_of_a_long_file_are_remembered(monkeypatch):
    monkeypatch.setattr(UnpackedFile, "MARKS", 4)
    text = np.random.default_rng(1).bytes(50_000)
    unpacked = UnpackedFile(io.BytesIO(gzip.compress(text)))
    unpacked._distance = 1000
    for place in (49_000, 3, 20_000, 49_999, 20_000, 0):
        unpacked.seek(place)
        assert unpacked.read(700) == text[place : place + 700]
        assert len(unpacked._marks) <= 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_container_never_lies_in_memory(tmp_path, kind):
    random = np.random.default_rng(0)
    path = pack(tmp_path / "x", {f"{number}": random.bytes(1_000_000) for number in range(24)}, kind)
    with peak_memory() as peak:
        reader = MemberReader()
        assert sum(len(reader.read(path, member)) for member in members(path, kind)) == 24_000_000
    assert peak[0] < 6_000_000


def test_what_is_no_container_is_none():
    for head in (b"", b"PK", b"hello" * 200, bytes(512), b"\x1f\x8b", bytes(128) + b"DICM" + bytes(380)):
        assert kind_of(head) == ""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        add(writer, tarfile.TarInfo("x"), b"1")
    head = bytearray(tar.getvalue()[:512])
    assert kind_of(bytes(head)) == "tar"
    head[128:132] = b"DICM"  # a DICOM file may begin with anything
    assert kind_of(bytes(head)) == ""
    old = bytearray(tar.getvalue()[:512])
    old[257:265] = bytes(8)
    old[148:156] = b" " * 8
    old[148:155] = b"%06o\0" % sum(old)
    assert kind_of(bytes(old)) == "tar"  # older than the mark, known by its checksum


def test_a_name_breaks_no_table(tmp_path):
    pack(tmp_path / "x", {"a\nb": b"1"}, "tar")
    assert codes(tmp_path / "x") == {"a?b": ""}


def a_member(name: str = "x", **values: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(member, key, value)
    return member


UNSAFE_TAR_MEMBERS = {
    "../x": a_member("../x"),
    "a/../../x": a_member("a/../../x"),
    "..\\x": a_member("..\\x"),
    "/etc/passwd": a_member("/etc/passwd"),
    "C:\\x": a_member("C:\\x"),
    "symlink": a_member("symlink", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard": a_member("hard", type=tarfile.LNKTYPE, linkname="good"),
    "null": a_member("null", type=tarfile.CHRTYPE),
    "disk": a_member("disk", type=tarfile.BLKTYPE),
    "pipe": a_member("pipe", type=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_devices_and_names_that_lead_out_are_refused(tmp_path, mode):
    with tarfile.open(tmp_path / "x", mode) as tar:
        for member in UNSAFE_TAR_MEMBERS.values():
            add(tar, member)
        add(tar, a_member("good"), b"good")
    expected = dict.fromkeys(UNSAFE_TAR_MEMBERS, "UNSAFE_MEMBER")
    assert codes(tmp_path / "x") == {**expected, "good": ""}


def test_links_devices_and_names_that_lead_out_of_a_zip_are_refused(tmp_path):
    names = [name for name, member in UNSAFE_TAR_MEMBERS.items() if member.isreg()]
    files = [(name, b"x") for name in names]
    for name, mode in {"symlink": stat.S_IFLNK, "null": stat.S_IFCHR}.items():
        info = zipfile.ZipInfo(name)
        info.external_attr = (mode | 0o777) << 16
        files.append((info, b"/etc/passwd"))
    (tmp_path / "x").write_bytes(zipped([*files, ("good", b"good")]))
    assert codes(tmp_path / "x") == {
        **dict.fromkeys([*names, "symlink", "null"], "UNSAFE_MEMBER"),
        "good": "",
    }
    with pytest.raises(DicomError, match="UNSAFE_MEMBER"):
        MemberReader().read(tmp_path / "x", listed(tmp_path / "x")[0])


def test_a_sparse_file_is_refused(tmp_path):
    member = a_member("sparse", type=tarfile.GNUTYPE_SPARSE, size=0)
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[386:398], head[398:410], head[483:495] = b"00000000000\0", b"00000000000\0", b"00000001000\0"
    head[148:156] = b" " * 8
    head[148:155] = b"%06o\0" % sum(head)
    (tmp_path / "x").write_bytes(bytes(head) + bytes(1024))
    assert [(member.code, member.detail) for member in listed(tmp_path / "x")] == [
        ("UNSAFE_MEMBER", "a sparse file")
    ]


def test_an_encrypted_zip_is_refused(tmp_path):
    data = bytearray(zipped([("x", b"secret")]))
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + place] |= 1
    (tmp_path / "x").write_bytes(bytes(data))
    assert codes(tmp_path / "x") == {"x": "ENCRYPTED"}


def test_another_compression_of_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_LZMA) as container:
        container.writestr("x", b"x" * 99)
    assert [(member.code, member.detail) for member in listed(tmp_path / "x")] == [
        ("UNSUPPORTED_CONTAINER", "zip compression 14")
    ]


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_a_bomb_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(module, "RATIO_FREE", 1 << 20)
    path = pack(tmp_path / "x", {"small": b"s", "bomb": bytes(40 << 20), "last": b"l"}, kind)
    found = codes(path)
    assert found[""] == "OVERSIZED_MEMBER"
    assert "bomb" not in found or kind == "tgz"


def test_one_entry_that_is_a_bomb_costs_only_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RATIO_FREE", 1 << 20)
    path = tmp_path / "x"
    with zipfile.ZipFile(path, "w") as container:
        container.writestr("bomb", bytes(8 << 20), zipfile.ZIP_DEFLATED, 9)
        container.writestr("stored", bytes(8 << 20))
    assert codes(path) == {"bomb": "OVERSIZED_MEMBER", "stored": ""}


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_above_the_limit_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(module, "MEMBER_LIMIT", 1000)
    path = pack(tmp_path / "x", {"large": b"l" * 1001, "fits": b"f" * 1000}, kind)
    assert codes(path) == {"large": "OVERSIZED_MEMBER", "fits": ""}


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_entries_are_refused_and_the_first_are_read(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(module, "MEMBERS_LIMIT", 3)
    path = pack(tmp_path / "x", {str(number): b"x" for number in range(5)}, kind)
    assert codes(path) == {"0": "", "1": "", "2": "", "": "OVERSIZED_MEMBER"}


def test_entries_of_a_zip_that_lie_over_each_other_are_refused(tmp_path):
    """The densest bomb: a thousand names for the same bytes."""
    data = zipped([("a", b"x" * 500), ("b", b"x" * 500)])
    start = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", start + 1)
    broken = bytearray(data)
    broken[second + 42 : second + 46] = struct.pack("<I", 10)
    (tmp_path / "x").write_bytes(bytes(broken))
    assert codes(tmp_path / "x") == {"a": "", "b": "DAMAGED_CONTAINER"}


def test_a_zip_that_hides_more_than_it_says_is_never_unpacked_whole(tmp_path):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as container:
        container.writestr("x", bytes(50 << 20))
    lying = bytearray(data.getvalue())
    place = lying.index(b"PK\x01\x02") + 24
    lying[place : place + 4] = struct.pack("<I", 1000)
    (tmp_path / "x").write_bytes(bytes(lying))
    [member] = listed(tmp_path / "x")
    with peak_memory() as peak, pytest.raises(DicomError, match="another size"):
        MemberReader().read(tmp_path / "x", member)
    assert peak[0] < 2_000_000


def test_a_header_of_a_tar_that_would_fill_the_memory_is_refused(tmp_path):
    bomb = a_member("x", type=tarfile.XHDTYPE, size=1 << 40)
    with gzip.open(tmp_path / "x", "wb") as file:
        file.write(bomb.tobuf(tarfile.USTAR_FORMAT if bomb.size < 8**11 else tarfile.GNU_FORMAT))
        file.write(bytes(4 << 20))
    assert codes(tmp_path / "x") == {"": "OVERSIZED_MEMBER"}


def test_a_negative_size_ends_and_does_not_loop(tmp_path):
    member = a_member("x")
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512
    head[148:156] = b" " * 8
    head[148:155] = b"%06o\0" % sum(head)
    (tmp_path / "x").write_bytes(bytes(head) * 3 + bytes(1024))
    assert codes(tmp_path / "x").get("") == "DAMAGED_CONTAINER"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_whole_in_a_truncated_container_is_read(tmp_path, kind):
    random = np.random.default_rng(0)
    files = {str(number): random.bytes(40_000) for number in range(8)}
    path = pack(tmp_path / "x", files, kind)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    found = listed(path)
    assert found[-1].name == ""
    assert found[-1].code == "DAMAGED_CONTAINER"
    reader = MemberReader()
    whole = [member.name for member in found[:-1] if not _damage(reader, path, member)]
    assert whole == ["0", "1", "2", "3"]
    assert all(reader.read(path, found[int(name)]) == files[name] for name in whole)


def test_a_damaged_header_in_a_tar_is_not_taken_for_its_end(tmp_path):
    path = pack(tmp_path / "x", {str(number): b"x" * 700 for number in range(5)}, "tar")
    data = bytearray(path.read_bytes())
    data[512 * 3 * 2 + 1] ^= 255
    path.write_bytes(bytes(data))
    assert codes(path) == {"0": "", "1": "", "": "DAMAGED_CONTAINER"}
    pack(path, {"1": b"x"}, "tar")
    path.write_bytes(path.read_bytes() * 2)  # `cat a.tar a.tar`
    assert codes(path) == {"1": "", "": "DAMAGED_CONTAINER"}


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_a_changed_byte_is_noticed(tmp_path, kind):
    path = pack(tmp_path / "x", {"x": bytes(range(256)) * 40}, kind)
    data = bytearray(path.read_bytes())
    data[60 if kind == "zip" else -6] ^= 1
    path.write_bytes(bytes(data))
    found = listed(path)
    if kind == "tgz":
        assert found[-1].code == "DAMAGED_CONTAINER"
    else:
        with pytest.raises(DicomError, match="DAMAGED_CONTAINER"):
            MemberReader().read(path, found[0])


def test_a_gzip_without_a_tar_and_an_empty_zip_are_refused(tmp_path):
    (tmp_path / "x").write_bytes(gzip.compress(b"notes"))
    assert codes(tmp_path / "x") == {"": "UNSUPPORTED_CONTAINER"}
    (tmp_path / "y").write_bytes(zipped([]))
    assert codes(tmp_path / "y") == {"": "DAMAGED_CONTAINER"}


def test_an_office_document_is_one_file_that_is_no_dicom(tmp_path):
    (tmp_path / "x").write_bytes(zipped([("[Content_Types].xml", b"<x/>"), ("word/document.xml", b"Rex")]))
    assert codes(tmp_path / "x") == {"": "NOT_DICOM"}


def test_a_container_that_changed_since_it_was_listed_is_noticed(tmp_path):
    for kind in KINDS:
        path = pack(tmp_path / kind, FILES, kind)
        [*_, last] = listed(path)
        pack(path, {"other": b"o"}, kind)
        with pytest.raises(DicomError, match="DAMAGED_CONTAINER"):
            MemberReader().read(path, last)
