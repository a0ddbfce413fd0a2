"""What a training will silently lack, read off its settings and the manifests before the first step."""

from __future__ import annotations

from ..platform.data.manifest import Manifest
from .config import PretrainConfig, TrainingConfig
from .mixture import Mixture, study_order


def data_warnings(config: TrainingConfig, mixture: Mixture) -> list[str]:
    """One sentence for each: a multi-view training or a folder without pairs, a probe without studies."""
    texts: list[str] = []
    if isinstance(config, PretrainConfig):  # a distillation needs no pairs
        texts = [no_pairs(config, mixture)]
        if not texts[0] and config.crops.p_multiview > 0:
            texts = [_single_views(config, folder, manifest) for folder, manifest in mixture.parts]
    if config.probe.every:
        without = [folder for folder, manifest in mixture.parts if not manifest.studies("val")]
        lacks = "there will be no probe and no best checkpoint"
        if len(without) < len(mixture.folders):
            lacks = "the probe evaluates studies of the other folders only"
        texts += [
            f"{folder}: the val split has no studies, so {lacks}; ingest with --val above 0"
            for folder in without
        ]
    return [text for text in texts if text]


def no_pairs(config: PretrainConfig, mixture: Mixture) -> str:
    """Why no step of a multi-view training will see a pair of views; "" where some will, or none is wanted."""
    crops = config.crops
    if crops.p_multiview <= 0 or mixture.studies("train") < config.batch:  # refused elsewhere
        return ""
    singles = [_single_views(config, folder, manifest) for folder, manifest in mixture.parts]
    if all(singles):
        return "; ".join(singles)
    order = study_order(config, mixture)
    last_epoch = order.epoch(config.steps - 1)
    # As `StepSampler` counts: an epoch has the progress of its first step.
    if last_epoch * order.per_epoch / config.steps < crops.multiview_from:
        return (
            f"crops.multiview_from {crops.multiview_from:g} is never reached: pairs begin with an epoch, and the last "
            f"of {config.steps:,} steps at {order.per_epoch:,} an epoch begins before; lower it, or raise steps"
        )
    return ""


def _single_views(config: PretrainConfig, folder: str, manifest: Manifest) -> str:
    """Why no training study of a folder will give a pair of views; "" where some may."""
    shards = manifest.of("train")
    studies, views = (sum(getattr(shard, name) for shard in shards) for name in ("studies", "views"))
    if views > studies:  # a study has one view at least
        return ""
    return (
        f"{folder}: each of the {studies:,} training studies has one view, so a training with "
        f"crops.p_multiview {config.crops.p_multiview:g} finds no pair and learns from single views; name the studies "
        "right when you ingest, or set --crops.p-multiview 0"
    )
