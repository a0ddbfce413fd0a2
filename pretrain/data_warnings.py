"""What a training will silently lack, read off its settings and the manifest before the first step."""

from __future__ import annotations

from ..platform.data.manifest import Manifest
from .batches.order import StudyOrder
from .config import PretrainConfig


def data_warnings(config: PretrainConfig, manifest: Manifest) -> list[str]:
    """One sentence for each: a multi-view training without pairs, a probe without studies."""
    warnings = [no_pairs(config, manifest)]
    if config.probe.every and not manifest.studies("val"):
        warnings.append(
            f"{config.shards}: the val split has no studies, so there will be no probe and no best checkpoint; "
            "ingest with --val above 0"
        )
    return [text for text in warnings if text]


def no_pairs(config: PretrainConfig, manifest: Manifest) -> str:
    """Why no step of a multi-view training will see a pair of views; "" where some will, or none is wanted."""
    crops = config.crops
    if crops.p_multiview <= 0:
        return ""
    shards = manifest.of("train")
    studies, views = (sum(getattr(shard, name) for shard in shards) for name in ("studies", "views"))
    if studies < config.batch:  # refused elsewhere
        return ""
    if views == studies:  # a study has one view at least
        return (
            f"{config.shards}: each of the {studies:,} training studies has one view, so a training with "
            f"crops.p_multiview {crops.p_multiview:g} finds no pair and learns from single views; name the studies "
            "right when you ingest, or set --crops.p-multiview 0"
        )
    order = StudyOrder(studies, config.batch, config.seed)
    last_epoch = order.epoch(config.steps - 1)
    # As `StepSampler` counts: an epoch has the progress of its first step.
    if last_epoch * order.per_epoch / config.steps < crops.multiview_from:
        return (
            f"crops.multiview_from {crops.multiview_from:g} is never reached: pairs begin with an epoch, and the last "
            f"of {config.steps:,} steps at {order.per_epoch:,} an epoch begins before; lower it, or raise steps"
        )
    return ""
