"""Short trainings under every ZeRO stage, on one worker and on two, for `test_engine`; leaves files in a folder.

`python engine_trials.py FOLDER` imports once and forks the workers.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from vetdino.platform.core.errors import CheckpointError
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.training.schedules import Cosine
from vetdino.pretrain.distillation import deepspeed_adapter
from vetdino.pretrain.distillation.config import HeadConfig, OptimConfig
from vetdino.pretrain.distillation.distiller import Learner
from vetdino.pretrain.distillation.engine import Engine, student_groups

STEPS, BATCH = 4, 4

BACKBONE = BackboneConfig(name="vit_small_patch14_reg4_dinov2", side=32, patch=8, width=32, depth=2, heads=2)

# Sizes that two workers cannot share evenly.
HEAD = HeadConfig(prototypes=13, hidden=15, bottleneck=7)

CONFIG = OptimConfig(
    lr=Cosine(start=0.1, end=0.01), clip=0.05, freeze_prototypes=0.5, precision="float32", layer_decay=0.5
)

GENERATOR = torch.Generator().manual_seed(0)
GLOBALS = torch.randint(0, 256, (2, BATCH, 1, 32, 32), dtype=torch.uint8, generator=GENERATOR)
LOCALS = torch.randint(0, 256, (3, BATCH, 1, 16, 16), dtype=torch.uint8, generator=GENERATOR)
HIDDEN = torch.rand(2, BATCH, 16, generator=GENERATOR) < 0.3


def learner(head: HeadConfig = HEAD) -> Learner:
    torch.manual_seed(0)
    return Learner(random_backbone(BACKBONE, 0), head, patches=True)


def loss_of(model: nn.Module, studies: slice, step: int) -> Tensor:
    """A mean over studies, another at each step."""
    outputs = model(GLOBALS[:, studies], LOCALS[:, studies], HIDDEN[:, studies], True)
    count = studies.stop - studies.start
    return (
        (1 + step)
        * (outputs.cls_SBK.float().square().sum() + outputs.patch_MK.float().square().sum())
        / count
    )


@dataclass
class Worker:
    """One of `world` workers, and what it tries with one ZeRO stage."""

    folder: Path
    rank: int
    world: int
    zero: int

    def engine(self, head: HeadConfig = HEAD, **settings: object) -> Engine:
        config = replace(CONFIG, zero=self.zero, **settings)
        where = {"world": self.world, "device": torch.device("cpu")}
        return Engine(learner(head), config, batch=BATCH, steps=STEPS, **where)

    def step(self, engine: Engine, step: int, poison: float | None = None) -> float:
        """One step; `poison` is what the last worker adds to the last part's loss."""
        engine.schedule(step)
        share = BATCH // self.world
        size = share // engine.micro_batches
        for part in range(engine.micro_batches):
            first = self.rank * share + part * size
            loss = loss_of(engine.model, slice(first, first + size), step)
            if poison is not None and (self.rank, part) == (self.world - 1, engine.micro_batches - 1):
                loss = loss + poison
            engine.backward(loss)
        return engine.step().item()

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        if self.rank == 0:
            save_file(dict(tensors), self.folder / f"{name}_{self.world}_{self.zero}.safetensors")

    def plain(self) -> None:
        """Weights before the first and after each step."""
        engine = self.engine()
        kept = {f"0/{name}": value for name, value in whole(engine).items()}
        for step in range(STEPS):
            self.step(engine, step)
            kept |= {f"{step + 1}/{name}": value for name, value in whole(engine).items()}
        self.keep("plain", kept)

    def resumed(self) -> None:
        """Saved after two steps while another goes on; a fresh engine takes the last two.

        Before and after it there are steps whose loss is no number.
        """
        engine = self.engine()
        bad = [self.step(engine, 0), self.step(engine, 3, float("nan")), self.step(engine, 1)]
        checkpoint = self.folder / f"checkpoint_{self.world}_{self.zero}"
        done = checkpoint / "then"
        engine.save(checkpoint, {"teacher.safetensors": {"weight": torch.ones(3)}}, done.touch)
        self.step(engine, 2)
        engine.wait()
        dist.barrier()
        assert done.exists()
        fresh = self.engine()
        fresh.load(checkpoint)
        bad += [self.step(fresh, 2), self.step(fresh, 3, float("inf")), self.step(fresh, 3)]
        self.keep("resumed", whole(fresh) | {"bad": torch.tensor(bad)})

    def micro_batches(self) -> None:
        """The worker's share study by study."""
        engine = self.engine(micro_batch=1)
        assert engine.micro_batches == BATCH // self.world
        for step in range(STEPS):
            self.step(engine, step)
        self.keep("micro_batches", whole(engine))

    def recomputed(self) -> None:
        """Activations computed again, and after them one lot at a time of the whole student."""
        engine = self.engine(checkpoint_activations=True)
        assert list(engine.student.state_dict()) == list(learner().state_dict())
        for step in range(STEPS):
            self.step(engine, step)
        sizes = [sum(value.numel() for value in lot.values()) for lot in engine.full_parameters()]
        self.keep("recomputed", whole(engine) | {"sizes": torch.tensor(sizes)})

    def elsewhere(self) -> None:
        """Two workers' checkpoint of another stage, loaded and saved again."""
        engine = self.engine()
        engine.load(self.folder / f"checkpoint_2_{(self.zero + 1) % 4}")
        engine.save(self.folder / f"again_{self.zero}")
        engine.wait()
        self.keep("elsewhere", whole(engine))
        try:
            self.engine(replace(HEAD, prototypes=12)).load(self.folder / "checkpoint_2_0")
        except CheckpointError as error:
            (self.folder / f"refused_{self.zero}.txt").write_text(str(error))


def whole(engine: Engine) -> dict[str, Tensor]:
    return {name: value.detach().clone() for lot in engine.full_parameters() for name, value in lot.items()}


def by_hand(folder: Path) -> None:
    """The same steps by plain AdamW, weights after each."""
    plain = learner()
    for block in plain.backbone.vit.blocks:
        # As the engine has it on a CPU: where a gradient is next to nothing, AdamW makes much of its rounding.
        block.attn.fused_attn = False
    groups = student_groups(plain, CONFIG)
    rules = [group.pop("rule") for group in groups]
    adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), foreach=False)
    kept = {}
    for step in range(STEPS):
        lr, decay = CONFIG.lr.at(step, STEPS) * (BATCH / 1024) ** 0.5, CONFIG.weight_decay.at(step, STEPS)
        for group, rule in zip(adam.param_groups, rules, strict=True):
            group["lr"] = 0.0 if rule.kind == "prototypes" and step < 0.5 * STEPS else lr * rule.lr_factor
            group["weight_decay"] = decay if rule.decays else 0.0
        adam.zero_grad()
        loss_of(plain, slice(0, BATCH), step).backward()
        assert nn.utils.clip_grad_norm_(plain.parameters(), CONFIG.clip) > CONFIG.clip
        adam.step()
        kept |= {f"{step + 1}/{name}": copy.deepcopy(value.data) for name, value in plain.named_parameters()}
    save_file(kept, folder / "by_hand.safetensors")


def work(folder: Path, rank: int, world: int, trials: tuple[str, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    deepspeed_adapter.SMALL = 100  # else none of these parameters would be divided
    store = dist.FileStore(str(folder / f"store_{world}_{trials[0]}"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    for zero in range(4):
        worker = Worker(folder, rank, world, zero)
        for trial in trials:
            getattr(worker, trial)()
    dist.barrier()
    os._exit(0)  # DeepSpeed's threads and hooks have nothing to say at the end


def together(*workers: tuple[object, ...]) -> None:
    fork = multiprocessing.get_context("fork")
    running = [fork.Process(target=work, args=arguments) for arguments in workers]
    for process in running:
        process.start()
    for process in running:
        process.join()
    if any(process.exitcode for process in running):
        sys.exit("a worker failed")


def main(folder: Path) -> None:
    deepspeed_adapter.prepare_deepspeed(torch.device("cpu"))
    # What the workers need is imported before they are forked.
    import deepspeed.runtime.zero.stage3  # noqa: F401
    from torch._inductor import compile_fx  # noqa: F401

    by_hand(folder)
    trials = ("plain", "resumed", "micro_batches")
    together((folder, 0, 1, (*trials, "recomputed")), (folder, 0, 2, trials), (folder, 1, 2, trials))
    together((folder, 0, 1, ("elsewhere",)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
