"""`python -m benchmarks.ingest`: images a second and core, from a file to a stored JPEG, per transfer syntax."""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import imagecodecs
import numpy as np
import torch
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from threadpoolctl import threadpool_limits

from benchmarks.step.measure import in_turns
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.samples import stored_view
from vetdino.platform.dicom.config import DicomConfig
from vetdino.platform.dicom.header import check_radiograph, read_header
from vetdino.platform.dicom.pixels import normalized_view, raw_pixels

SIDE = 512
"""Long side of a stored view."""

ENCODERS: dict[str, Callable[[np.ndarray], bytes] | None] = {
    ExplicitVRLittleEndian: None,
    RLELossless: None,
    JPEGBaseline8Bit: lambda pixels_HW: imagecodecs.jpeg8_encode((pixels_HW >> 2).astype(np.uint8), level=95),
    JPEGExtended12Bit: lambda pixels_HW: imagecodecs.jpeg8_encode(pixels_HW << 2, level=95, bitspersample=12),
    JPEGLosslessSV1: lambda pixels_HW: imagecodecs.ljpeg_encode(pixels_HW, bitspersample=10),
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda pixels_HW: imagecodecs.jpeg2k_encode(
        pixels_HW, codecformat="j2k", reversible=True, level=0, bitspersample=10
    ),
    HTJ2KLossless: imagecodecs.htj2k_encode,
}
"""Transfer syntax -> encoder of one frame; None where pydicom writes it."""


def radiograph_like(side: int, seed: int) -> np.ndarray:
    """(H, W) uint16 of 10 bits: smooth tissue, edges, and the noise of a detector."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    tissue = 450 + 250 * np.sin(6 * x + seed) * np.cos(5 * y) + 150 * (np.hypot(x - 0.5, y - 0.4) < 0.2)
    return np.clip(tissue + random.normal(0, 6, (side, side)), 0, 1023).astype(np.uint16)


def dicom_file(pixels_HW: np.ndarray, syntax: str) -> bytes:
    """A DX file in a transfer syntax; with a window that is usable, and a rescaling, so that both are applied."""
    bits = {JPEGBaseline8Bit: 8, JPEGExtended12Bit: 12}.get(syntax, 10)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = dataset.StudyInstanceUID = (
        "2.25.1"
    )
    dataset.Modality, dataset.PatientID, dataset.ViewPosition = "DX", "k9", "VD"
    dataset.Rows, dataset.Columns = pixels_HW.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = (
        1,
        "MONOCHROME2",
        0,
    )
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 if bits == 8 else 16, bits, bits - 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits - 1), 2**bits
    dataset.PixelData = pixels_HW.tobytes()
    if encode := ENCODERS[syntax]:
        dataset.PixelData = encapsulate([encode(pixels_HW)])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def ours(data: bytes) -> bytes:
    """What a decoding worker does, without hashes, which the other side has none of."""
    config = DicomConfig(side=SIDE)
    dataset = read_header(data)
    check_radiograph(dataset, config)
    return stored_view(normalized_view(dataset, raw_pixels(dataset), config), ShardConfig()).encoded


def plain(data: bytes) -> bytes:
    """The same by pydicom and Pillow: decoded, rescaled, windowed or between percentiles, shrunk by area, JPEG."""
    dataset = dcmread(io.BytesIO(data))
    values_HW = apply_modality_lut(dataset.pixel_array, dataset)
    low, high = np.percentile(values_HW, (0.5, 99.5))
    windowed_HW = apply_voi_lut(values_HW, dataset).astype(np.float32)
    if np.ptp(windowed_HW) > 0:
        low, high = 0, 2**dataset.BitsStored - 1
    grey_HW = np.clip((windowed_HW - low) / (high - low), 0, 1) * 255
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey_HW = 255 - grey_HW
    scale = SIDE / max(grey_HW.shape)
    size = round(grey_HW.shape[1] * scale), round(grey_HW.shape[0] * scale)
    small = Image.fromarray(grey_HW).resize(size, Image.Resampling.BOX)
    target = io.BytesIO()
    Image.fromarray(np.rint(np.asarray(small)).astype(np.uint8)).save(target, "JPEG", quality=95)
    return target.getvalue()


def difference(one: bytes, other: bytes) -> float:
    """Mean difference of two JPEG pictures, in grey levels of 255."""
    first, second = (np.asarray(Image.open(io.BytesIO(data)), np.float32) for data in (one, other))
    return float(np.abs(first - second).mean())


def interval(ratios: list[float], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    draws = np.random.default_rng(seed).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return float(low), float(high)


def compare(side: int, files: int, rounds: int) -> dict[str, Any]:
    """For each transfer syntax: images a second of one core by processor time, and the ratio of each round."""
    results = {}
    for syntax in ENCODERS:
        data = [dicom_file(radiograph_like(side, seed), syntax) for seed in range(files)]
        try:
            apart = max(difference(ours(each), plain(each)) for each in data)
        except (
            Exception
        ) as error:  # pydicom has no decoder for some, among them 12-bit JPEG without pylibjpeg
            results[syntax.name] = {"ours": None, "plain": f"fails: {type(error).__name__}"}
            continue
        clocks = in_turns(
            {
                "ours": lambda data=data: [ours(each) for each in data],
                "plain": lambda data=data: [plain(each) for each in data],
            },
            rounds,
            torch.device("cpu"),
        )
        ratios = [b / a for a, b in zip(clocks["ours"].cpu, clocks["plain"].cpu, strict=True)]
        results[syntax.name] = {
            "ours": files / median(clocks["ours"].cpu),
            "plain": files / median(clocks["plain"].cpu),
            "ratio": median(ratios),
            "interval": interval(ratios),
            "difference": apart,
        }
    return results


def table(results: dict[str, Any]) -> str:
    """The results as lines of text."""
    lines = [f"{'transfer syntax':44}{'ours /s':>9}{'plain /s':>9}{'ratio':>7}{'95 %':>14}{'differ':>8}"]
    for name, found in results.items():
        if found["ours"] is None:
            lines.append(f"{name[:42]:44}{found['plain']}")
            continue
        low, high = found["interval"]
        lines.append(
            f"{name[:42]:44}{found['ours']:9.1f}{found['plain']:9.1f}{found['ratio']:7.2f}"
            f"{f'{low:.2f} to {high:.2f}':>14}{found['difference']:8.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure as the command line asks, print a table and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--side", type=int, default=1760, help="side of the radiographs in pixels")
    parser.add_argument("--files", type=int, default=2, help="radiographs per transfer syntax")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, after one warm-up round")
    parser.add_argument("--out", type=Path, default=Path("ingest.json"), help="file for the results")
    args = parser.parse_args()
    import cv2

    cv2.setNumThreads(1)
    with threadpool_limits(1):
        results = compare(args.side, args.files, args.rounds)
    print(table(results))
    versions = {name: version(name) for name in ("pydicom", "pillow", "imagecodecs")}
    machine = {"cores": os.cpu_count(), "load": os.getloadavg(), **versions}
    settings = {name: str(value) for name, value in vars(args).items()}
    args.out.write_text(
        json.dumps({"machine": machine, "settings": settings, "found": results}, indent=1) + "\n"
    )
    print(args.out)


if __name__ == "__main__":
    main()
