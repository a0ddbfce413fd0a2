"""`python -m benchmarks.facets`: seconds of both ways and the most memory of ours, as a table and as JSON."""

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
"""Bytes that the co-segmentation's features of ten images at stride 4 may add to a process."""


def backbone_of(asked: argparse.Namespace) -> Backbone:
    """A ViT-S/8 at random weights, or what the settings make of it."""
    shape = {"width": asked.width, "heads": asked.heads, "depth": asked.depth}
    config = BackboneConfig(name="vit_small_patch16_224", side=asked.side, patch=8, **shape)
    return random_backbone(config, 0).eval()


def images_of(asked: argparse.Namespace) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randn(asked.images, 1, asked.side, asked.side, generator=draws)


def in_one_pass(backbone: Backbone, images_B1HW: Tensor) -> Facets:
    blocks = range(len(backbone.vit.blocks))
    return extract_facets(backbone, images_B1HW, blocks=blocks, kinds=KINDS, attention=blocks)


@torch.no_grad()
def one_by_one(backbone: Backbone, images_B1HW: Tensor) -> dict[tuple[int, str], Tensor]:
    """As extractors of dense features do it: a hook on one block, the whole network over an image for one facet,
    once more for each of the others, and again for the full attention map of which the CLS row is kept."""
    found = {}
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
            found[number, kind] = torch.stack(rows)
    return found


def _facet(heard_LX: Tensor, kind: str, heads: int) -> Tensor:
    """What a hook heard as one facet, (L, D); the look of the CLS token at each, (L, H)."""
    if kind == "token":
        return heard_LX
    query_HLE, key_HLE, value_HLE = heard_LX.unflatten(-1, (3, heads, -1)).permute(1, 2, 0, 3)
    if kind == "attention":
        look_HLL = (query_HLE * query_HLE.shape[-1] ** -0.5 @ key_HLE.transpose(1, 2)).softmax(-1)
        return look_HLL[:, 0].T
    return {"query": query_HLE, "key": key_HLE, "value": value_HLE}[kind].transpose(0, 1).flatten(1)


def furthest(ours: Facets, theirs: dict[tuple[int, str], Tensor]) -> float:
    """The largest difference between the two ways' answers, over all facets."""
    same = {**ours.of, **{(block, "attention"): look.mT for block, look in ours.cls_attention.items()}}
    assert same.keys() == theirs.keys()
    return max((same[key] - value).abs().max().item() for key, value in theirs.items())


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = run()
    return answer, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def grown(asked: argparse.Namespace) -> dict[str, int]:
    """Bytes that features at the finer stride add to this process: the last block's keys and CLS attention (what
    co-segmentation needs), or all of its facets and the attention of all blocks."""
    backbone, images = backbone_of(asked), images_of(asked)
    extract_facets(backbone, images[:1, :, :32, :32], kinds=KINDS)
    before = peak_memory(CPU)
    blocks = range(len(backbone.vit.blocks))
    wanted = {} if asked.memory == "keys" else {"kinds": KINDS, "attention": blocks}
    answer = extract_facets(backbone, images, stride=asked.stride, **wanted)
    parts = [*answer.features.values(), *answer.cls_attention.values()]
    return {"grown": peak_memory(CPU) - before, "answer": sum(part.nbytes for part in parts)}


def compare(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both ways and how far they are apart."""
    backbone, images = backbone_of(asked), images_of(asked)
    for way in (in_one_pass, one_by_one):  # a round that does not count, of a small picture
        way(backbone, images[:1, :, :32, :32])
    ours, our_seconds = timed(lambda: in_one_pass(backbone, images))
    theirs, their_seconds = timed(lambda: one_by_one(backbone, images))
    return {
        "one pass": our_seconds,
        "a pass each": their_seconds | {"passes": len(theirs)},
        "ratio": {name: their_seconds[name] / our_seconds[name] for name in our_seconds},
        "apart": furthest(ours, theirs),
    }


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.facets", description=__doc__)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--side", type=int, default=224, help="pixels; patches are 8 wide and do not overlap")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--stride", type=int, default=4, help="where memory is measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", choices=("keys", "facets"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("facets.json"), help="file for the results")
    return parser.parse_args(arguments)


def in_a_process_of_its_own(arguments: list[str], memory: str) -> dict[str, int]:
    """`grown` where nothing else has been held before."""
    command = [sys.executable, "-m", "benchmarks.facets", *arguments, "--memory", memory]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure as the command line asks, print a table and write the results."""
    asked = parsed()
    torch.set_num_threads(asked.threads)
    if asked.memory:
        print(json.dumps(grown(asked)))
        return
    memory = {name: in_a_process_of_its_own(sys.argv[1:], name) for name in ("keys", "facets")}
    for name, told in memory.items():
        grown_mb, answer_mb = (told[part] / 1e6 for part in ("grown", "answer"))
        print(
            f"stride {asked.stride}, {name:6}    grown {grown_mb:8.0f} MB, of it the answer {answer_mb:8.0f} MB"
        )
    found = compare(asked)
    for name in ("one pass", "a pass each"):
        print(f"{name:18}  cpu {found[name]['cpu']:8.1f} s, wall {found[name]['wall']:8.1f} s")
    print(f"ratio by cpu {found['ratio']['cpu']:.1f}, furthest apart {found['apart']:.1e}")
    machine = {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    settings = {name: str(value) for name, value in vars(asked).items()}
    told = {"machine": machine, "settings": settings, "memory": memory, "found": found}
    asked.out.write_text(json.dumps(told, indent=1) + "\n")
    print(asked.out)


if __name__ == "__main__":
    main()
