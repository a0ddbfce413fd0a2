"""What `vetdino plan` prints: one table, the verdict, and every assumption with its source."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .hardware import GIB
from .memory import FRAGMENTS
from .plan import GPUS_A_MACHINE, LOADED, STUDY_BYTES, Plan

NARROW = 0.9
"""Share of a device's memory above which the prediction may be too low: no GPU has been measured yet."""

LABEL = 34
"""Width of the first column."""


def plan_page(plan: Plan) -> str:
    """The whole page as text."""
    return "\n".join(
        [_title(plan), "", *_memory(plan), *_figures(plan), "", _verdict(plan), "", *_assumed(plan)]
    )


def _title(plan: Plan) -> str:
    config, optim = plan.config, plan.config.optim
    share = config.batch // config.workers
    again = ", blocks computed twice" if optim.checkpoint_activations else ""
    return (
        f"{config.recipe}: {config.workers} x {plan.hardware.name}, {config.backbone.name}, {optim.precision}; "
        f"batch {config.batch} = {config.workers} x {share}, micro-batch {optim.micro_batch or share}, "
        f"ZeRO {optim.zero}{again}"
    )


def _memory(plan: Plan) -> Iterator[str]:
    chosen = plan.config.optim.zero
    heads = [f"ZeRO {stage}{'*' if stage == chosen else ''}" for stage in range(4)]
    yield _row("GiB of a worker (* as set)", *heads)
    for part in ("weights", "gradients", "moments", "teacher", "activations", "reserved", "total"):
        yield _row(f"  {part}", *(f"{getattr(memory, part) / GIB:.2f}" for memory in plan.memory))


def _figures(plan: Plan) -> Iterator[str]:
    """The rows below the memory: name and value."""
    config, work, step = plan.config, plan.work, plan.step_seconds
    yield _row("device memory, GiB", f"{plan.hardware.memory / GIB:.1f}")
    yield _row("activations a study, MiB", f"{work.activation_bytes / work.studies / 2**20:,.0f}")
    yield _row(
        "parameters: backbone, student", f"{work.backbone / 1e6:,.1f} M", f"{work.student / 1e6:,.1f} M"
    )
    yield _row("matrix products a study", f"{work.flops_a_study / 1e9:,.1f} GFLOP")
    yield _row("step", f"{step:.3g} s")
    yield _row(
        "  products, update, network",
        *(f"{part:.3g} s" for part in (plan.compute_seconds, plan.update_seconds, plan.network_seconds)),
    )
    yield _row("studies a second, all workers", f"{plan.studies_a_second:,.1f}")
    yield _row("sent a step and worker", _bytes(plan.sent))
    yield _row("loader processes a worker", f"{plan.loaders}", f"(set: {config.loaders})")
    hours = config.steps * step / 3600
    yield _row("whole training", f"{config.steps:,} steps", f"{hours:,.2f} h")
    archive = plan.archive
    if archive:
        steps = archive.studies // config.batch
        yield _row(
            "epoch", f"{steps:,} steps", f"{steps * step / 3600:,.2f} h", f"{archive.studies:,} studies"
        )
        yield _row("shards", _bytes(archive.bytes), "" if archive.counted else "(assumed)")
    yield _row("checkpoint; all at their most", _bytes(plan.checkpoint_bytes), _bytes(plan.kept_bytes))
    if plan.plan.price:
        spent = plan.plan.price * hours * config.workers
        yield _row("cost of the training", f"{spent:,.2f}", f"({hours * config.workers:,.1f} GPU hours)")


def _verdict(plan: Plan) -> str:
    total = plan.memory[plan.config.optim.zero].total / GIB
    limit = plan.hardware.memory / GIB
    if plan.fits and total > NARROW * limit:
        return f"Fits narrowly: {total:.1f} of {limit:.1f} GiB a worker, within the prediction's error; try it first."
    if plan.fits:
        return f"Fits: {total:.1f} of {limit:.1f} GiB a worker."
    if plan.advice:
        return f"Does not fit: {total:.1f} of {limit:.1f} GiB a worker. Nearest that does: {' '.join(plan.advice)}"
    return (
        f"Does not fit: {total:.1f} of {limit:.1f} GiB a worker, nor with micro-batches of 1, ZeRO 3 and "
        "--optim.checkpoint-activations; take more or larger GPUs, or a smaller --batch."
    )


def _assumed(plan: Plan) -> Iterator[str]:
    """Every assumption with its source."""
    device, config = plan.hardware, plan.config
    peak = device.peak(config.optim.precision) or math.nan
    gpu = device.device_type == "cuda"
    yield "Counted: products and activations, by this step itself on tensors without data; compiled or not is the same."
    yield "Assumed:"
    source = "the maker's data sheet, dense" if gpu else "measured now by a product of 1,024 x 1,024"
    yield f"* peak {peak / 1e12:,.3g} TFLOP/s in {config.optim.precision} ({source})"
    if plan.plan.peak_share:
        yield f"* {plan.peak_share:.0%} of it reached (as set)"
    elif gpu:
        yield (
            f"* {plan.peak_share:.0%} of it reached (DINOv3's ViT-L/16 on an H100 17 to 24 %, DINOv2's on an A100, 93 "
            "images a second, 45 %; ours is not measured on a GPU yet): --peak-share"
        )
    else:
        yield f"* {plan.peak_share:.0%} of it reached (benchmarks.step, ViT-S, 55 to 92 %): --peak-share"
    where = "data sheet" if gpu else "measured now by a copy"
    yield (
        f"* {device.bandwidth / 1e9:,.0f} GB/s of memory for the update, 36 bytes a number and 12 for the EMA "
        f"({where})"
    )
    if config.workers > 1:
        within = config.workers <= GPUS_A_MACHINE
        line = device.link if within else plan.plan.network * 1e9 / 8
        name = "the link within a machine, data sheet" if within else "--network"
        yield f"* {line / 1e9:,.4g} GB/s between workers ({name}), all of it used, nothing overlapped with products"
    yield (
        f"* {device.reserved / GIB:.1f} GiB before the first tensor, {FRAGMENTS:.0%} of the activations lost by the "
        "allocator (rules of thumb)"
    )
    yield "* ZeRO as DeepSpeed 0.19's defaults have it, a bucket of 5e8 float32 (its source)"
    yield (
        f"* {LOADED[plan.cuts_on]:,.0f} studies a second and loader, crops cut on the {plan.cuts_on} "
        "(benchmarks.loader: two of seven views of 512 px, 24 crops)"
    )
    if plan.archive and not plan.archive.counted:
        size = f"{STUDY_BYTES / 1e3:,.0f} kB"
        yield f"* {size} a study in shards (benchmarks.loader: seven views of 512 px, 45 kB each)"
    if plan.plan.price:
        yield f"* {plan.plan.price:g} a GPU hour (--price); storage, processors and failed runs cost nothing"


def _row(label: str, *cells: str) -> str:
    return f"{label:<{LABEL}}" + "".join(f"  {cell:>14}" for cell in cells)


def _bytes(count: float) -> str:
    """Decimal, as network and disks are sold.

    >>> _bytes(1_234_000_000), _bytes(0)
    ('1.23 GB', '0 kB')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
