"""Results as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("min s", "median s", "cpu s", "studies/s", "of peak", "GiB")


def table(name: str, result: Mapping[str, Any]) -> str:
    """Results of one setting and number of studies, as lines of text."""
    losses = " and ".join(f"{loss:.5f} ({who})" for who, loss in result["first_loss"].items())
    peaks = ", ".join(
        f"{precision} {peak / 1e9:,.0f}" for precision, peak in result["peak_flops_per_second"].items()
    )
    cutting = ", ".join(f"{who} {seconds:.4f}" for who, seconds in result["cutting_seconds_a_study"].items())
    return "\n".join(
        [
            f"{name}, {result['studies']} studies, {result['flops'] / 1e9:,.0f} GFLOP a step; first loss {losses}",
            f"matrix products reach {peaks} GFLOP/s",
            " " * 18 + "".join(f"{column:>10}" for column in COLUMNS) + "  longest parts",
            *(_line(label, step) for label, step in result["steps"].items()),
            *(
                f"{pair}: " + ", ".join(f"{key} x{ratio:.2f}" for key, ratio in ratios.items())
                for pair, ratios in result["ratios"].items()
            ),
            f"cutting crops, seconds a study: {cutting}",
        ]
    )


def _line(label: str, step: Mapping[str, Any]) -> str:
    whole = sum(step["parts"].values())
    parts = ", ".join(f"{part} {seconds / whole:.0%}" for part, seconds in step["parts"].items())
    numbers = (
        f"{step['wall_min']:.3f}",
        f"{step['wall_median']:.3f}",
        f"{step['cpu_min']:.3f}",
        f"{step['studies_per_second']:.2f}",
        f"{step['share_of_peak']:.0%}",
        f"{step['memory']['peak'] / 2**30:.2f}",
    )
    return f"{label:18}" + "".join(f"{number:>10}" for number in numbers) + f"  {parts}"
