"""Generated b-mode frames: speckle as theory has it, shadows below bone, and bytes that depend on the seed alone."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import stats

from vetdino.infra import cli
from vetdino.platform.core.errors import ConfigError, DataError
from vetdino.platform.data.manifest import load_manifest
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.ingest import ingest
from vetdino.platform.phantom.config import PhantomConfig, SonogramConfig
from vetdino.platform.phantom.dog.archive import write_radiographs
from vetdino.platform.phantom.limb import echo
from vetdino.platform.phantom.limb.archive import (
    Frame,
    device_of,
    domain_of,
    frame_of,
    limb_of,
    pose_of,
    write_sonograms,
)
from vetdino.platform.phantom.limb.echo import CURVED, LINEAR, Pose, across, blurred, tissue_of
from vetdino.platform.phantom.limb.limb import HEAD, ROUND, Bone, Sheet

SMALL = SonogramConfig(side=96, frames=2, seed=3, workers=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_sonograms(tmp_path_factory.mktemp("sonogram") / "out", SMALL)


@pytest.fixture(scope="module")
def eight() -> dict[str, Frame]:
    """The first frame of every domain of the cube."""
    return {domain_of(n).name: frame_of(replace(SMALL, side=256), domain_of(n), 0) for n in range(8)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Physics ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [LINEAR, CURVED], ids=["linear", "curved"])
def test_the_envelope_over_even_tissue_is_rayleighs(device):
    random = np.random.default_rng(0)
    shape = (len(device.samples), len(device.beams))
    noise = (random.standard_normal((*shape, 2), np.float32) * np.float32(0.5**0.5)).view(np.complex64)[
        ..., 0
    ]
    envelope = np.abs(blurred(noise * echo._speckle_gain(device), device))
    inner = envelope[20:-20, 10:-10]
    assert inner.mean() / inner.std() == pytest.approx(1.91, abs=0.06)
    assert (inner**2).mean() == pytest.approx(1, abs=0.05)  # the pulse takes no power, at no depth
    for band in np.array_split(inner, 4):
        assert (band**2).mean() == pytest.approx(1, abs=0.12)
    apart = inner[::12, ::12].ravel()
    assert stats.kstest(apart, stats.rayleigh(scale=0.5**0.5).cdf).pvalue > 1e-3


def test_a_blur_by_depth_is_the_slow_sum_row_by_row():
    random = np.random.default_rng(1)
    field, sigma = random.standard_normal((5, 60)), np.array([1.3, 1.6, 2.0, 3.1, 4.0])
    fast = across(field, sigma)
    for row, width in enumerate(sigma):
        for column in range(20, 40):
            far = np.arange(60) - column
            weights = np.exp(-0.5 * (far / width) ** 2)
            assert fast[row, column] == pytest.approx((weights / weights.sum()) @ field[row], abs=2e-3)


def test_speckle_is_coarser_across_than_along_and_coarser_away_from_the_focus():
    def width(row: np.ndarray) -> float:
        """Samples between a row and itself until half of it is another."""
        spectrum = np.abs(np.fft.fft(row - row.mean())) ** 2
        likeness = np.fft.ifft(spectrum).real
        return float(np.argmax(likeness < likeness[0] / 2))

    random = np.random.default_rng(2)
    device = replace(LINEAR, depth=80.0)
    shape = (len(device.samples), len(device.beams))
    noise = (random.standard_normal((*shape, 2), np.float32)).view(np.complex64)[..., 0]
    envelope = np.abs(blurred(noise, device))
    pitch = float(device.pitch(device.samples)[0])
    at = [int(depth / device.step) for depth in (device.focus, 75.0)]
    near, far = (np.mean([width(row) for row in envelope[k - 60 : k + 60]]) * pitch for k in at)
    along = np.mean([width(column) for column in envelope.T[:60]]) * device.step
    assert along < near < far


def test_a_sheet_square_to_the_beam_outshines_a_slanted_one():
    x, y = echo._places(LINEAR)
    flat, slanted = (Sheet(y - 20 - slope * x, 5.0, 0.3, 9) for slope in (0.0, 0.6))
    assert echo._mirrored(flat, LINEAR).max() > 3 * echo._mirrored(slanted, LINEAR).max()


@pytest.mark.parametrize("device", [LINEAR, CURVED], ids=["linear", "curved"])
def test_the_skin_lies_along_the_probe_and_depth_grows_with_depth(device):
    pose = Pose(x=1.0, z=0.0, tilt=0.05, press=0.08, gel=(0.0, 0.0, 0.0))
    x, y = echo._places(device)
    _, deep = tissue_of(device, pose, x, y)
    assert np.abs(deep[0]).max() < 0.01
    assert (np.diff(deep, axis=0) > 0).all()
    _, under_gel = tissue_of(device, replace(pose, gel=(0.0, 2.0, 0.0)), x, y)
    assert under_gel[0].max() < -1.9
    assert np.abs(under_gel - deep)[-1].max() < 0.4  # bones stay where they were


def test_below_bone_lies_a_shadow_and_at_its_top_a_bright_line(eight):
    for name, frame in eight.items():
        mask = frame.mask
        columns = np.flatnonzero(mask.any(0))
        widest = columns[np.argmax(mask[:, columns].sum(0))]
        top, bottom = np.flatnonzero(mask[:, widest])[[0, -1]]
        inside = frame.pixels[(top + bottom) // 2 : bottom, widest - 2 : widest + 3].astype(float)
        around = cv2.dilate(mask.astype(np.uint8), np.ones((9, 41))) * ~mask * (frame.pixels > 0)
        level = np.zeros_like(mask)
        level[(top + bottom) // 2 : bottom] = True
        beside = frame.pixels[(around > 0) & level].astype(float)
        assert inside.mean() < 0.5 * beside.mean(), name
        line = max(frame.pixels[top + k, widest - 2 : widest + 3].mean() for k in range(6))
        assert line > beside.mean() + 40, name


# Anatomy and masks --------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [5.0, 7.4, 12.0, 20.0])
def test_a_bones_head_is_whole_where_it_is_small_and_ends_below_where_it_is_large(radius):
    bone = Bone(0.0, 10.0, radius, (), (0.0, 0.0, 0.0))
    x, y = np.meshgrid(np.linspace(-25, 25, 501, dtype=np.float32), np.linspace(0, 60, 601, dtype=np.float32))
    head, whole = bone.head(x, y, 0.0) < 0, bone.level(x, y, 0.0) < 0
    assert not (head & ~whole).any()
    rows = y[head.any(1), 0]
    assert rows[0] == pytest.approx(10, abs=0.3)
    assert rows[-1] == pytest.approx(10 + min(2 * radius, HEAD), abs=ROUND)
    assert (head == whole).all() == (2 * radius <= HEAD)


def test_every_frame_has_a_head_of_bone_of_a_plausible_size_within_the_field():
    for number in range(12):
        for frame in (0, 40):
            made = frame_of(replace(SMALL, side=64), domain_of(number), frame)
            assert 0.01 < made.mask.mean() < 0.25, (number, frame)
            outside = ~field_of(made, number)
            assert not made.pixels[outside].any()
            assert not made.mask[outside].any()


def field_of(frame: Frame, number: int) -> np.ndarray:
    """Where beams reach, from the geometry's own words."""
    device = device_of(SMALL, domain_of(number).device)
    height, width = frame.pixels.shape
    y, x = np.mgrid[:height, :width] * frame.pixel
    x -= (width - 1) / 2 * frame.pixel
    if not device.radius:
        return (np.abs(x) <= device.width / 2) & (y >= 0.5) & (y <= device.depth + 0.7)
    y += device.radius * np.cos(device.angle) - 0.6
    reach, angle = np.hypot(x, y), np.abs(np.arctan2(x, y))
    within = (reach >= device.radius - 0.01) & (reach <= device.radius + device.depth)
    return within & (angle <= device.angle + 1e-4)


def test_a_limb_is_the_same_under_both_devices_and_an_arm_is_no_leg():
    arm, arm_again, leg = (limb_of(SMALL, domain_of(n)) for n in (0, 2, 3))
    assert arm == arm_again
    assert (len(arm.bones), len(leg.bones)) == (1, 2)
    assert arm.skin == leg.skin  # one subject's


# Domains, motion, chance --------------------------------------------------------------------------


def test_four_domains_hold_pairs_that_differ_in_exactly_each_and_in_two():
    def differing(count: int) -> set[tuple[str, ...]]:
        pairs = combinations(map(domain_of, range(count)), 2)
        words = ("subject", "device", "part")
        return {tuple(w for w in words if getattr(a, w) != getattr(b, w)) for a, b in pairs}

    singles = {("subject",), ("device",), ("part",)}
    assert singles | {("subject", "part"), ("subject", "device"), ("device", "part")} == differing(4)
    assert differing(8) == differing(4) | {("subject", "device", "part")}
    assert len({domain_of(n) for n in range(64)}) == 64
    assert {domain_of(n).subject for n in range(8, 16)} == {3, 4}


def test_neighbouring_frames_are_alike_and_not_the_same():
    for number in (0, 6):
        first, second, later = (
            frame_of(SMALL, domain_of(number), k).pixels.astype(float).ravel() for k in (0, 1, 12)
        )
        near, far = np.corrcoef(first, second)[0, 1], np.corrcoef(first, later)[0, 1]
        assert 0.8 < near < 0.999
        assert far < near


def test_the_probe_moves_smoothly_and_stays_near():
    poses = [pose_of(SMALL, domain_of(0), number) for number in range(200)]
    places = np.array([(pose.x, pose.z, 50 * pose.tilt) for pose in poses])
    assert np.abs(places).max() < 12
    steps = np.abs(np.diff(places, axis=0)).max(1)
    assert steps.max() < 2.5
    assert steps.min() > 0
    assert all(min(pose.gel) >= 0 for pose in poses)


def test_devices_differ_in_shape_of_field_depth_and_grey(eight):
    linear, curved = eight["s1-d1-arm"], eight["s1-d2-arm"]
    assert linear.pixels.shape != curved.pixels.shape
    assert (linear.pixels > 0).mean() > 0.75
    assert not curved.pixels[:20, :20].any()
    assert not curved.pixels[-8:, :8].any()
    assert LINEAR.depth < CURVED.depth
    assert LINEAR.dynamic != CURVED.dynamic
    further = [device_of(SMALL, number) for number in range(3, 9)]
    assert len(set(further)) == 6
    assert [bool(device.radius) for device in further] == [False, True] * 3


def test_the_same_seed_gives_the_same_frame_and_another_seed_another():
    domain = domain_of(3)
    one, two, other = (frame_of(replace(SMALL, seed=seed), domain, 1) for seed in (3, 3, 4))
    assert one.pixels.tobytes() == two.pixels.tobytes()
    assert one.mask.tobytes() == two.mask.tobytes()
    assert one.pixels.tobytes() != other.pixels.tobytes()


# Files --------------------------------------------------------------------------------------------


def test_the_folder_holds_images_masks_of_the_same_names_and_the_tables(written):
    table = rows(written / "domains.csv")
    assert list(table[0]) == ["domain", "folder", "subject", "device", "body_part"]
    assert len(table) == 4
    for number, row in enumerate(table):
        images, masks = (sorted((written / row["folder"] / kind).iterdir()) for kind in ("images", "masks"))
        assert [path.name for path in images] == [path.name for path in masks] == ["00000.png", "00001.png"]
        for frame, (image, mask) in enumerate(zip(images, masks, strict=True)):
            made = frame_of(SMALL, domain_of(number), frame)
            assert (cv2.imread(str(image), cv2.IMREAD_UNCHANGED) == made.pixels).all()
            stored = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
            assert (stored == 255 * made.mask).all()
            assert set(np.unique(stored)) == {0, 255}
    assert json.loads((written / "phantom.json").read_text())["kind"] == "ultrasound"


def test_two_workers_write_the_bytes_of_one_and_more_frames_change_no_earlier_one(written, tmp_path):
    both = write_sonograms(tmp_path / "out", replace(SMALL, workers=2, frames=3, domains=5))
    more, fewer = contents(both), contents(written)
    pictures = {name for name in fewer if name.endswith(".png")}
    assert len(pictures) == 16
    assert {name: more[name] for name in pictures} == {name: fewer[name] for name in pictures}


def test_a_run_that_was_cut_short_goes_on_and_keeps_what_is_finished(written, tmp_path):
    out = write_sonograms(tmp_path / "out", replace(SMALL, frames=1))
    kept = out / "s1-d1-arm" / "images" / "00000.png"
    before = kept.stat().st_mtime_ns
    (out / "s1-d2-arm" / "images" / "00000.png").unlink()  # its mask was written, itself not yet
    (out / "frames.csv").unlink()
    assert contents(write_sonograms(out, SMALL)) == contents(written)
    assert kept.stat().st_mtime_ns == before


def test_frames_are_ingested_a_sweep_a_study_or_a_frame_a_study(written, tmp_path):
    ingest(written / "frames.csv", tmp_path / "sweeps", IngestConfig(workers=1))
    manifest = load_manifest(tmp_path / "sweeps")
    assert sum(shard.studies for shard in manifest.shards) == 4
    assert rows(tmp_path / "sweeps" / "quarantine.csv") == []
    config = IngestConfig(workers=1)
    config = replace(config, table=replace(config.table, study="path"))
    ingest(written / "frames.csv", tmp_path / "frames", config)
    assert sum(shard.studies for shard in load_manifest(tmp_path / "frames").shards) == 8


# Refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"), [({"frames": 0}, "frames 0"), ({"domains": 0}, "domains 0"), ({"side": 8}, "side")]
)
def test_settings_that_cannot_be_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        replace(SMALL, **wrong)


def test_a_folder_of_other_settings_of_more_frames_or_of_another_kind_is_refused(written, tmp_path):
    with pytest.raises(ConfigError, match="frames of other settings"):
        write_sonograms(written, replace(SMALL, seed=4))
    with pytest.raises(ConfigError, match="holds 2 frames"):
        write_sonograms(written, replace(SMALL, frames=1))
    with pytest.raises(ConfigError, match="holds 4 domains"):
        write_sonograms(written, replace(SMALL, domains=2))
    with pytest.raises(ConfigError, match="of kind ultrasound"):
        write_radiographs(written, PhantomConfig(studies=1, side=64))
    (tmp_path / "phantom.json").write_text("[]")
    with pytest.raises(ConfigError, match="damaged"):
        write_sonograms(tmp_path, SMALL)


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        write_sonograms(tmp_path / "file" / "out", SMALL)


# The verb -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--kind", "ultrasound"], ["--kind=ultrasound"]])
def test_the_verb_writes_the_kind_that_is_asked_for(words, tmp_path, capsys):
    out = tmp_path / "out"
    frames = ["--frames", "1", "--domains", "1", "--side", "64", "--workers", "1"]
    assert cli.main(["phantom", str(out), *words, *frames]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert len(list(out.rglob("*.png"))) == 2


def test_each_kind_has_its_own_help_and_radiograph_is_the_usual_one(capsys):
    said = {}
    for words in ((), ("--kind", "radiograph"), ("--kind", "ultrasound")):
        assert cli.main(["phantom", *words, "--help"]) == 0
        said[words] = capsys.readouterr().out
    assert said[()] == said["--kind", "radiograph"]
    assert "--studies" in said[()]
    assert "--frames" not in said[()]
    assert "--frames" in said["--kind", "ultrasound"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind", "sonar"], "'radiograph', 'ultrasound'"),
        (["--kind"], "--kind"),
        (["--kind", "ultrasound", "--studies", "3"], "--side"),
        (["--frames", "3"], "unknown argument --frames"),
    ],
)
def test_a_kind_that_is_none_or_a_setting_of_another_kind_is_one_clear_line(words, said, capsys):
    assert cli.main(["phantom", "out", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("vetdino phantom: ")
    assert said in line
