"""The loop that `embed` is timed against does the same work on the same batches; nothing here is timed."""

from __future__ import annotations

import argparse

from benchmarks.embed.__main__ import compare
from vetdino.platform.measure.features import load_features


def test_both_embed_every_image(tmp_path):
    args = argparse.Namespace(
        studies=5,
        pixels=64,
        network="tiny",
        side=32,
        patch=16,
        batch=4,
        shard_mb=1,
        rounds=1,
        threads=1,
        decoders=2,
        device="cpu",
    )
    results = compare(args, tmp_path)
    assert (results["images"], len(load_features(tmp_path / "features"))) == (10, 5)
    assert results["ratio_cpu"] > 0
