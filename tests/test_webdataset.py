"""Shards are plain WebDataset: other readers see in them what ours sees, and ours reads what other writers made."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.platform.data.written import a_study, written
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.manifest import VERSION, Manifest, Shard, load_manifest, save_manifest
from vetdino.platform.data.samples import sample_files
from vetdino.platform.data.shards import read
from vetdino.platform.data.study import Study

pytestmark = [
    pytest.mark.slow,
    # What Ray says of settings that it reads itself when it copies them.
    pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning"),
    # webdataset leaves the tar that it reads open until it is collected.
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]

ENCODINGS = typing.get_args(typing.get_type_hints(ShardConfig)["encoding"])


@pytest.fixture(params=ENCODINGS)
def folder(request, tmp_path) -> Path:
    """Twelve studies of one to three views in several shards, in each of our encodings."""
    written(tmp_path, 12, ShardConfig(encoding=request.param, max_bytes=10_000))
    assert len(load_manifest(tmp_path).shards) > 1
    return tmp_path


def paths_of(folder: Path) -> list[str]:
    return [str(folder / shard.path) for shard in load_manifest(folder).of("train")]


def files_of(study: Study) -> dict[str, bytes]:
    """Name -> content of a study's files as in its shard."""
    return dict(sample_files(study, ShardConfig()))


def pixels_of(study: Study, bits: typing.Literal[8, 16] = 8) -> list[np.ndarray]:
    return [view.decode(bits).pixels for view in study.views]


# Others read ours -----------------------------------------------------------------------------------------


def samples_of(paths: Sequence[str], *decoder: object) -> list[dict]:
    """The samples of a WebDataset, decoded or not."""
    import webdataset

    dataset = webdataset.WebDataset(list(paths), shardshuffle=False, empty_check=False)
    return list(dataset.decode(*decoder) if decoder else dataset)


def test_webdataset_has_our_keys_and_bytes_in_our_order(folder):
    ours = list(read(folder, "train"))
    theirs = samples_of(paths_of(folder))
    assert [sample["__key__"] for sample in theirs] == [study.key for study in ours]
    for study, sample in zip(ours, theirs, strict=True):
        found = {f"{study.key}.{name}": content for name, content in sample.items() if name[0] != "_"}
        assert found == files_of(study)


def test_pictures_that_webdataset_and_pillow_decode_are_ours(folder, request):
    if request.node.callspec.params["folder"] == "png16":
        pytest.skip("webdataset's handler for Pillow cuts 16 bits off at 255; OpenCV's and Ray's do not")
    for study, sample in zip(read(folder, "train"), samples_of(paths_of(folder), "pil"), strict=True):
        record = sample["json"]
        assert (record["key"], record["patient"]) == (study.key, study.patient)
        for view, pixels in zip(record["views"], pixels_of(study), strict=True):
            assert np.array_equal(np.asarray(sample[view["file"]].convert("L")), pixels)


def test_pictures_that_a_pipeline_with_opencv_decodes_are_ours(folder):
    import webdataset

    def grey(content: bytes) -> np.ndarray:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)

    handlers = [webdataset.handle_extension("jpg png", grey)]
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(paths_of(folder)),
        webdataset.tarfile_to_samples(),
        webdataset.decode(*handlers),
    )
    for study, sample in zip(read(folder, "train"), pipeline, strict=True):
        pictures = [sample[name] for name in sorted(sample) if name.startswith("view")]
        assert len(pictures) == len(study.views)
        assert all(map(np.array_equal, pictures, pixels_of(study)))


@pytest.fixture(scope="module")
def ray_data() -> Iterator[typing.Any]:
    import ray
    import ray.data

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray.data
    ray.shutdown()


def test_ray_data_has_our_keys_bytes_and_pictures(folder, ray_data):
    ours = list(read(folder, "train"))
    raw, decoded = (
        {
            row["__key__"]: row
            for row in ray_data.read_webdataset(paths_of(folder), decoder=decoder).iter_rows()
        }
        for decoder in (None, True)
    )
    assert sorted(raw) == sorted(decoded) == sorted(study.key for study in ours)
    for study in ours:
        row, files = raw[study.key], files_of(study)
        # Of a view that other studies of the block have and this one has not, Ray makes NaN.
        held = {name for name, content in row.items() if name[0] != "_" and isinstance(content, bytes)}
        assert {f"{study.key}.{name}" for name in held} == set(files)
        assert all(row[name] == files[f"{study.key}.{name}"] for name in held)
        names = [name.partition(".")[2] for name in files][1:]
        pictures = [decoded[study.key][name] for name in names]
        bits: typing.Literal[8, 16] = 16 if pictures[0].dtype == np.uint16 else 8
        assert all(map(np.array_equal, pictures, pixels_of(study, bits)))


# Ours reads others ----------------------------------------------------------------------------------------


def sample_of(study: Study, config: ShardConfig | None = None) -> dict[str, object]:
    """A study as webdataset's writers take it."""
    files = sample_files(study, config or ShardConfig())
    return {"__key__": study.key} | {name.partition(".")[2]: content for name, content in files}


def listed(folder: Path, studies: int, views: int) -> Path:
    """A manifest for the tars that another writer left in a folder."""
    shards = tuple(
        Shard(
            path.name,
            "train",
            studies,
            views,
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.glob("*.tar"))
    )
    save_manifest(folder, Manifest(VERSION, "theirs", ("effusion", "mass"), shards, {}, "0" * 64))
    return folder


def same(one: Study, two: Study) -> bool:
    return files_of(one) == files_of(two)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_webdatasets_shard_writer_wrote_in_our_layout_is_read_in_order_and_by_row(tmp_path, encoding):
    import webdataset

    studies = [a_study(number, views=12 if number == 1 else 2) for number in range(6)]
    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=3, verbose=0) as writer:
        for study in studies:
            writer.write(sample_of(study, ShardConfig(encoding=encoding)))
    folder = listed(tmp_path, 3, 12)
    config = ShardConfig(encoding=encoding)
    expected = [dict(sample_files(study, config)) for study in studies]
    assert [files_of(study) for study in read(folder, "train")] == expected
    index = StudyIndex(folder, "train")
    assert [files_of(index.load(row)) for row in (5, 0, 1)] == [expected[5], expected[0], expected[1]]


def test_json_that_webdataset_encodes_reads_alike(tmp_path):
    import webdataset

    study = a_study(1)
    sample = sample_of(study)
    sample["json"] = json.loads(typing.cast(bytes, sample["json"]))
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write(sample)
    [found] = read(listed(tmp_path, 1, 2), "train")
    assert same(found, study)


FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}


def tar_of(
    path: Path, files: Sequence[tuple[str, bytes]], kind: str = "ustar", **pax: Mapping[str, str]
) -> None:
    """A tar of files in this order. pax: headers of each member."""
    with tarfile.open(path, "w", format=FORMATS[kind], pax_headers={"comment": "of the whole"}) as tar:
        for name, content in files:
            header = tarfile.TarInfo(name)
            header.size, header.pax_headers = len(content), dict(pax)
            tar.addfile(header, io.BytesIO(content))


@pytest.mark.parametrize("kind", FORMATS)
def test_any_order_inside_a_sample_and_any_header_is_read(tmp_path, kind):
    studies = [a_study(number, views=3) for number in range(4)]
    files = []
    for number, study in enumerate(studies):
        of_sample = sample_files(study, ShardConfig())
        files += of_sample[number:] + of_sample[:number]
    headers = {"comment": "ä" * 600, "mtime": "1700000000.25"} if kind == "pax" else {}
    tar_of(tmp_path / "a.tar", files, kind, **headers)
    folder = listed(tmp_path, 4, 3)
    assert all(map(same, read(folder, "train"), studies))
    index = StudyIndex(folder, "train")
    assert all(same(index.load(row), studies[row]) for row in (3, 1, 0, 2))


def test_keys_longer_than_a_header_and_in_a_folder_are_read(tmp_path):
    study = replace(a_study(1), key="f" * 60 + "/" + "e" * 120)
    for kind in ("pax", "gnu"):
        (tmp_path / kind).mkdir()
        tar_of(tmp_path / kind / "a.tar", sample_files(study, ShardConfig()), kind)
        folder = listed(tmp_path / kind, 1, 2)
        assert same(StudyIndex(folder, "train").load(0), study)
        assert all(same(found, study) for found in read(folder, "train"))


def refused(folder: Path) -> list[str]:
    """What reading in order and by row say."""
    said = []
    for reading in (lambda: list(read(folder, "train")), lambda: StudyIndex(folder, "train").load(0)):
        with pytest.raises(ShardError) as error:
            reading()
        said.append(str(error.value))
    return said


def test_a_sample_whose_files_lie_apart_is_refused(tmp_path):
    one, two = (sample_files(a_study(number), ShardConfig()) for number in (1, 2))
    tar_of(tmp_path / "a.tar", [*one[:2], *two, *one[2:]])
    for said in refused(listed(tmp_path, 2, 2)):
        assert "a.tar" in said
        assert os.linesep not in said


def test_a_sample_without_json_or_of_another_layout_is_refused(tmp_path):
    files = sample_files(a_study(1), ShardConfig())
    for name, members in {
        "none": files[1:],
        "foreign": [("cat.jpg", files[1][1]), ("cat.cls", b"3")],
        "short": files[:-1],
    }.items():
        (tmp_path / name).mkdir()
        tar_of(tmp_path / name / "a.tar", members)
        for said in refused(listed(tmp_path / name, 1, 1)):
            assert "a.tar" in said
            assert "it lacks" in said


def test_json_that_names_another_study_than_its_file_is_refused(tmp_path):
    files = [
        (name.replace(name.partition(".")[0], "0" * 24), content)
        for name, content in sample_files(a_study(1), ShardConfig())
    ]
    tar_of(tmp_path / "a.tar", files)
    for said in refused(listed(tmp_path, 1, 2)):
        assert "its JSON names another study" in said


def test_a_compressed_tar_is_refused(tmp_path):
    import webdataset

    with open(tmp_path / "a.tar", "wb") as file, closing(webdataset.TarWriter(file, compress=True)) as writer:
        writer.write(sample_of(a_study(1)))
    for said in refused(listed(tmp_path, 1, 2)):
        assert "not a whole tar" in said
