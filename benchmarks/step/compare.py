"""One setting at one number of studies: times in turns, ratios, share of the peak, parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from .contestants import CONTESTANTS, LightlyStep, VetdinoStep
from .cutting import crop_cutters
from .measure import Seconds, in_turns, matmul, time_by_part
from .settings import Setting, random_batch, step_flops


def compare(
    setting: Setting, studies: int, precisions: Sequence[str], rounds: int, device: torch.device
) -> dict[str, Any]:
    """All results but the memory, as they are written to the file."""
    batch = random_batch(setting, studies)
    built = {who: make(setting, batch, device) for who, make in CONTESTANTS.items()}
    losses = {who: float(contestant("float32")) for who, contestant in built.items()}
    vit = built[VetdinoStep.name].distiller.student.backbone.vit
    work = step_flops(setting, batch, vit.embed_dim, len(vit.blocks))
    products = {precision: matmul(precision, device) for precision in precisions}
    runners = {f"matmul {precision}": run for precision, (run, _) in products.items()}
    steps = {f"{who} {precision}": (who, precision) for precision in precisions for who in built}
    runners |= {label: partial(built[who], precision) for label, (who, precision) in steps.items()}
    clocks = in_turns(runners, rounds, device)
    # On a shared CPU processor time is fairer than wall time: a short product may find a quiet moment, a step does not.
    clock = "wall_min" if device.type == "cuda" else "cpu_min"
    peaks = {
        precision: flops / clocks[f"matmul {precision}"].summary[clock]
        for precision, (_, flops) in products.items()
    }
    cutting = in_turns(crop_cutters(setting), rounds, torch.device("cpu"))
    return {
        "studies": studies,
        "flops": work,
        "first_loss": losses,
        "peak_flops_per_second": peaks,
        "steps": {
            label: clocks[label].summary
            | {
                "studies_per_second": studies / min(clocks[label].wall),
                "share_of_peak": work / clocks[label].summary[clock] / peaks[precision],
                "parts": time_by_part(runners[label], built[who].learners, device),
            }
            for label, (who, precision) in steps.items()
        },
        "ratios": _ratios(clocks, precisions),
        "cutting_seconds_a_study": {who: min(seconds.wall) for who, seconds in cutting.items()},
        "rounds": {label: {"wall": seconds.wall, "cpu": seconds.cpu} for label, seconds in clocks.items()},
    }


def _ratios(clocks: dict[str, Seconds], precisions: Sequence[str]) -> dict[str, dict[str, float]]:
    """How many times faster ours is than lightly's, each precision against each."""
    ratios = {}
    for mine in precisions:
        for theirs in precisions:
            one, other = (
                clocks[f"{VetdinoStep.name} {mine}"].summary,
                clocks[f"{LightlyStep.name} {theirs}"].summary,
            )
            ratios[f"{VetdinoStep.name} {mine} / {LightlyStep.name} {theirs}"] = {
                key: other[key] / one[key] for key in one
            }
    return ratios
