"""How many files of a conformance folder come out as its index says: `python tests/conformance.py FOLDER`.

Not a test: the folder is not part of the project. Its index.csv names for every file whether it decodes
or why not, shape, type, extremes and a hash of the decoded pixels, and what a check_radiograph for radiographs says.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from vetdino.platform.core.errors import DicomError
from vetdino.platform.dicom.config import DicomConfig
from vetdino.platform.dicom.header import check_radiograph, read_header
from vetdino.platform.dicom.pixels import normalized_view, raw_pixels

CLOSE = 2
"""Grey values by which the extremes of a lossy picture may differ between decoders."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One file: expected and actual outcome; pixels: whether they are equal, None where there are none to compare."""

    file: str
    expected: str
    actual: str
    pixels: bool | None
    gate_expected: str
    gate_actual: str

    @property
    def same_outcome(self) -> bool:
        """Decoded, or refused for the same reason."""
        return self.expected == self.actual

    @property
    def same_gate(self) -> bool:
        """Accepted, or refused for the same reason: MULTIFRAME is our NOT_RADIOGRAPH(n frames)."""
        if self.gate_expected == "reject:MULTIFRAME":
            return self.gate_actual.startswith("reject:NOT_RADIOGRAPH(") and "frames" in self.gate_actual
        return self.gate_expected == self.gate_actual


def conformance(folder: str | Path) -> list[Comparison]:
    """A row for each file of the folder's index.csv."""
    folder = Path(folder)
    with open(folder / "index.csv", newline="", encoding="utf-8") as file:
        return [_row(folder, line) for line in csv.DictReader(file)]


def _row(folder: Path, line: Mapping[str, str]) -> Comparison:
    data = (folder / line["file"]).read_bytes()
    pixels, actual, are_equal = None, "decode", None
    try:
        pixels = raw_pixels(read_header(data))
    except DicomError as error:
        actual = error.code
    if pixels is not None and line["expect"] == "decode":
        are_equal = _same_pixels(pixels, line)
    return Comparison(
        file=line["file"],
        expected="decode" if line["expect"] == "decode" else line["reason"],
        actual=actual,
        pixels=are_equal,
        gate_expected=line["radiograph_gate"],
        gate_actual=_ingest_outcome(data),
    )


def _ingest_outcome(data: bytes) -> str:
    """What ingest makes of a file: header, then check_radiograph, then pixels."""
    config = DicomConfig()
    try:
        dataset = read_header(data)
        check_radiograph(dataset, config)
        normalized_view(dataset, raw_pixels(dataset), config)
    except DicomError as error:
        return f"reject:{error.code}" + (f"({error.detail})" if error.code == "NOT_RADIOGRAPH" else "")
    return "accept"


def _same_pixels(pixels: np.ndarray, line: Mapping[str, str]) -> bool:
    """Shape and hash; where the hash depends on the decoder, shape, type and extremes."""
    if str(pixels.shape) != line["decoded_shape"]:
        return False
    if line["hash_is_decoder_dependent"] != "1":
        return hashlib.sha1(pixels.tobytes()).hexdigest()[:10] == line["decoded_sha1_10"]
    extremes = float(line["value_min"]), float(line["value_max"])
    return pixels.dtype == line["decoded_dtype"] and np.allclose(
        (pixels.min(), pixels.max()), extremes, rtol=0, atol=CLOSE
    )


def main() -> None:
    """Prints every difference, then the figures."""
    rows = conformance(sys.argv[1])
    for row in rows:
        if not row.same_outcome:
            print(f"outcome  {row.file}: expected {row.expected}, got {row.actual}")
        if row.pixels is False:
            print(f"pixels   {row.file}: differ")
        if not row.same_gate:
            print(f"check_radiograph     {row.file}: expected {row.gate_expected}, got {row.gate_actual}")
    compared = [row.pixels for row in rows if row.pixels is not None]
    accepted = [(row.gate_expected == "accept") == (row.gate_actual == "accept") for row in rows]
    print(f"outcomes equal       {sum(row.same_outcome for row in rows)} of {len(rows)}")
    print(f"pixels equal         {sum(compared)} of {len(compared)}")
    print(f"check_radiograph, with reason    {sum(row.same_gate for row in rows)} of {len(rows)}")
    print(f"check_radiograph, accept or not  {sum(accepted)} of {len(rows)}")


if __name__ == "__main__":
    main()
