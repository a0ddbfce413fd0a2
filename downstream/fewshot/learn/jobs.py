"""Which encoders a training makes: one per fold, in Setting II one per fold and group of test organs.

An encoder never sees the query scans of its fold, nor the scan that supports them; in Setting II (Ouyang et al.,
arXiv 2007.09886, section 4.1) it never sees a slice with an organ of its group either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....platform.core.config import nearest
from ....platform.core.errors import ConfigError
from ..method.protocol import cross_validation_folds
from .config import TrainConfig

if TYPE_CHECKING:
    from ...volumes.volume import Volumes


@dataclass(frozen=True, slots=True)
class EncoderJob:
    """One encoder to train.

    organs: class numbers it is for; excluded: class numbers whose slices it must not see; scans: its training scans.
    """

    name: str
    fold: int
    organs: tuple[int, ...]
    excluded: tuple[int, ...]
    scans: tuple[str, ...]


def encoder_jobs(volumes: Volumes, config: TrainConfig) -> tuple[EncoderJob, ...]:
    """One encoder per fold, in Setting II per fold and group; folds are those of `vetdino fewshot evaluate`.

    Held out are a fold's query scans and, as in the published code, the scan that supports them in one-shot
    segmentation; scans without labels are trained on. Raises ConfigError for folds or groups that do not fit.
    """
    labeled = [name for name in volumes.names if volumes.cards[name]["labelled"]]
    by_group = config.setting == "II"
    groups = organ_groups(volumes.classes, config.groups) if by_group else [tuple(volumes.classes)]
    jobs = []
    for fold in cross_validation_folds(labeled, config.folds):
        held_out = {*fold.queries, *fold.supports}
        scans = tuple(name for name in volumes.names if name not in held_out)
        if not scans:
            raise ConfigError(
                f"{len(labeled)} scans in {config.folds} folds leave none to train on; add scans"
            )
        for organs in groups:
            name = f"fold_{fold.number}" + ("_organs_" + "_".join(map(str, organs)) if by_group else "")
            jobs.append(EncoderJob(name, fold.number, organs, organs if by_group else (), scans))
    return tuple(jobs)


def organ_groups(classes: Mapping[int, str], groups: Sequence[str] = ()) -> list[tuple[int, ...]]:
    """Class numbers of each group; see `TrainConfig.groups`. Raises ConfigError for an unknown or repeated organ.

    >>> organ_groups({1: "liver", 2: "right kidney", 3: "left kidney"})
    [(1,), (2, 3)]
    >>> organ_groups({1: "liver", 2: "spleen", 3: "aorta"}, ["spleen+1"])
    [(1, 2)]
    """
    if not groups:
        pairs: dict[str, list[int]] = defaultdict(list)
        for number, name in classes.items():
            kind = " ".join(word for word in name.lower().split() if word not in ("left", "right"))
            pairs[kind].append(number)
        return [tuple(numbers) for numbers in pairs.values()]
    known = {name.lower(): number for number, name in classes.items()} | {str(n): n for n in classes}
    parsed: list[tuple[int, ...]] = []
    for group in groups:
        words = [word.strip().lower() for word in group.split("+")]
        for word in words:
            if word not in known:
                raise ConfigError(f"groups: no organ '{word}'; {nearest(word, known)}")
        parsed.append(tuple(sorted({known[word] for word in words})))
    numbers = [number for group in parsed for number in group]
    if repeated := [number for number in numbers if numbers.count(number) > 1]:
        raise ConfigError(
            f"groups: {classes[repeated[0]]} is in two groups; each organ has one encoder per fold"
        )
    return parsed
