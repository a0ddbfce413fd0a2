"""`python -m benchmarks.facets`: seconds of both methods and peak memory of ours, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from benchmarks.step.measure import peak_memory
from vetdino.platform.models.backbone import Backbone, random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.facets import KINDS, Facets, extract_facets

# B images, N patches, L tokens, D width, H heads of size E.

CPU = torch.device("cpu")

LIMIT = 1.5e9
"""Bytes that co-segmentation features of ten images at stride 4 may add to a process."""


def small_vit(args: argparse.Namespace) -> Backbone:
    """A ViT-S/8 with random weights, or of the size that the settings give."""
    shape = {"width": args.width, "heads": args.heads, "depth": args.depth}
    config = BackboneConfig(name="vit_small_patch16_224", side=args.side, patch=8, **shape)
    return random_backbone(config, 0).eval()


def random_images(args: argparse.Namespace) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randn(args.images, 1, args.side, args.side, generator=draws)


def in_one_pass(backbone: Backbone, images_B1HW: Tensor) -> Facets:
    blocks = range(len(backbone.vit.blocks))
    return extract_facets(backbone, images_B1HW, blocks=blocks, kinds=KINDS, attention=blocks)


@torch.no_grad()
def one_by_one(backbone: Backbone, images_B1HW: Tensor) -> dict[tuple[int, str], Tensor]:
    """As extractors of dense features do it: with a hook on one block, a pass of the whole network per image for every
    facet, and one more for the full attention map, of which the CLS row is kept."""
    facets = {}
    for number, block in enumerate(backbone.vit.blocks):
        for kind in (*KINDS, "attention"):
            seen: list[Tensor] = []
            module = block if kind == "token" else block.attn.qkv
            handle = module.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out[0]))
            rows = []
            for image_1HW in images_B1HW:
                backbone.vit.forward_features(image_1HW[None])
                rows.append(_facet(seen.pop(), kind, block.attn.num_heads)[..., backbone.prefix :, :])
            handle.remove()
            facets[number, kind] = torch.stack(rows)
    return facets


def _facet(hooked_LX: Tensor, kind: str, heads: int) -> Tensor:
    """A hooked output as one facet, (L, D); for `attention`, that of the CLS token, (L, H)."""
    if kind == "token":
        return hooked_LX
    query_HLE, key_HLE, value_HLE = hooked_LX.unflatten(-1, (3, heads, -1)).permute(1, 2, 0, 3)
    if kind == "attention":
        attention_HLL = (query_HLE * query_HLE.shape[-1] ** -0.5 @ key_HLE.transpose(1, 2)).softmax(-1)
        return attention_HLL[:, 0].T
    return {"query": query_HLE, "key": key_HLE, "value": value_HLE}[kind].transpose(0, 1).flatten(1)


def largest_difference(ours: Facets, theirs: dict[tuple[int, str], Tensor]) -> float:
    """The largest difference between the two methods, over all facets."""
    same = {
        **ours.features,
        **{(block, "attention"): attention.mT for block, attention in ours.cls_attention.items()},
    }
    assert same.keys() == theirs.keys()
    return max((same[key] - value).abs().max().item() for key, value in theirs.items())


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = run()
    return answer, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def memory_growth(args: argparse.Namespace) -> dict[str, int]:
    """Bytes that features at the finer stride add to this process: the last block's keys and CLS attention (what
    co-segmentation needs), or all of its facets and the attention of all blocks."""
    backbone, images = small_vit(args), random_images(args)
    extract_facets(backbone, images[:1, :, :32, :32], kinds=KINDS)
    before = peak_memory(CPU)
    blocks = range(len(backbone.vit.blocks))
    wanted = {} if args.memory == "keys" else {"kinds": KINDS, "attention": blocks}
    answer = extract_facets(backbone, images, stride=args.stride, **wanted)
    parts = [*answer.features.values(), *answer.cls_attention.values()]
    return {"grown": peak_memory(CPU) - before, "answer": sum(part.nbytes for part in parts)}


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both methods, and the largest difference of their outputs."""
    backbone, images = small_vit(args), random_images(args)
    for method in (in_one_pass, one_by_one):  # warm-up on a small image
        method(backbone, images[:1, :, :32, :32])
    ours, our_seconds = timed(lambda: in_one_pass(backbone, images))
    theirs, their_seconds = timed(lambda: one_by_one(backbone, images))
    return {
        "one pass": our_seconds,
        "a pass each": their_seconds | {"passes": len(theirs)},
        "ratio": {name: their_seconds[name] / our_seconds[name] for name in our_seconds},
        "apart": largest_difference(ours, theirs),
    }


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.facets", description=__doc__)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument(
        "--side", type=int, default=224, help="image side in pixels; patches of 8 pixels do not overlap"
    )
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--stride", type=int, default=4, help="stride at which memory is measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", choices=("keys", "facets"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("facets.json"), help="file for the results")
    return parser.parse_args(arguments)


def run_in_own_process(arguments: list[str], memory: str) -> dict[str, int]:
    """`memory_growth` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.facets", *arguments, "--memory", memory]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure as the command line asks, print a table and write the results."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        print(json.dumps(memory_growth(args)))
        return
    memory = {name: run_in_own_process(sys.argv[1:], name) for name in ("keys", "facets")}
    for name, sizes in memory.items():
        grown_mb, answer_mb = (sizes[part] / 1e6 for part in ("grown", "answer"))
        print(
            f"stride {args.stride}, {name:6}    memory growth {grown_mb:8.0f} MB, of it the result {answer_mb:8.0f} MB"
        )
    results = compare(args)
    for name in ("one pass", "a pass each"):
        print(f"{name:18}  cpu {results[name]['cpu']:8.1f} s, wall {results[name]['wall']:8.1f} s")
    print(f"ratio by cpu {results['ratio']['cpu']:.1f}, largest difference {results['apart']:.1e}")
    machine = {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    settings = {name: str(value) for name, value in vars(args).items()}
    report = {"machine": machine, "settings": settings, "memory": memory, "found": results}
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(args.out)


if __name__ == "__main__":
    main()
