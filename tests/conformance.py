"""How many files of a conformance folder come out as its index says: `python tests/conformance.py FOLDER`.

Not a test: the folder is not part of the project. Its index.csv names for every file whether it decodes
or why not, shape, type, extremes and a hash of the decoded pixels, and what a gate for radiographs says.
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
from vetdino.platform.ingest.dicom import DicomConfig, gate, header_of, normalised, raw_pixels

CLOSE = 2
"""Grey values by which the extremes of a lossy picture may differ between decoders."""


@dataclass(frozen=True, slots=True)
class Row:
    """One file: what the index expects and what we found; pixels is None where nothing was to be compared."""

    file: str
    expected: str
    found: str
    pixels: bool | None
    gate_expected: str
    gate_found: str

    @property
    def same_outcome(self) -> bool:
        """Decoded, or refused for the same reason."""
        return self.expected == self.found

    @property
    def same_gate(self) -> bool:
        """Accepted, or refused for the same reason: MULTIFRAME is our NOT_RADIOGRAPH(n frames)."""
        if self.gate_expected == "reject:MULTIFRAME":
            return self.gate_found.startswith("reject:NOT_RADIOGRAPH(") and "frames" in self.gate_found
        return self.gate_expected == self.gate_found


def conformance(folder: str | Path) -> list[Row]:
    """A row for each file of the folder's index.csv."""
    folder = Path(folder)
    with open(folder / "index.csv", newline="", encoding="utf-8") as file:
        return [_row(folder, line) for line in csv.DictReader(file)]


def _row(folder: Path, line: Mapping[str, str]) -> Row:
    data = (folder / line["file"]).read_bytes()
    pixels, found, compared = None, "decode", None
    try:
        pixels = raw_pixels(header_of(data))
    except DicomError as error:
        found = error.code
    if pixels is not None and line["expect"] == "decode":
        compared = _same_pixels(pixels, line)
    return Row(
        file=line["file"],
        expected="decode" if line["expect"] == "decode" else line["reason"],
        found=found,
        pixels=compared,
        gate_expected=line["radiograph_gate"],
        gate_found=_gate(data),
    )


def _gate(data: bytes) -> str:
    """What ingest makes of a file: header, then gate, then pixels."""
    config = DicomConfig()
    try:
        dataset = header_of(data)
        gate(dataset, config)
        normalised(dataset, raw_pixels(dataset), config)
    except DicomError as error:
        return f"reject:{error.code}" + (f"({error.detail})" if error.code == "NOT_RADIOGRAPH" else "")
    return "accept"


def _same_pixels(pixels: np.ndarray, line: Mapping[str, str]) -> bool:
    """Shape and hash; where the hash depends on the decoder, shape, type and extremes."""
    if str(pixels.shape) != line["decoded_shape"]:
        return False
    if line["hash_is_decoder_dependent"] != "1":
        return hashlib.sha1(pixels.tobytes()).hexdigest()[:10] == line["decoded_sha1_10"]
    told = float(line["value_min"]), float(line["value_max"])
    return pixels.dtype == line["decoded_dtype"] and np.allclose(
        (pixels.min(), pixels.max()), told, rtol=0, atol=CLOSE
    )


def main() -> None:
    """Prints every difference, then the figures."""
    rows = conformance(sys.argv[1])
    for row in rows:
        if not row.same_outcome:
            print(f"outcome  {row.file}: expected {row.expected}, found {row.found}")
        if row.pixels is False:
            print(f"pixels   {row.file}: differ")
        if not row.same_gate:
            print(f"gate     {row.file}: expected {row.gate_expected}, found {row.gate_found}")
    compared = [row.pixels for row in rows if row.pixels is not None]
    accepted = [(row.gate_expected == "accept") == (row.gate_found == "accept") for row in rows]
    print(f"outcomes equal       {sum(row.same_outcome for row in rows)} of {len(rows)}")
    print(f"pixels equal         {sum(compared)} of {len(compared)}")
    print(f"gate, with reason    {sum(row.same_gate for row in rows)} of {len(rows)}")
    print(f"gate, accept or not  {sum(accepted)} of {len(rows)}")


if __name__ == "__main__":
    main()
