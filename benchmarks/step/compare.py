"""One setting at one number of studies: times in turns, ratios, share of the peak, parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from .contestants import CONTESTANTS, Lightly, Ours
from .cutting import cutters
from .measure import Seconds, in_turns, matmul, time_by_part
from .settings import Setting, batch_of, flops_of


def compare(
    setting: Setting, studies: int, precisions: Sequence[str], rounds: int, device: torch.device
) -> dict[str, Any]:
    """Everything but the memory, as it is written to the results."""
    batch = batch_of(setting, studies)
    built = {who: make(setting, batch, device) for who, make in CONTESTANTS.items()}
    losses = {who: float(contestant("float32")) for who, contestant in built.items()}
    vit = built[Ours.name].distiller.student.backbone.vit
    work = flops_of(setting, batch, vit.embed_dim, len(vit.blocks))
    products = {precision: matmul(precision, device) for precision in precisions}
    runners = {f"matmul {precision}": run for precision, (run, _) in products.items()}
    steps = {f"{who} {precision}": (who, precision) for precision in precisions for who in built}
    runners |= {label: partial(built[who], precision) for label, (who, precision) in steps.items()}
    clocks = in_turns(runners, rounds, device)
    # On a shared CPU the processor's time is the fairer one: a short product finds a quiet moment, a step does not.
    fair = "wall_min" if device.type == "cuda" else "cpu_min"
    peaks = {
        precision: flops / clocks[f"matmul {precision}"].told[fair]
        for precision, (_, flops) in products.items()
    }
    cutting = in_turns(cutters(setting), rounds, torch.device("cpu"))
    return {
        "studies": studies,
        "flops": work,
        "first_loss": losses,
        "peak_flops_per_second": peaks,
        "steps": {
            label: clocks[label].told
            | {
                "studies_per_second": studies / min(clocks[label].wall),
                "share_of_peak": work / clocks[label].told[fair] / peaks[precision],
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
    found = {}
    for mine in precisions:
        for theirs in precisions:
            one, other = clocks[f"{Ours.name} {mine}"].told, clocks[f"{Lightly.name} {theirs}"].told
            found[f"{Ours.name} {mine} / {Lightly.name} {theirs}"] = {
                key: other[key] / one[key] for key in one
            }
    return found
