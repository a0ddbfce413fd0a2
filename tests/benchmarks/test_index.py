"""What is measured are real shards that real processes open; nothing here is timed."""

from __future__ import annotations

import json

import pytest

from benchmarks.index.__main__ import main, make_shards, parse_args, sampler_seconds, walk_seconds
from vetdino.platform.data.checksums import verify
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.rows import label_matrix, view_counts


def test_the_shards_are_what_an_ingest_leaves(tmp_path):
    manifest = make_shards(tmp_path, 200, shard_kb=64)
    assert verify(tmp_path) == manifest
    assert [manifest.studies(split) for split in ("train", "val", "test")] == [180, 10, 10]
    assert len(manifest.shards) > 10
    index = StudyIndex(tmp_path, "train")
    study = index.load(7)
    assert len(study.views) == 2
    assert set(view_counts(index.rows)) == {2}
    assert len(set(label_matrix(index.rows, manifest.findings).ravel().astype(str))) == 3
    assert walk_seconds(tmp_path, manifest, 3) > 0
    assert set(sampler_seconds(manifest, 8, 2)) == {"first", "each"}


@pytest.mark.slow
def test_ranks_are_measured_in_processes_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VETDINO_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "index.json"
    words = ["--studies", "300", "--shard-kb", "64", "--loads", "20", "--batch", "8", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["index", *words, "--work", str(tmp_path)])
    assert parse_args(words).studies == 300
    main()
    assert "each of two ranks" in capsys.readouterr().out
    found = json.loads(out.read_text())["found"]
    assert found["studies"] == 300
    for name in ("first", "one", "two"):
        assert found[name]["opened"]["Rss"] <= found[name]["scanned"]["Rss"]
        assert found[name]["load_us"] > 0
