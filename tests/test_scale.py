"""docs/scale.md: its tables follow from its parts by its arithmetic."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
PEAK, SHARE, MEMORY, LINK, BETWEEN = 989e12, 0.3, 3.35e12, 450e9, 400e9 / 8
LOADED, STUDY, FETCHED, STUDIES, PRICE = 600, 315e3, 1.24, 668_000, 3
STEPS, BATCHES = 100_000, {"S": 256, "B": 512, "L": 1024}
UNITS = {"ms": 1e-3, "s": 1, "min": 60, "h": 3600, "GB": 1e9, "GB/s": 1e9, "": 1}


def of_each_network(row: str) -> dict[str, float]:
    """The three values of a row of the parts: S, B, L."""
    [cells] = re.findall(rf"^\| {row} \|.*$", PAGE, re.MULTILINE)
    value = cells.split("|")[3].replace(",", "")
    return dict(
        zip("SBL", (float(word) for word in re.findall(r"(?<![/\w])\d+\.?\d*(?= |$)", value)), strict=True)
    )


def rows(heading: str) -> list[tuple[str, list[str]]]:
    """Network letter and cells of each row of a table under a heading."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    found, network = [], ""
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and not line.startswith(("| network", "| ---")):
            network = cells[0][4] if cells[0] else network
            found.append((network, cells))
    assert len(found) == 9
    return found


def number(cell: str) -> float:
    value, _, unit = cell.replace(",", "").partition(" (")[0].partition(" ")
    return float(value) * UNITS[unit]


def step(network: str, gpus: int, batch: int) -> tuple[float, float]:
    """Seconds of a step, bytes sent in it."""
    products, student = of_each_network("W")[network] * 1e9, of_each_network("P")[network] * 1e6
    sent = 4 * student * 3 * (gpus - 1) / gpus
    update = student * (36 / gpus + 12) / MEMORY
    return batch / gpus * products / (PEAK * SHARE) + update + sent / (LINK if gpus <= 8 else BETWEEN), sent


def test_time_and_cost_follow():
    for network, (_, gpus, batch, seconds, rate, epoch, whole, hours, cost) in rows("Time and cost"):
        count, size = int(gpus), number(batch)
        expected, _ = step(network, count, size)
        assert number(seconds) == pytest.approx(expected, rel=0.03)
        assert number(rate) == pytest.approx(size / expected, rel=0.02)
        assert number(epoch) == pytest.approx(STUDIES / (size / expected), rel=0.03)
        training = STEPS * BATCHES[network] / (size / expected)
        assert number(whole) == pytest.approx(training, rel=0.05)
        assert number(hours) == pytest.approx(count * training / 3600, rel=0.06)
        assert number(cost) == pytest.approx(count * training / 3600 * PRICE, rel=0.02)


def test_readers_network_and_storage_follow():
    batches = [number(cells[2]) for _, cells in rows("Time and cost")]
    for batch, (network, cells) in zip(batches, rows("Readers, network and storage"), strict=True):
        gpus = int(cells[1])
        seconds, sent = step(network, gpus, batch)
        rate = batch / seconds
        assert number(cells[2]) >= rate / LOADED
        assert number(cells[2]) < max(rate / LOADED + 1, gpus + 1)
        assert number(cells[3]) == pytest.approx(rate * STUDY * FETCHED, rel=0.15)
        assert number(cells[4]) == pytest.approx(sent, rel=0.05)
        assert number(cells[5]) == pytest.approx(sent / seconds, rel=0.05)
        if cells[6]:
            assert number(cells[6]) == pytest.approx(16e6 * of_each_network("P")[network], rel=0.02)
