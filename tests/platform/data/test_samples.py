"""A study becomes files and comes back from them."""

from __future__ import annotations

import io
import math
import tarfile

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tests.platform.data.written import a_study
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.samples import (
    padded_size,
    plain_sample,
    sample_files,
    sample_key,
    stored_view,
    study_from_files,
    tar_samples,
)
from vetdino.platform.data.study import PROJECTIONS, StoredView, Study, View


@settings(max_examples=30, deadline=None)
@given(
    labels=st.dictionaries(st.text(min_size=1), st.sampled_from([0.0, 1.0, 0.5, math.nan]), max_size=4),
    projections=st.lists(st.sampled_from(PROJECTIONS), min_size=1, max_size=9),
    spacing=st.none() | st.tuples(st.floats(1e-3, 10), st.floats(1e-3, 10)),
    facts=st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_a_sample_holds_any_study(labels, projections, spacing, facts):
    jpeg = stored_view(View(np.zeros((8, 8), np.uint8)), ShardConfig()).encoded
    views = tuple(StoredView(jpeg, name, "L", "DX", spacing, facts) for name in projections)
    study = Study("0a1b", "9f", views, labels, "val")
    back = study_from_files(study.key, dict(sample_files(study, ShardConfig())))
    assert sample_files(back, ShardConfig()) == sample_files(study, ShardConfig())
    assert back.views[0].spacing == spacing
    assert {name: repr(value) for name, value in back.labels.items()} == {
        name: repr(value) for name, value in labels.items()
    }


def test_jpeg_at_95_keeps_40_decibels():
    ramp = np.add.outer(np.arange(256), np.zeros(256)).astype(np.uint8)
    view = stored_view(View(ramp), ShardConfig(quality=95)).decode()
    noise = np.mean((view.pixels.astype(float) - ramp) ** 2)
    assert 10 * math.log10(255**2 / max(noise, 1e-9)) > 40


@settings(max_examples=60, deadline=None)
@given(
    pixels=hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)),
    depth=st.sampled_from([8, 16]),
)
def test_16_bits_come_back_from_a_png_whoever_reads_it(pixels, depth):
    pixels = pixels if depth == 16 else (pixels >> 8).astype(np.uint8)
    stored = stored_view(View(pixels), ShardConfig(encoding="png16"))
    deep = pixels if depth == 16 else pixels.astype(np.uint16) * 257
    back = stored.decode(16).pixels
    assert back.dtype == np.uint16
    assert np.array_equal(back, deep)
    with Image.open(io.BytesIO(stored.encoded)) as picture:
        assert picture.mode == "I;16"
        assert np.array_equal(np.asarray(picture), deep)
    shallow = stored.decode().pixels
    assert shallow.dtype == np.uint8
    assert np.abs(shallow.astype(float) * 257 - deep).max() <= 128.5
    if depth == 8:
        assert np.array_equal(shallow, pixels)


def test_16_bits_are_read_by_simpleitk(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30), np.uint16)
    (tmp_path / "view.png").write_bytes(stored_view(View(pixels), ShardConfig(encoding="png16")).encoded)
    assert np.array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / "view.png")), pixels)


def test_8_bits_are_stored_of_16_and_16_of_8_where_the_encoding_says_so():
    deep = View(np.array([[0, 128, 129, 65535]], np.uint16))
    assert stored_view(deep, ShardConfig(encoding="png")).decode().pixels.tolist() == [[0, 0, 1, 255]]
    assert stored_view(deep, ShardConfig(encoding="png")).decode(16).pixels.tolist() == [[0, 0, 257, 65535]]
    assert deep.decode(16) is deep
    assert deep.decode().pixels.dtype == np.uint8


def test_png_keeps_every_pixel_and_a_stored_view_is_not_encoded_again():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    stored = stored_view(
        View(pixels, "VD", "L", "DX", (0.1, 0.2), {"voi": "window"}), ShardConfig(encoding="png")
    )
    assert np.array_equal(stored.decode().pixels, pixels)
    assert (stored.projection, stored.laterality, stored.modality) == ("VD", "L", "DX")
    assert (stored.spacing, stored.facts) == ((0.1, 0.2), {"voi": "window"})
    assert stored_view(stored, ShardConfig()) is stored


def test_the_files_of_a_sample_are_named_by_its_key():
    names = [name for name, _ in sample_files(a_study(7, views=2), ShardConfig())]
    key = a_study(7).key
    assert names == [f"{key}.json", f"{key}.view0.jpg", f"{key}.view1.jpg"]
    assert {sample_key(name) for name in names} == {key}


@pytest.mark.parametrize(("name", "fact"), [("json", "lacks json"), ("view1.jpg", "lacks view1.jpg")])
def test_a_sample_that_lacks_a_file_is_refused(name, fact):
    files = dict(sample_files(a_study(7, views=2), ShardConfig()))
    del files[f"{a_study(7).key}.{name}"]
    with pytest.raises(ShardError, match=fact):
        study_from_files(a_study(7).key, files)


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"key": "k", "patient": "p", "split": "train", "labels": 3}']
)
def test_a_damaged_json_is_refused(text):
    with pytest.raises(ShardError, match="JSON is damaged"):
        study_from_files("k", {"k.json": text})


@given(st.integers(0, 10_000))
def test_a_content_is_padded_to_whole_blocks(size):
    assert padded_size(size) % 512 == 0
    assert 0 <= padded_size(size) - size < 512


def test_a_tar_of_something_else_is_refused():
    with pytest.raises(ShardError, match=r"x\.tar"):
        list(tar_samples(io.BytesIO(b"no tar" * 300), "x.tar"))


def tar_bytes(files: list[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of these files without its last two empty blocks."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=kind) as tar:
        for name, data in files:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
        length = tar.offset
    return content.getvalue()[:length]


@pytest.mark.parametrize("views", [1, 3])
def test_a_sample_with_plain_headers_is_read_as_tarfile_reads_it(views):
    content = tar_bytes(sample_files(a_study(5, views=views), ShardConfig()))
    [expected], found = tar_samples(io.BytesIO(content), ""), plain_sample(content)
    assert (found.key, found.length, found.digest) == (expected.key, expected.length, expected.digest)
    assert list(found.files.items()) == list(expected.files.items())


def test_what_is_not_one_sample_with_plain_headers_is_left_to_tarfile():
    one, two = (sample_files(a_study(number), ShardConfig()) for number in (1, 2))
    long = [("f" * 150 + name, content) for name, content in one]
    content = tar_bytes(one)
    for other in (
        b"",
        tar_bytes([*one, *two]),
        tar_bytes(long, tarfile.PAX_FORMAT),
        tar_bytes(long, tarfile.GNU_FORMAT),
        content[:-1],
        content[:700],
        content[512:],
        content.replace(b"ustar\x00", b"other\x00"),
        content[:124] + b"\x80" + content[125:],  # a size in base 256
        content[:124] + b"8" + content[125:],  # no octal number
        content[:156] + b"2" + content[157:],  # a link
    ):
        assert plain_sample(other) is None
