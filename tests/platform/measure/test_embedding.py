"""A folder of parts has the same bytes whatever happened on the way; what does not belong is redone or refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from errno import ENOSPC
from io import FileIO
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet
import pytest
import torch

from tests.platform.measure.test_extraction import study
from tests.second_device import second_device
from vetdino.platform.core.errors import FeaturesError, ShardError
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.index_file import index_table
from vetdino.platform.data.manifest import VERSION, Manifest, load_manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.measure import embedding as module
from vetdino.platform.measure import features as features_module
from vetdino.platform.measure.embedding import EmbedJob, embed_shards, finish_table, missing_parts
from vetdino.platform.measure.extraction import extract
from vetdino.platform.measure.features import FeatureTable, load_features, save_features
from vetdino.platform.models.backbone import random_backbone, random_like
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.loading import load
from vetdino.platform.models.saving import save_backbone

ROOT = Path(__file__).parents[3]


def shards(folder, counts, order=1, bytes_each=20_000):
    """Several small shards of each split; order -1 writes the studies in reverse."""
    random = np.random.default_rng(0)
    number, written = 0, []
    for split, count in counts.items():
        studies = [study(number + row, split, random, views=1 + row % 3) for row in range(count)]
        number += count
        with ShardWriter(folder, split, ShardConfig(max_bytes=bytes_each)) as writer:
            for one in studies[::order]:
                writer.write(one)
        written += writer.shards
    save_manifest(folder, Manifest(VERSION, "squares", ("mass", "rare"), tuple(written), {}, "c"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("shards"), {"train": 11, "val": 3, "test": 4})


@pytest.fixture(scope="module")
def backbone():
    small = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, depth=2, heads=2)
    return random_backbone(small, seed=0).eval()


def job_of(folder, out, backbone, **settings):
    settings = {"level": "study", "dtype": "float32", "batch": 4, "threads": 2} | settings
    splits = settings.pop("splits", ("train", "val", "test"))
    manifest = load_manifest(folder)
    return EmbedJob(
        shards=str(folder),
        manifest=manifest,
        splits=splits,
        out=out,
        backbone=backbone.card.digest,
        **settings,
    )


def embedded(folder, out, backbone, **settings):
    job = job_of(folder, out, backbone, **settings)
    embed_shards(job, backbone, missing_parts(job))
    finish_table(job, backbone)
    return out


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def whole(folder, backbone, tmp_path_factory):
    """A table that was embedded at once."""
    return embedded(folder, tmp_path_factory.mktemp("whole") / "features", backbone)


def test_a_part_a_shard_is_written_and_together_they_are_the_features(folder, backbone, whole):
    manifest = load_manifest(folder)
    assert len(manifest.shards) > 5
    names = {shard.path.replace(".tar", ".parquet") for shard in manifest.shards}
    assert {path.name for path in whole.iterdir()} == names | {"_features.json"}
    table, expected = load_features(whole), extract(backbone, folder)
    for name in ("keys", "patients", "splits", "views", "projections", "findings", "backbone", "manifest"):
        assert getattr(table, name) == getattr(expected, name), name
    np.testing.assert_array_equal(table.labels, expected.labels)
    np.testing.assert_allclose(table.vectors, expected.vectors, atol=1e-6)
    np.testing.assert_allclose(table.probes.vectors, expected.probes.vectors, atol=1e-6)


def test_anything_that_reads_parquet_reads_one_table(whole):
    table = pyarrow.dataset.dataset(whole).to_table()
    assert table.num_rows == 18
    assert set(table["key"].to_pylist()) == set(load_features(whole).keys)
    assert "label:mass" in table.column_names


def test_a_vector_does_not_depend_on_what_else_is_in_its_batch_or_shard(folder, backbone, whole, tmp_path):
    """Bit for bit: other batches, and the same studies in other shards in another order."""
    expected = load_features(whole)
    vector = dict(zip(expected.keys, expected.vectors, strict=True))
    other = shards(tmp_path / "other", {"train": 11, "val": 3, "test": 4}, order=-1, bytes_each=50_000)
    tables = [embedded(folder, tmp_path / str(batch), backbone, batch=batch) for batch in (1, 3, 64)]
    tables += [embedded(other, tmp_path / "reversed", backbone, batch=5)]
    for out in tables:
        table = load_features(out)
        assert set(table.keys) == set(vector)
        for key, one in zip(table.keys, table.vectors, strict=True):
            np.testing.assert_array_equal(one, vector[key])


def test_away_from_the_cpu_every_batch_has_the_same_shape(folder, backbone, whole, tmp_path, monkeypatch):
    sizes = set()
    with second_device() as device:
        there = random_like(backbone, 0).eval()
        there.load_state_dict(backbone.state_dict())
        there.card = backbone.card
        there = there.to(device)
        tokens = type(there).tokens
        monkeypatch.setattr(
            type(there), "tokens", lambda self, images: sizes.add(len(images)) or tokens(self, images)
        )
        job = job_of(folder, tmp_path / "there", there)
        embed_shards(job, there, missing_parts(job))
    assert sizes == {4}
    monkeypatch.undo()
    finish_table(job, backbone)
    np.testing.assert_allclose(load_features(job.out).vectors, load_features(whole).vectors, atol=1e-6)


@pytest.mark.parametrize("order", [1, -1])
def test_parts_in_any_order_and_in_several_runs_give_the_same_bytes(folder, backbone, whole, tmp_path, order):
    job = job_of(folder, tmp_path / "out", backbone)
    first = missing_parts(job)[::order]
    embed_shards(job, backbone, first[:3])
    with pytest.raises(FeaturesError, match="embedding is not finished"):
        load_features(job.out)
    (job.out / ".train-000000.parquet.0a1b2c3d.tmp").write_bytes(b"half a part")
    rest = missing_parts(job)
    assert {shard.path for shard in rest} == {shard.path for shard in first[3:]}
    embed_shards(job, backbone, rest)
    finish_table(job, backbone)
    assert contents(job.out) == contents(whole)


def test_a_finished_table_is_not_computed_again(folder, backbone, whole, capsys, monkeypatch):
    before = contents(whole)
    monkeypatch.setattr(module, "_vectors", lambda *_: pytest.fail("computed again"))
    assert missing_parts(job_of(folder, whole, backbone)) == []
    embedded(folder, whole, backbone)
    assert contents(whole) == before
    assert "parts are there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "float16"}, "of another dtype"),
        ({"level": "view"}, "of another level"),
        ({"backbone": "else"}, "of another backbone"),
    ],
)
def test_parts_of_other_settings_are_computed_again(folder, backbone, tmp_path, capsys, change, said):
    out = embedded(folder, tmp_path / "out", backbone)
    job = replace(job_of(folder, out, backbone), **change)
    assert len(missing_parts(job)) == len(job.wanted)
    assert f"{len(job.wanted)} parts are {said}; they are computed again" in capsys.readouterr().err
    with pytest.raises(FeaturesError, match="not finished"):  # never a table of two kinds
        load_features(out)
    embed_shards(job, backbone, missing_parts(job))
    finish_table(job, backbone)
    table = FeatureTable(out)
    assert (table.level, table.head.vectors.dtype, table.head.backbone) == (
        job.level,
        job.dtype,
        job.backbone,
    )


def test_parts_of_shards_that_are_gone_and_the_old_single_file_leave_the_folder(
    folder, backbone, whole, tmp_path
):
    out = tmp_path / "out"
    save_features(load_features(whole), out)
    before = load_features(out)
    more = shards(tmp_path / "more", {"train": 20, "val": 3, "test": 4})
    job = job_of(more, out, backbone)
    embed_shards(job, backbone, missing_parts(job))
    assert load_features(out).keys == before.keys  # the old table, until the new one is whole
    finish_table(job, backbone)
    assert len(load_features(out)) == 27
    embedded(folder, out, backbone)
    assert contents(out) == contents(whole)


def test_a_grown_archive_keeps_the_parts_of_shards_that_did_not_change(backbone, tmp_path):
    few = shards(tmp_path / "few", {"train": 9, "test": 3})
    more = shards(tmp_path / "more", {"train": 9, "test": 3, "val": 3})
    out = embedded(few, tmp_path / "out", backbone)
    missing = missing_parts(job_of(more, out, backbone))
    assert {shard.split for shard in missing} == {"val"}


def test_damage_is_found_and_the_part_is_written_again(folder, backbone, whole, tmp_path, capsys):
    out = embedded(folder, tmp_path / "out", backbone)
    content = bytearray((out / "train-000001.parquet").read_bytes())
    vectors = pyarrow.parquet.read_table(out / "train-000001.parquet")["vector"]
    content[content.index(np.array(vectors[0].as_py(), np.float32)[:3].tobytes()) + 1] ^= 1
    (out / "train-000001.parquet").write_bytes(content)
    (out / "train-000002.parquet").write_bytes(b"")
    (out / "test-000000.parquet").unlink()
    missing = missing_parts(job_of(folder, out, backbone))
    assert [shard.path for shard in missing] == ["train-000001.tar", "train-000002.tar", "test-000000.tar"]
    assert "2 parts are damaged; they are computed again" in capsys.readouterr().err
    embedded(folder, out, backbone)
    assert contents(out) == contents(whole)


def test_a_folder_with_other_parquet_files_is_refused(folder, backbone, tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "mine.parquet")
    with pytest.raises(FeaturesError, match=r"mine\.parquet: not a part of features"):
        missing_parts(job_of(folder, tmp_path, backbone))
    assert (tmp_path / "mine.parquet").exists()


def test_a_vector_that_is_nan_names_its_study_and_leaves_the_parts_before_it(
    folder, backbone, tmp_path, monkeypatch
):
    vectors, calls = module.image_vectors, []

    def sometimes_nan(*given):
        calls.append(given)
        return vectors(*given) * (np.nan if len(calls) == 5 else 1)

    monkeypatch.setattr(module, "image_vectors", sometimes_nan)
    job = job_of(folder, tmp_path / "out", backbone)
    with pytest.raises(FeaturesError, match=r"study k\d{3}: the vector of view \d is NaN"):
        embed_shards(job, backbone, missing_parts(job))
    assert 0 < len(list(job.out.glob("*.parquet"))) < len(job.wanted)


def test_patch_tokens_that_are_not_finite_name_their_study(folder, backbone, tmp_path):
    lost = random_like(backbone, 0)
    torch.nn.init.constant_(lost.vit.norm.weight, 1e9)  # beyond float16
    job = job_of(folder, tmp_path / "out", lost, level="patch", dtype="float16")
    with pytest.raises(FeaturesError, match="NaN or infinity, the first that of study k0"):
        embed_shards(job, lost, missing_parts(job))


def test_a_damaged_shard_leaves_the_parts_before_it(folder, backbone, tmp_path):
    other = shards(tmp_path / "shards", {"train": 11})
    names = [shard.path for shard in load_manifest(other).shards]
    index_table(other, load_manifest(other))  # as ingest leaves it
    content = bytearray((other / names[2]).read_bytes())
    content[600] ^= 1
    (other / names[2]).write_bytes(content)
    job = job_of(other, tmp_path / "out", backbone)
    with pytest.raises(ShardError, match=names[2]):
        embed_shards(job, backbone, missing_parts(job))
    written = sorted(path.name for path in job.out.iterdir())
    assert written == [name.replace(".tar", ".parquet") for name in names[:2]]


@pytest.mark.parametrize("more", [-1, 1])
def test_a_shard_of_other_views_than_promised_is_refused(folder, backbone, tmp_path, more):
    job = job_of(folder, tmp_path / "out", backbone)
    first, *rest = job.manifest.shards
    wrong = replace(first, views=first.views + more)
    job = replace(job, manifest=replace(job.manifest, shards=(wrong, *rest)))
    for wanted in (job.wanted, job.wanted[:1]):
        with pytest.raises(ShardError, match=f"{first.path}: not the {wrong.views} views"):
            embed_shards(job, backbone, wanted)
    assert not job.part(wrong).exists()


def test_a_table_lists_no_part_that_is_not_there(folder, backbone, tmp_path):
    """As where another machine wrote it to a disk of its own."""
    job = job_of(folder, tmp_path / "out", backbone)
    embed_shards(job, backbone, job.wanted[1:])
    with pytest.raises(
        FeaturesError, match=r"train-000000.parquet: missing, as 1 of \d+ parts are; .*all machines"
    ):
        finish_table(job, backbone)
    assert not (job.out / "_features.json").exists()


def test_a_full_disk_leaves_the_parts_before_it(folder, backbone, whole, tmp_path, monkeypatch):
    write, written = module.atomic_write, []

    def full(path, content):
        written.append(path)
        if len(written) > 3:
            raise OSError(ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(module, "atomic_write", full)
    job = job_of(folder, tmp_path / "out", backbone)
    with pytest.raises(
        FeaturesError, match="the disk is full; free some space; the parts before it are kept"
    ):
        embed_shards(job, backbone, missing_parts(job))
    assert len(list(job.out.iterdir())) == 3
    monkeypatch.undo()
    embedded(folder, job.out, backbone)
    assert contents(job.out) == contents(whole)


def test_float16_is_the_rounded_table(folder, backbone, whole, tmp_path):
    half = load_features(embedded(folder, tmp_path / "half", backbone, dtype="float16"))
    assert half.vectors.dtype == np.float16
    np.testing.assert_array_equal(half.vectors, load_features(whole).vectors.astype(np.float16))


def test_patch_tokens_of_each_view_are_those_of_the_network(folder, backbone, tmp_path):
    out = embedded(folder, tmp_path / "patches", backbone, level="patch", dtype="float16", splits=("test",))
    table = load_features(out)
    views = extract(backbone, folder, ("test",), level="view")
    assert (table.level, table.vectors.shape, table.vectors.dtype) == (
        "patch",
        (len(views), 4, 4, 48),
        np.float16,
    )
    assert (table.keys, table.views) == (views.keys, views.views)
    pictures = [one.view(0) for one in module.read_shard(folder, load_manifest(folder).of("test")[0])]
    tokens = backbone.tokens(backbone.prepare_many([pictures[0].pixels])).patches
    np.testing.assert_allclose(table.vectors[0].reshape(16, 48), tokens[0].numpy(), atol=2e-3)
    column = pyarrow.dataset.dataset(out).to_table()["patches"].combine_chunks()
    np.testing.assert_array_equal(column.to_numpy_ndarray(), table.vectors)


def test_the_size_of_patch_tokens_is_known_before(folder, backbone, tmp_path):
    job = job_of(folder, tmp_path, backbone, level="patch", dtype="float16")
    views = sum(shard.views for shard in job.wanted)
    assert module.patch_bytes(job, backbone, job.wanted) == views * 16 * 48 * 2


def other_part(path, change):
    """The same rows in a part of another table: other facts in its metadata, or none."""
    part = pyarrow.parquet.read_table(path)
    facts = (
        None
        if change is None
        else {"vetdino": json.dumps(json.loads(part.schema.metadata[b"vetdino"]) | change)}
    )
    pyarrow.parquet.write_table(part.replace_schema_metadata(facts), path, write_page_checksum=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / "_features.json").write_text("{"), "_features.json: damaged"),
        (lambda out: (out / "val-000000.parquet").unlink(), "val-000000.parquet: missing, though"),
        (lambda out: (out / "train-000000.parquet").write_bytes(b"x"), "damaged or not a feature table"),
        (
            lambda out: (out / "_features.json").write_text(
                json.dumps(json.loads((out / "_features.json").read_text()) | {"version": 9})
            ),
            "version 9, this vetdino reads 1",
        ),
        (
            lambda out: (out / "train-000001.parquet").write_bytes(
                (out / "train-000000.parquet").read_bytes()
            ),
            "rows repeat a study|train-000001.parquet: damaged",
        ),
        *(
            (
                lambda out, change=change: other_part(out / "val-000000.parquet", change),
                f"val-000000.parquet: its {next(iter(change))} is another than that of _features.json",
            )
            for change in ({"backbone": "b"}, {"level": "view"}, {"dtype": "float16"}, {"findings": ["rare"]})
        ),
        (lambda out: other_part(out / "val-000000.parquet", None), "val-000000.parquet: damaged"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(folder, backbone, tmp_path, damage, message):
    out = embedded(folder, tmp_path / "out", backbone)
    damage(out)
    with pytest.raises(FeaturesError, match=message):
        load_features(out)


def test_one_part_is_no_table_and_a_folder_of_parts_takes_no_other(whole):
    with pytest.raises(FeaturesError, match="one part of a table; give the folder"):
        load_features(whole / "train-000000.parquet")
    with pytest.raises(FeaturesError, match="holds what `vetdino embed` wrote"):
        save_features(load_features(whole), whole)


def test_large_vectors_are_mapped_and_need_no_memory_of_their_own(whole, monkeypatch, tmp_path):
    small = load_features(whole)
    monkeypatch.setattr(features_module, "IN_MEMORY", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    large = load_features(whole)
    assert isinstance(large.vectors, np.memmap)
    np.testing.assert_array_equal(large.vectors, small.vectors)
    assert np.shares_memory(large.of("train").vectors, large.vectors)
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_a_temporary_folder_that_is_full_is_named(whole, monkeypatch):
    monkeypatch.setattr(features_module, "IN_MEMORY", 100)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: FileIO("/dev/full", "wb"))
    with pytest.raises(FeaturesError, match=r"do not fit: .*the disk is full; .*set TMPDIR"):
        load_features(whole)


def command(backbone_folder, shards, out):
    """`vetdino embed` in a session of its own."""
    words = ["embed", str(backbone_folder), str(shards), str(out), "--batch", "1", "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-m", "vetdino", *words], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE
    )


def wait_for_parts(process, out, count):
    while len(list(out.glob("*.parquet"))) < count:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.002)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Twenty shards."""
    folder = shards(tmp_path_factory.mktemp("many"), {"train": 50, "test": 10}, bytes_each=16_000)
    assert len(load_manifest(folder).shards) >= 15
    return folder


@pytest.mark.slow
def test_killed_at_30_and_at_70_percent_and_finished_the_table_has_the_same_bytes(many, tmp_path):
    large = BackboneConfig(name="vit_tiny_patch16_224", side=96, patch=8, width=96, depth=6, heads=3)
    save_backbone(tmp_path / "backbone", random_backbone(large, seed=0))
    parts, out = len(load_manifest(many).shards), tmp_path / "killed"
    for share in (0.3, 0.7):
        with command(tmp_path / "backbone", many, out) as process:
            wait_for_parts(process, out, int(share * parts))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        assert int(share * parts) <= len(list(out.glob("*.parquet"))) < parts
        assert not (out / "_features.json").exists()
    with command(tmp_path / "backbone", many, out) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert b"parts are there already" in said
    assert contents(out) == contents(embedded(many, tmp_path / "whole", load(tmp_path / "backbone"), batch=1))


@pytest.mark.slow
def test_sigterm_keeps_the_parts_and_says_how_to_go_on(many, tmp_path):
    large = BackboneConfig(name="vit_tiny_patch16_224", side=96, patch=8, width=96, depth=6, heads=3)
    save_backbone(tmp_path / "backbone", random_backbone(large, seed=0))
    with command(tmp_path / "backbone", many, tmp_path / "out") as process:
        wait_for_parts(process, tmp_path / "out", 3)
        process.terminate()
        _, said = process.communicate()
    assert process.returncode == 143
    assert said.decode().splitlines()[-1] == "vetdino: stopped; run the same command again to continue"
    assert len(list((tmp_path / "out").glob("*.parquet"))) >= 3
    assert [path.name for path in (tmp_path / "out").glob(".*")] == []
