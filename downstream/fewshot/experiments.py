"""Few-shot experiments over one prepared folder: one encoder, several encoders, more and fewer support scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...platform.core.device import resolve_device
from ...platform.core.errors import ConfigError
from ..common.record import Rows
from ..volumes.volume import Volumes
from .config import FewshotConfig, FewshotEvaluateConfig, KshotConfig
from .figures import shot_curves
from .learn.adaptation import AdaptivePredictor
from .learn.encoder import TrainableEncoder
from .measure import measure
from .method.support import SupportSet
from .methods import adapted_methods, backbone_methods, row_name, trained_methods
from .record import FewshotExperiment, finished_queries, record
from .results import FewshotResults
from .sources import Backbones


def evaluate(
    volumes: Volumes,
    backbones: Backbones,
    config: FewshotEvaluateConfig,
    out: Path | str,
    trained: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """Measures one encoder: trained, frozen and adapted at test time; writes to `out`, returns the summary.

    Finished queries are kept in `out`: the same call continues after an interruption, with the same results.
    Raises ConfigError for test-time training without a network, else as `measure` and `trained_methods` do.
    """
    device = resolve_device(config.device)
    extra, encoders = trained_methods(volumes, backbones, trained, config, device)
    encoder_for: dict[str, Callable[[SupportSet], TrainableEncoder]] = {
        name: lambda support, table=table: table[support.fold, support.organ]  # type: ignore[misc]  # bound default
        for name, table in encoders.items()
    }
    if config.adapt.steps:
        for name, backbone in backbones.items():
            if backbone is None:
                raise ConfigError(f"adapt.steps is {config.adapt.steps}: {name} has no network to train")
            fresh = TrainableEncoder(backbone, config.learn, config.slices, config.seed).to(device)
            encoder_for[name] = lambda _, fresh=fresh: fresh  # type: ignore[misc]  # bound default
    methods = backbone_methods(backbones, config, adapted_methods(encoder_for, config))
    experiment = FewshotExperiment("evaluate", config, (volumes,), backbones, trained_tags(trained))
    finished = finished_queries(experiment, out, trained, device=str(device))
    results = measure(volumes, [*extra, *methods], config, finished=finished)
    return record(results, experiment, out, tables={"adaptation": adaptation_lines(results)})


def adaptation_lines(results: FewshotResults) -> list[dict[str, Any]]:
    """What test-time training did on every slice, a line each; none where nothing was trained."""
    # Several rows share a predictor: they differ in their components.
    predictors = {(method.source, method.shots): method.predictor for method in results.methods.values()}
    return [
        {"source": source, "shots": shots, **asdict(report)}
        for (source, shots), predictor in predictors.items()
        if isinstance(predictor, AdaptivePredictor)
        for report in predictor.reports
    ]


def compare(
    volumes: Volumes,
    backbones: Backbones,
    config: FewshotConfig,
    out: Path | str,
    trained: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """Measures several encoders, frozen and trained, each compared with the first; writes to `out`."""
    extra, _ = trained_methods(volumes, backbones, trained, config)
    experiment = FewshotExperiment("compare", config, (volumes,), backbones, trained_tags(trained))
    finished = finished_queries(experiment, out, trained)
    results = measure(volumes, backbone_methods(backbones, config, extra), config, finished=finished)
    return record(results, experiment, out)


def trained_tags(trained: Sequence[Path]) -> dict[str, str]:
    """Tags of a run that evaluates trained encoders: the names of their folders."""
    return {"trained": " ".join(Path(out).name for out in trained)} if trained else {}


def kshot(
    volumes: Volumes, backbones: Backbones, config: KshotConfig, out: Path | str
) -> list[dict[str, Any]]:
    """Measures every number of shots, each compared with the first number in the same compat mode.

    The modes pool several supports differently: `ours` one joint set of prototypes, `alpnet` every support's mean
    prototype in one set, `levayz` the largest of the shots' scores. Writes to `out`.
    """
    experiment = FewshotExperiment("kshot", config, (volumes,), backbones)
    finished = finished_queries(experiment, out)
    results = measure(volumes, backbone_methods(backbones, config), config, finished=finished)
    references = fewest_shots_rows(results, config)
    return record(results, experiment, out, references=references, plot=_shot_figures)


def _shot_figures(summary: Rows, label: str) -> dict[str, bytes]:
    return {
        "shots": shot_curves(summary, "dice", f"{label}: Dice by the published protocol"),
        "volume_shots": shot_curves(summary, "volume_dice", f"{label}: Dice of whole volumes, no truth used"),
    }


def fewest_shots_rows(results: FewshotResults, config: FewshotConfig) -> dict[str, str]:
    """Row -> the row that differs only in its shots, which are the first of the config."""
    return {
        row_name(method, components, config): row_name(
            replace(method, shots=config.shots[0]), components, config
        )
        for method in results.methods.values()
        for components in method.components
    }
