"""The benchmark of ingest runs, and its figures are those of what it made."""

from __future__ import annotations

import pytest

from benchmarks.ingest_scale.__main__ import main


@pytest.mark.slow
def test_one_worker_two_and_a_killed_run_write_the_same(tmp_path, capsys):
    [result] = main(["--files", "700", "--max-bytes", "300000", "--folder", str(tmp_path)])
    assert len(set(result["digests"].values())) == 1
    assert result["one"]["counts"]["views"] == result["files"] == 700
    assert result["one"]["counts"]["studies"] == 100
    assert 0 < result["killed_after"] < 700
    assert 20 < result["one"]["worker_mib"] < 1000
    assert "driver" in capsys.readouterr().out
