"""`python -m benchmarks.loader`: training batches from shards, against webdataset and a folder of pictures."""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.manifest import VERSION, Manifest, load_manifest, save_manifest
from vetdino.platform.data.samples import sample_files
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View
from vetdino.pretrain.batches.crop_plan import PlannedStudy, planned_study
from vetdino.pretrain.batches.crops import StudyCrops, cut_crops
from vetdino.pretrain.batches.loader import CropDataset, _collate, crop_loader
from vetdino.pretrain.batches.masks import block_mask
from vetdino.pretrain.batches.order import StepSampler, StudyOrder
from vetdino.pretrain.batches.seeds import derived_seed
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.recipes import recipe

CUTS = ("device", "cpu")
"""Where crops are cut: `device` ends with two decoded views a study and the plan of crops, `cpu` with the crops."""

Item = tuple[StudyCrops | PlannedStudy, np.ndarray]

# Data -----------------------------------------------------------------------------------------------------


def picture(random: np.random.Generator, side: int) -> np.ndarray:
    """A picture with shapes of several sizes and grain: (side, narrower) uint8; about 45 kB as JPEG of 512 px."""
    shape = width, height = int(random.integers(side * 3 // 4, side + 1)), side
    large = cv2.resize(
        random.integers(20, 230, (9, 8)).astype(np.float32), shape, interpolation=cv2.INTER_CUBIC
    )
    middle = random.normal(0, 12, (height // 12, width // 12)).astype(np.float32)
    grain = cv2.GaussianBlur(random.normal(0, 5, (height, width)).astype(np.float32), (0, 0), 0.8)
    return np.clip(large + cv2.resize(middle, shape) + grain, 0, 255).astype(np.uint8)


def write_data(out: Path, studies: int, views: int, side: int, shard_bytes: int, seed: int) -> None:
    """The same JPEG files as shards, `out/shards`, and as one folder a study, `out/pictures/KEY/view0.jpg`."""
    random, config = np.random.default_rng(seed), ShardConfig(max_bytes=shard_bytes)
    with ShardWriter(out / "shards", "train", config) as writer:
        for number in range(studies):
            key = f"{number:024x}"
            pictures = (View(picture(random, side), "VD", spacing=(0.3, 0.3)) for _ in range(views))
            study = Study(key, key, tuple(pictures), {"finding": float(number % 2)})
            writer.write(study)
            (out / "pictures" / key).mkdir(parents=True)
            for name, content in sample_files(study, config)[1:]:
                (out / "pictures" / key / name.partition(".")[2]).write_bytes(content)
    counts = {"studies": studies}
    save_manifest(
        out / "shards", Manifest(VERSION, "noise", ("finding",), tuple(writer.shards), counts, "0" * 64)
    )


# Contestants ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class LateView:
    """A view that is decoded when it is drawn; all contestants decode the two of a pair only."""

    read: Callable[[], np.ndarray]
    projection: str = "VD"

    def decode(self) -> View:
        """The view with its pixels."""
        return View(self.read())


def item(config: PretrainConfig, cut: str, key: str, views: list[LateView], epoch: int) -> Item:
    """What `CropDataset` makes of a study: the same pair, crops and hidden patches."""
    study = Study(key, key, tuple(views))  # type: ignore[arg-type]
    generator = np.random.default_rng(derived_seed(config.seed, epoch, f"{key}/hidden"))
    grid = config.crops.global_side // config.patch_side
    hidden = [block_mask(grid, config.distill.masks, generator) for _ in range(config.crops.globals_per_view)]
    planned = planned_study(study, config.crops, seed=config.seed, epoch=epoch)
    return planned if cut == "device" else cut_crops(planned, config.crops), np.stack(hidden)


def ours(data: Path, config: PretrainConfig, cut: str) -> Iterator[object]:
    """Batches without end as `vetdino pretrain` loads them, of one worker without loader processes."""
    grid = config.crops.global_side // config.patch_side
    folders, planned_only = [str(data / "shards")], cut == "device"
    dataset = CropDataset(
        folders, config.crops, config.distill.masks, grid, config.seed, planned_only=planned_only
    )
    order = StudyOrder(len(dataset), config.batch, config.seed)
    yield from crop_loader(dataset, StepSampler(order, first=0, steps=2**31, rank=0, world=1), 0)


def webdataset_pipeline(data: Path, config: PretrainConfig, cut: str) -> Iterator[object]:
    """Batches without end of webdataset's pipeline, decoded by OpenCV. Neither checksums nor JSON are looked at."""
    import webdataset

    def grey(content: bytes) -> np.ndarray:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)

    def studied(sample: dict[str, bytes], epoch: int) -> Item:
        views = [LateView(partial(grey, sample[name])) for name in sorted(sample) if name.endswith(".jpg")]
        return item(config, cut, str(sample["__key__"]), views, epoch)

    shards = [str(data / "shards" / shard.path) for shard in load_manifest(data / "shards").of("train")]
    for epoch in range(2**31):
        dataset = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
        yield from dataset.map(partial(studied, epoch=epoch)).batched(
            config.batch, collation_fn=_collate, partial=False
        )


class PictureFolder(Dataset):
    """A folder for each study, as torchvision's ImageFolder has one for each class; Pillow decodes as there."""

    def __init__(self, data: Path, config: PretrainConfig, cut: str) -> None:
        self.config, self.cut, self.epoch = config, cut, 0
        folders = sorted((data / "pictures").iterdir())
        self.studies = [(folder.name, sorted(folder.iterdir())) for folder in folders]

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, row: int) -> Item:
        key, paths = self.studies[row]
        views = [LateView(partial(self._read, path)) for path in paths]
        return item(self.config, self.cut, key, views, self.epoch)

    def _read(self, path: Path) -> np.ndarray:
        with path.open("rb") as file:
            return np.asarray(Image.open(io.BytesIO(file.read())).convert("L"))


def picture_folder(data: Path, config: PretrainConfig, cut: str) -> Iterator[object]:
    """Batches without end of a shuffling DataLoader over a `PictureFolder`."""
    dataset = PictureFolder(data, config, cut)
    for dataset.epoch in range(2**31):
        yield from DataLoader(dataset, config.batch, shuffle=True, drop_last=True, collate_fn=_collate)


CONTESTANTS = {"ours": ours, "webdataset": webdataset_pipeline, "folder": picture_folder}

# Measuring ------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, data: Path) -> list[dict[str, object]]:
    """For each cut and contestant, in turns: studies a second of processor time, round by round."""
    rows = []
    config = recipe(args.recipe)
    for cut in args.cuts:
        batches = {
            name: make(
                data, PretrainConfig(crops=config.crops, backbone=config.backbone, batch=args.batch), cut
            )
            for name, make in CONTESTANTS.items()
        }
        for stream in batches.values():
            next(stream)  # warm-up: imports, tables, caches of the file system
        rates: dict[str, list[float]] = {name: [] for name in batches}
        gc.disable()
        for number in range(args.rounds):
            for name in np.roll(list(batches), number).tolist():  # so that none always follows the same other
                began = time.thread_time()
                for _ in range(args.steps):
                    next(batches[name])
                rates[name].append(args.steps * args.batch / (time.thread_time() - began))
            gc.collect()
        gc.enable()
        rows += [row_of(cut, name, rate, rates["ours"]) for name, rate in rates.items()]
    return rows


def row_of(cut: str, name: str, rates: list[float], own: list[float]) -> dict[str, object]:
    """A contestant's figures. ratio: how many times faster ours was in the same round, median with a 95 % interval."""
    ratios = np.array(own) / np.array(rates)
    draws = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.percentile(np.median(draws, 1), [2.5, 97.5])
    return {
        "cut": cut,
        "contestant": name,
        "studies_per_cpu_second": float(np.median(rates)),
        "ratio": float(np.median(ratios)),
        "low": float(low),
        "high": float(high),
        "rounds": rates,
    }


def table(rows: list[dict[str, object]]) -> str:
    """The figures as lines of text."""
    lines = [f"{'cut':8}{'contestant':12}{'studies/cpu s':>14}{'ours is':>10}   95 % interval"]
    for row in rows:
        lines.append(
            f"{row['cut']:8}{row['contestant']:12}{row['studies_per_cpu_second']:>14.0f}{row['ratio']:>9.2f}x"
            f"   {row['low']:.2f} to {row['high']:.2f}"
        )
    return "\n".join(lines)


# Memory and open files ------------------------------------------------------------------------------------


class Watched(Dataset):
    """The training studies of shards, one for each item, with what the process that loads it holds by then."""

    def __init__(self, dataset: CropDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[int, int]:
        """(open files, private memory in bytes)."""
        self.dataset.index.load(row)
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        private = sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024
        return len(os.listdir("/proc/self/fd")), private


def worker_use(folders: list[str], limit: int) -> dict[str, int]:
    """Open files and private memory of a loader process after a read of every study, under `ulimit -n LIMIT`."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    config = recipe("multi_view_s14")
    dataset = CropDataset(folders, config.crops, config.distill.masks, 16, 0)
    loader = DataLoader(Watched(dataset), batch_size=None, num_workers=1, multiprocessing_context="fork")
    uses = [(int(files), int(memory)) for files, memory in loader]
    return {
        "studies": len(uses),
        "shards": sum(len(load_manifest(folder).of("train")) for folder in folders),
        "limit": limit,
        "open_files": max(files for files, _ in uses),
        "first_mb": uses[0][1] // 2**20,
        "last_mb": uses[-1][1] // 2**20,
    }


def many_shards(args: argparse.Namespace, out: Path) -> dict[str, int]:
    """`worker_use` of two folders of many shards of one small study each, in a process of its own."""
    for name in ("a", "b"):
        write_data(out / name, args.many // 2, 1, 64, 1, ord(name))
    folders = [str(out / name / "shards") for name in ("a", "b")]
    program = (
        "import json, sys; from benchmarks.loader.__main__ import worker_use; "
        "print(json.dumps(worker_use(sys.argv[2:], int(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(args.limit), *folders], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure as the command line says, print a table and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__)
    parser.add_argument("--recipe", default="multi_view_s14", help="whose crops are cut")
    parser.add_argument("--studies", type=int, default=512)
    parser.add_argument("--views", type=int, default=7, help="of a study; two of them are decoded")
    parser.add_argument("--side", type=int, default=512, help="longer side of a picture in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4, help="batches of a contestant in a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cuts", nargs="+", choices=CUTS, default=CUTS)
    parser.add_argument("--many", type=int, default=1000, help="shards for the figures of memory; 0 for none")
    parser.add_argument("--limit", type=int, default=256, help="files that the loader process may open")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("loader.json"), help="file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_data(data, args.studies, args.views, args.side, 64 * 2**20, args.seed)
        rows = measure(args, data)
        print(table(rows))
        use = many_shards(args, data / "many") if args.many else {}
        print(use)
    settings = {name: str(value) for name, value in vars(args).items()}
    args.out.write_text(json.dumps({"settings": settings, "found": rows, "worker": use}, indent=1) + "\n")
    print(args.out)


if __name__ == "__main__":
    main()
