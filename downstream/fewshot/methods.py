"""The rows of a few-shot table: encoders, baselines and the oracle, each with its settings and a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ...platform.core.errors import ConfigError
from ..volumes.volume import Volumes
from .config import FewshotConfig, FewshotEvaluateConfig
from .learn.adaptation import AdaptivePredictor
from .learn.encoder import TrainableEncoder
from .learn.trained import load_trained_encoders
from .method.alignment import Aligner
from .method.choice import SupportChosen, mode_predictor, source_choice
from .method.config import Components
from .method.predictors import EncoderChoice, FoldEncoders, Predictor, copy_predictor, oracle_predictor
from .method.slices import SliceFeatures
from .method.support import SupportSet
from .sources import Backbones, baseline_features, slice_features, trained_backbone_digest

if TYPE_CHECKING:
    import torch

    from ...platform.models.backbone import Backbone

ENCODER = "encoder"
"""Name of a table's only backbone."""

FoldEncoderTable: TypeAlias = Mapping[tuple[int, int], TrainableEncoder]
"""(fold, class number) -> the encoder trained for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """Rows of the table that share their predictions, one row for each of `components`.

    shots: number of support scans. refinement: see `ScanConfig`. baseline: whether it is a baseline or the oracle.
    aligner: finds an organ's stretch in whole volumes; None: guessed from the support's. chosen: what the supports
    choose. spread_over: the features over which margins are spread; None: they are not.
    """

    source: str
    compat: str
    predictor: Predictor
    components: tuple[Components, ...]
    shots: int = 1
    refinement: Mapping[str, float] = field(default_factory=dict)
    baseline: bool = False
    aligner: Aligner | None = None
    spread_over: EncoderChoice | None = None
    chosen: SupportChosen | None = None


def backbone_methods(
    backbones: Backbones, config: FewshotConfig, extra: Sequence[Method] = ()
) -> list[Method]:
    """`feature_methods` of backbones and of the baselines that `config.floors` names."""
    features = {name: slice_features(backbone, config) for name, backbone in backbones.items()}
    return feature_methods(features, config, baseline_features(backbones, config), extra)


def feature_methods(
    features: Mapping[str, SliceFeatures],
    config: FewshotConfig,
    baselines: Mapping[str, SliceFeatures] | None = None,
    extra: Sequence[Method] = (),
) -> list[Method]:
    """Methods over each source of features, the first one the main method; then `extra`; then the baselines.

    baselines: features of baselines, in the main compat mode and components alone. Copy and oracle follow if
    `config.floors` names them; the oracle has the grid of the first source.
    """
    max_scans = max(config.shots) + 1
    choices = {name: source_choice(one, config, max_scans) for name, one in features.items()}
    methods = [method for name, one in choices.items() for method in prototype_methods(name, one, config)]
    main_method = methods[0]
    methods += extra
    main = replace(config, beside=(), components_beside=())
    for name, one in (baselines or {}).items():
        same = source_choice(one, config, max_scans)
        methods += [replace(method, baseline=True) for method in prototype_methods(name, same, main)]
    if "copy" in config.floors:
        methods += [
            Method("copy", "", copy_predictor, ("all",), shots, baseline=True) for shots in config.shots
        ]
    if "oracle" in config.floors:
        first, shots = next(iter(choices.values())), config.shots[0]
        methods += [
            Method(
                "oracle",
                compat,
                oracle_predictor(first, compat),
                ("all",),
                shots,
                baseline=True,
                aligner=main_method.aligner if compat == "ours" else None,
            )
            for compat in dict.fromkeys((config.prototypes.compat, *config.beside))
        ]
    return methods


def prototype_methods(name: str, encoder_for: EncoderChoice, config: FewshotConfig) -> list[Method]:
    """Prototypes over features, in every compat mode and for every number of shots, the main ones first."""
    compats = dict.fromkeys((config.prototypes.compat, *config.beside))
    aligner = Aligner(encoder_for)
    chosen = encoder_for if isinstance(encoder_for, SupportChosen) else None
    return [
        Method(
            name,
            compat,
            mode_predictor(encoder_for, replace(config.prototypes, compat=compat)),
            _all_components(config),
            shots,
            config.scan.refinement(compat),
            aligner=aligner if compat == "ours" else None,
            spread_over=encoder_for if compat == "ours" and config.scan.spread else None,
            chosen=chosen if compat == "ours" else None,
        )
        for compat in compats
        for shots in config.shots
    ]


def _all_components(config: FewshotConfig) -> tuple[Components, ...]:
    return tuple(dict.fromkeys((config.components, *config.components_beside)))


# Names of rows -----------------------------------------------------------------------------------


def row_name(method: Method, components: str, config: FewshotConfig) -> str:
    """`encoder`, followed by what differs from the main row's settings, and by the shots if they vary."""
    more = [method.compat] if method.compat not in ("", config.prototypes.compat) else []
    if len(config.shots) > 1 and method.source != "oracle":
        more.append(shots_label(method.shots))
    if method.source not in ("copy", "oracle") and components != config.components:
        more.append(f"components {components}")
    return ", ".join([method.source, *more])


def shots_label(shots: int) -> str:
    """`1 shot`, `2 shots`."""
    return f"{shots} shot" + "s" * (shots > 1)


def methods_by_row(methods: Sequence[Method], config: FewshotConfig) -> dict[str, Method]:
    """Name of a row -> its method. Raises ConfigError if two rows would have one name."""
    rows: dict[str, Method] = {}
    for method in methods:
        for components in method.components:
            name = row_name(method, components, config)
            if name in rows:
                raise ConfigError(f"two rows would be called '{name}'; rename a backbone's folder")
            rows[name] = method
    return rows


# Trained encoders --------------------------------------------------------------------------------


def trained_methods(
    volumes: Volumes,
    backbones: Backbones,
    trained: Sequence[Path],
    config: FewshotConfig,
    device: torch.device | None = None,
) -> tuple[list[Method], dict[str, FoldEncoderTable]]:
    """Methods over encoders that `vetdino fewshot train` left, and these encoders by name.

    Every fold and organ has its own encoder, which has not seen the fold's scans. Raises ConfigError if none of the
    backbones is the one that a folder was trained from, and what `load_trained_encoders` raises.
    """
    encoders: dict[str, FoldEncoderTable] = {}
    for out in trained:
        name, backbone = _origin(out, backbones)
        label = "trained" if name == ENCODER else f"{name}, trained"
        label += f" ({Path(out).name})" if len(trained) > 1 else ""
        encoders[label] = load_trained_encoders(
            out, backbone, config.slices, volumes=volumes, folds=config.folds, device=device
        )
    methods = [
        method
        for name, table in encoders.items()
        for method in prototype_methods(name, FoldEncoders(table, max(config.shots) + 1), config)
    ]
    return methods, encoders


def _origin(out: Path, backbones: Backbones) -> tuple[str, Backbone]:
    """Name and backbone that a folder of trained encoders belongs to, by its digest."""
    networks = {name: backbone for name, backbone in backbones.items() if backbone is not None}
    if not networks:
        raise ConfigError(f"{out}: trained encoders need the backbone that they were trained from")
    digest = trained_backbone_digest(out)
    for name, backbone in networks.items():
        if backbone.card.digest == digest:
            return name, backbone
    raise ConfigError(
        f"{out}: trained from another backbone ({digest[:12]}…) than {', '.join(networks)}; give that one too"
    )


def adapted_methods(
    encoders: Mapping[str, Callable[[SupportSet], TrainableEncoder]], config: FewshotEvaluateConfig
) -> list[Method]:
    """Methods whose encoders are trained on each query slice before they segment it; none if `adapt.steps` is 0."""
    if not config.adapt.steps:
        return []
    compat = config.prototypes.compat
    return [
        Method(
            f"{name}, adapted",
            compat,
            AdaptivePredictor(encoder_for, config.adapt, config.prototypes),
            _all_components(config),
            shots,
            config.scan.refinement(compat),
            aligner=Aligner(encoder_for) if compat == "ours" else None,
        )
        for name, encoder_for in encoders.items()
        for shots in config.shots
    ]
