"""Audit of test-time training: number of steps, wrong labels, no reset, reversed order; slice by slice.

Rows are compared with `before`, the same encoder without training. Without reset the weights carry over from slice to
slice, as in the released code of arXiv 2403.03273; both start anew with each fold.
"""

# H, W rows and columns of a slice.

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from torch import Tensor

from ....platform.core.progress import Progress
from ....platform.core.seeds import stable_hash
from ...volumes.volume import Volumes
from ..learn.adaptation import AdaptationTrace, adapt_and_segment, reset_after, trained_weights
from ..learn.encoder import TrainableEncoder
from ..method.masks import organ_mask, slice_margins
from ..method.pixel_features import PixelFeatures
from ..method.predictors import CachedFeatures, copy_predictor, oracle_predictor, prototype_predictor
from ..method.support import SupportSet
from .config import TttConfig
from .examples import ExtremeExamples, slice_example
from .joined import join_classes
from .label_noise import with_label_noise
from .scores import SliceScore, measured_organs, slice_score
from .targets import AuditTarget, audit_targets, audited_scans

BEFORE, TRUE_LABEL = "before", "label truth"
BASELINES = ("copy", "pixels", "oracle")
BACKWARDS, NO_RESET = "backwards", "no reset"


@dataclass(frozen=True, slots=True)
class TttPass:
    """One pass over all slices of a fold. noise: None: the label is the encoder's own segmentation."""

    row: str
    reset: bool = True
    backwards: bool = False
    noise: float | None = None

    @property
    def is_main(self) -> bool:
        """The pass as published, whose trace is also scored after fewer steps."""
        return self.reset and not self.backwards and self.noise is None

    def row_after(self, steps: int) -> str:
        """Name of the row after so many steps."""
        return steps_row(steps) if self.is_main else self.row


@dataclass(frozen=True, slots=True)
class SliceTraining:
    """Training on one slice in one pass; a line of training.csv. place: its position in the fold, from 1."""

    row: str
    fold: int
    scan: str
    organ: str
    slice: int
    place: int
    steps: int
    first_loss: float
    last_loss: float
    drift: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class TttAuditResult:
    """Scores and trainings of all rows. before: row -> the row it is compared with; steps: row -> number of steps.

    order: row -> largest absolute change of a margin when the slices are processed in reverse order.
    """

    organs: tuple[str, ...]
    scores: tuple[SliceScore, ...]
    trainings: tuple[SliceTraining, ...]
    before: Mapping[str, str]
    steps: Mapping[str, int]
    order: Mapping[str, float]
    examples: ExtremeExamples
    left_out: Mapping[str, str]

    def __repr__(self) -> str:
        return f"TttAuditResult({len(self.before)} rows, {len(self.trainings)} trainings)"


def ttt_audit(
    volumes: Volumes, encoder_for: Callable[[SupportSet], TrainableEncoder], config: TttConfig | None = None
) -> TttAuditResult:
    """Trains on every audited slice, once per `TttPass`; afterwards the encoders are what they were before.

    encoder_for: support set -> encoder, such as `lambda _: encoder`. Raises DataError if there is nothing to measure,
    ConfigError for settings that do not fit the folder, TrainingError if weights diverge.
    """
    config = config or TttConfig()
    data = join_classes(volumes, config.together)
    passes = audit_passes(config)
    audit = _TttAuditor(config, encoder_for)
    scans = len(audited_scans(data, config))
    with Progress("test-time training", scans * len(passes), unit="scans of all passes") as progress:
        targets = (target for scan in audit_targets(data, config, audit.left_out) for target in scan)
        for _, fold_targets in groupby(targets, key=lambda target: target.fold.number):
            audit.run_fold(list(fold_targets), passes, progress)
    organs = measured_organs(audit.scores, data, audit.left_out)
    rows = dict.fromkeys(score.row for score in audit.scores)
    return TttAuditResult(
        organs,
        tuple(audit.scores),
        tuple(audit.trainings),
        {row: row if row in BASELINES else BEFORE for row in rows},
        {steps_row(steps): steps for steps in (0, *sorted(config.also), config.adapt.steps)},
        audit.order,
        audit.examples,
        audit.left_out,
    )


def audit_passes(config: TttConfig) -> list[TttPass]:
    """The main pass first; then label noise, reversed order, and no reset in both orders."""
    return [
        TttPass(steps_row(config.adapt.steps)),
        *(
            TttPass(f"{TRUE_LABEL}, {share:.0%} wrong" if share else TRUE_LABEL, noise=share)
            for share in config.noise
        ),
        TttPass(BACKWARDS, backwards=True),
        TttPass(NO_RESET, reset=False),
        TttPass(f"{NO_RESET}, {BACKWARDS}", reset=False, backwards=True),
    ]


def steps_row(steps: int) -> str:
    """Name of the row after so many steps.

    >>> steps_row(0), steps_row(1), steps_row(10)
    ('before', '1 step', '10 steps')
    """
    return f"{steps} step{'s' * (steps > 1)}" if steps else BEFORE


class _TttAuditor:
    """Collects scores, trainings and examples fold by fold."""

    def __init__(self, config: TttConfig, encoder_for: Callable[[SupportSet], TrainableEncoder]) -> None:
        self.config = config
        self.encoder_for = encoder_for
        self.scores: list[SliceScore] = []
        self.trainings: list[SliceTraining] = []
        self.examples = ExtremeExamples()
        self.left_out: dict[str, str] = {}
        self.order: dict[str, float] = {}
        self._pixels = prototype_predictor(
            CachedFeatures(PixelFeatures(config.slices), config.shots + 1), config.prototypes
        )

    def run_fold(self, targets: Sequence[AuditTarget], passes: Sequence[TttPass], progress: Progress) -> None:
        """All rows of one fold: baselines, then every pass."""
        for target in targets:
            self._score_baselines(target)
        margins = {each.row: self._run_pass(each, targets, progress) for each in passes}
        for row, reverse in ((passes[0].row, BACKWARDS), (NO_RESET, f"{NO_RESET}, {BACKWARDS}")):
            changes = [float((margins[row][key] - margins[reverse][key]).abs().max()) for key in margins[row]]
            self.order[row] = max([self.order.get(row, 0.0), *changes])

    def _score_baselines(self, target: AuditTarget) -> None:
        """The support's mask, pixel features, and the ground truth on the encoder's feature grid."""
        oracle = oracle_predictor(self.encoder_for, self.config.prototypes.compat)
        for row, predictor in {"copy": copy_predictor, "pixels": self._pixels, "oracle": oracle}.items():
            [margins] = slice_margins(predictor, target.support, target.query, target.parts)
            keep = self.config.components if row == "pixels" else "all"
            shape = target.query.image_ZHW.shape
            mask_ZHW = organ_mask(margins, target.parts, target.support, keep, shape)
            self.scores += [slice_score(row, target, z, mask_ZHW[z]) for z in target.parts]

    def _run_pass(
        self, current: TttPass, targets: Sequence[AuditTarget], progress: Progress
    ) -> dict[tuple[str, int, int], Tensor]:
        """One pass over a fold's slices; (scan, organ, slice) -> its margin (H, W) after all steps."""
        slices = [(target, z) for target in targets for z in target.parts]
        encoders = {id(encoder): encoder for encoder in (self.encoder_for(t.support) for t in targets)}
        start = {key: trained_weights(encoder) for key, encoder in encoders.items()}
        remaining = Counter(target.query.name for target, _ in slices)
        margins = {}
        with ExitStack() as stack:
            for encoder in encoders.values():
                stack.enter_context(reset_after(encoder))
            for place, (target, z) in enumerate(slices[::-1] if current.backwards else slices, start=1):
                encoder, scan = self.encoder_for(target.support), target.query.name
                with reset_after(encoder) if current.reset else nullcontext():
                    trace = self._adapt(current, encoder, target, z, start[id(encoder)])
                self._score(current, target, z, trace)
                self._add_trainings(current, target, z, place, trace)
                margins[scan, target.support.organ, z] = trace.margins[self.config.adapt.steps]
                remaining[scan] -= 1
                progress.advance(int(not remaining[scan]), slices=len(self.trainings))
        return margins

    def _adapt(
        self,
        current: TttPass,
        encoder: TrainableEncoder,
        target: AuditTarget,
        z: int,
        start: Sequence[Tensor],
    ) -> AdaptationTrace:
        """Trains on one slice, with the label of this pass."""
        adapt, support = self.config.adapt, target.support
        label_HW = None
        if current.noise is not None:
            seed = stable_hash(self.config.seed, target.query.name, support.organ, z)
            label_HW = with_label_noise(target.truth[z], current.noise, np.random.default_rng(seed))
        return adapt_and_segment(
            encoder,
            support,
            target.parts[z],
            target.query,
            z,
            adapt,
            self.config.prototypes,
            marks=(0, *self.config.also, adapt.steps) if current.is_main else (adapt.steps,),
            label_HW=label_HW,
            start=start,
        )

    def _score(self, current: TttPass, target: AuditTarget, z: int, trace: AdaptationTrace) -> None:
        """Scores a slice at every mark of its trace."""
        masks = {}
        for steps, margin_HW in trace.margins.items():
            margins, parts = {z: margin_HW.numpy()}, {z: target.parts[z]}
            shape = target.query.image_ZHW.shape
            masks[steps] = organ_mask(margins, parts, target.support, self.config.components, shape)[z]
            self.scores.append(slice_score(current.row_after(steps), target, z, masks[steps]))
        if current.is_main:
            self.examples.add(slice_example(target, z, masks[0], masks[self.config.adapt.steps]))

    def _add_trainings(
        self, current: TttPass, target: AuditTarget, z: int, place: int, trace: AdaptationTrace
    ) -> None:
        """Lines of training.csv, one per mark of the trace."""
        where = (target.fold.number, target.query.name, target.support.name, z, place)
        for steps in trace.margins:
            if steps:
                row = current.row_after(steps)
                self.trainings.append(SliceTraining(row, *where, **trace.numbers(steps)))
