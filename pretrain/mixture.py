"""The folders of shards that a training draws from, with their weights, and whether they may be mixed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

import pyarrow as pa
import pyarrow.compute as pc

from ..platform.core.errors import ConfigError
from ..platform.data.index_file import index_table
from ..platform.data.manifest import Manifest, load_manifest
from .batches.order import MixedOrder, StudyOrder
from .config import TrainingConfig

PARTS = 1_000_000
"""What the weights of all folders add up to, but for rounding: whole numbers, so that an order is exact arithmetic."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Folders of shards, their manifests and their weights in a batch; mostly it is one folder."""

    folders: tuple[str, ...]
    manifests: tuple[Manifest, ...]
    weights: tuple[int, ...]
    """In parts of PARTS."""

    @property
    def parts(self) -> Iterable[tuple[str, Manifest]]:
        """Each folder with its manifest."""
        return zip(self.folders, self.manifests, strict=True)

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings that any folder knows, in order; a study of another folder has them unknown."""
        return tuple(dict.fromkeys(name for manifest in self.manifests for name in manifest.findings))

    @property
    def digest(self) -> str:
        """The manifests' digests in the order of the folders, with spaces between."""
        return " ".join(manifest.digest for manifest in self.manifests)

    def studies(self, split: str) -> int:
        """Number of studies of a split in all folders."""
        return sum(manifest.studies(split) for manifest in self.manifests)


def load_mixture(config: TrainingConfig) -> Mixture:
    """The folders that a training names. Raises ShardError where a manifest cannot be read, ConfigError where a folder
    has no training studies or too little weight."""
    folders = tuple(map(str, config.shards))
    manifests = tuple(load_manifest(folder) for folder in folders)
    studies = [manifest.studies("train") for manifest in manifests]
    if len(manifests) > 1:
        for folder, count in zip(folders, studies, strict=True):
            if not count:
                raise ConfigError(f"{folder}: has no training studies; leave it out of shards")
    wanted = config.mix or studies
    total = sum(wanted) or 1
    weights = tuple(round(PARTS * weight / total) for weight in wanted)
    if len(manifests) > 1 and not all(weights):
        folder = folders[weights.index(0)]
        raise ConfigError(
            f"{folder}: its weight is less than one study in {PARTS:,}; raise it, or leave it out of shards"
        )
    return Mixture(folders, manifests, weights)


def study_order(config: TrainingConfig, mixture: Mixture) -> StudyOrder | MixedOrder:
    """The order in which a training takes the studies of its shards."""
    archives = tuple(tuple(shard.studies for shard in manifest.of("train")) for manifest in mixture.manifests)
    batch, seed, order = config.batch, config.seed, config.order
    if len(archives) == 1:
        return StudyOrder(sum(archives[0]), batch, seed, archives[0], order.window, order.lanes)
    return MixedOrder(archives, mixture.weights, batch, seed, order.window, order.lanes)


def check_mixture(config: TrainingConfig, mixture: Mixture) -> None:
    """Raises ConfigError where the folders are too small for a batch, or do not go together.

    Folders that share a study, or hold a patient in different splits, would train on what others evaluate. This is seen
    only where they were ingested with the same secret: pseudonyms of different secrets never meet.
    """
    studies = mixture.studies("train")
    if studies < config.batch:
        raise ConfigError(f"batch {config.batch} is more than the {studies} training studies; lower it")
    if len(mixture.folders) == 1:
        return
    for folder, manifest, share in zip(
        mixture.folders, mixture.manifests, _shares(config, mixture), strict=True
    ):
        count = manifest.studies("train")
        if count < config.order.lanes:
            raise ConfigError(
                f"{folder}: {count} training studies cannot be divided among order.lanes {config.order.lanes}; lower it"
            )
        if count < share:
            raise ConfigError(
                f"{folder}: a batch takes {share:.0f} of its {count} training studies, so some would come twice in a "
                "batch; lower its weight in mix, or batch"
            )
    for (one, manifest), (other, second) in combinations(mixture.parts, 2):
        if manifest.digest == second.digest:
            raise ConfigError(
                f"{one} and {other} hold the same shards; name them once, and give them a higher weight"
            )
    _check_overlap(mixture)


def _shares(config: TrainingConfig, mixture: Mixture) -> Iterator[float]:
    """Studies of each folder in a batch."""
    return (config.batch * weight / sum(mixture.weights) for weight in mixture.weights)


def _check_overlap(mixture: Mixture) -> None:
    """Raises ConfigError where two folders share a study, or a patient who is in another split there."""
    rows = {folder: _named(index_table(folder, manifest)) for folder, manifest in mixture.parts}
    for (one, here), (other, there) in combinations(rows.items(), 2):
        if shared := here.join(there, "key", join_type="inner")["key"].slice(0, 1).to_pylist():
            raise ConfigError(
                f"{one} and {other} share a study ({shared[0]}); ingest both archives into one folder"
            )
        patients = here.join(there, "patient", join_type="inner", right_suffix="_there")
        moved = patients.filter(pc.not_equal(patients["split"], patients["split_there"]))
        for patient in moved.slice(0, 1).to_pylist():
            raise ConfigError(
                f"a patient is in the {patient['split']} split of {one} and in the {patient['split_there']} split of "
                f"{other}; ingest both archives into one folder, so that each patient is in one split"
            )


def _named(rows: pa.Table) -> pa.Table:
    """Key, patient and split of each study."""
    return rows.select(["key", "patient", "split"]).cast(
        pa.schema(dict.fromkeys(("key", "patient", "split"), pa.string()))
    )
