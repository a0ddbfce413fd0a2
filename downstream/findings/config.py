"""Settings of the tasks that predict findings: k-NN, linear probe, fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...platform.core.errors import ConfigError
from ...platform.measure.descriptors import Level, Pool


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnConfig:
    """How the nearest neighbors vote."""

    k: int = 20
    """Neighbors that vote where `ks` is empty or no data can choose among them."""
    ks: tuple[int, ...] = (10, 20, 100, 200)
    """Numbers of neighbors to choose from; empty always takes `k`."""
    temperature: float = 0.07
    """Temperature of the weight exp(cosine / temperature); smaller trusts the nearest more."""
    level: Level = "study"
    """Which rows query and vote: studies (the mean of their views), or single views; a study's score is then the
    mean of its views' scores."""

    def check(self) -> None:
        """Raises ConfigError for a setting out of range; the message names it."""
        for k in (self.k, *self.ks):
            if k < 1:
                raise ConfigError(f"{k} neighbors in knn.k or knn.ks; at least 1 must vote")
        if not self.temperature > 0:
            raise ConfigError(f"knn.temperature {self.temperature} must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearConfig:
    """Which features and penalties the linear probe tries, and how it is fitted."""

    pools: tuple[Pool, ...] = ("cls", "cls+mean")
    """Poolings of the last block to try: its CLS token, or CLS token and mean of the patch tokens."""
    blocks: tuple[int, ...] = (1, 4)
    """Numbers of last blocks whose CLS tokens are concatenated; more than the backbone has are skipped."""
    cs: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
    """Inverse strengths of the L2 penalty to try (scikit-learn's C)."""
    class_weight: Literal["none", "balanced"] = "none"
    """balanced gives studies with and without a finding the same total weight, however rare it is."""
    exclusive: bool = False
    """Findings exclude one another: one softmax over them (and over `none of them`) instead of one sigmoid each."""
    folds: int = 5
    """Cross-validation folds of the train patients, used where the validation split cannot choose."""
    max_iterations: int = 100
    """Most iterations of the solver (Newton's) for each penalty; it starts from the solution of the one before."""

    def check(self) -> None:
        """Raises ConfigError for a setting out of range; the message names it."""
        if not (self.pools and self.blocks and self.cs):
            raise ConfigError("linear.pools, linear.blocks and linear.cs must each name one value at least")
        if min(self.blocks) < 1 or not min(self.cs) > 0:
            raise ConfigError(
                f"linear.blocks {self.blocks} must be at least 1 and linear.cs {self.cs} above 0, each of them"
            )
        if self.folds < 2 or self.max_iterations < 1:
            raise ConfigError(
                f"linear.folds {self.folds} must be at least 2, linear.max_iterations {self.max_iterations} at least 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """How a backbone is fine-tuned, and where."""

    epochs: int = 30
    """Most passes over the training studies; the learning rate decays to nearly 0 over all of them."""
    patience: int = 8
    """Epochs without a higher macro AUROC on the validation split after which training stops."""
    batch: int = 32
    """Studies in a step, over all workers; at most as many as there are."""
    lr: float = 5e-4
    """Learning rate of the head and the last norm after the warm-up; it does not scale with the batch."""
    layer_decay: float = 0.75
    """Factor on the learning rate from each block to the one before it; 1 gives all the same rate."""
    weight_decay: float = 0.05
    """Weight decay of matrices; biases, norms, tokens and position embeddings have none."""
    warmup: float = 0.1
    """Fraction of the steps in which the learning rate rises."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    drop_path: float = 0.1
    """Rate of stochastic depth in the last block, rising linearly from 0 in the first."""
    pool: Pool = "cls"
    """Vector of a view: its CLS token, or CLS token and mean of the patch tokens."""
    balance: float = 10.0
    """Upper limit of the weight of a present finding in the loss, which is absent / present studies in training; at
    most 1 weighs all findings equally."""
    crop: float = 0.85
    """Smallest side of a random crop, as a fraction of the picture's side; 1 does not crop."""
    rotation: float = 10.0
    """Largest rotation of a picture to either side, in degrees."""
    flip: float = 0.5
    """Probability that a picture is mirrored, left to right."""
    intensity: float = 0.2
    """Largest change of a picture's gain and of the logarithm of its gamma."""
    fraction: float = 1.0
    """Fraction of the training patients that it learns from; a smaller set is a subset of a larger one. Validation
    and test stay whole."""
    seed: int = 0
    """Seed for patients, order, augmentations and stochastic depth."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the backbone's products; weights, head and loss are float32."""
    workers: int = 1
    """Ray workers, each with a GPU where `device` is cuda; 0 trains in this process, without Ray."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it trains; auto takes CUDA where there is a GPU."""
    threads: int = 2
    """Threads of a worker that decode and augment views."""

    def check(self) -> None:
        """Raises ConfigError for a setting out of range; the message names it."""
        for name in ("epochs", "patience", "batch", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"finetune.{name} {getattr(self, name)} must be at least 1")
        for name in ("lr", "layer_decay", "clip", "crop", "fraction"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"finetune.{name} {getattr(self, name)} must be above 0")
        for name in ("layer_decay", "crop", "fraction", "flip", "warmup", "drop_path", "intensity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"finetune.{name} {getattr(self, name)} must lie between 0 and 1")
        if self.drop_path == 1:
            raise ConfigError("finetune.drop_path 1 would drop the whole last block; 0.1 is usual")
        for name in ("weight_decay", "balance", "rotation", "seed", "workers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"finetune.{name} {getattr(self, name)} must not be below 0")
        if self.batch < self.workers:
            raise ConfigError(
                f"finetune.batch {self.batch} leaves some of finetune.workers {self.workers} without a study"
            )
