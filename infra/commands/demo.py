"""`vetdino demo`: the whole journey on generated studies: archive, shards, encoder, metrics, app."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ...platform.core.config import to_json
from ...platform.core.errors import ConfigError
from ...platform.core.location import Location
from .arguments import Command

if TYPE_CHECKING:
    from ...downstream.results import EvaluationReport

SHIPPED = Path(__file__).parents[1] / "zoo" / "tiny"
"""Folder of the backbone that comes with vetdino; its card names the command that made it."""


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Generate studies, ingest, pretrain, evaluate and embed them, then open the app."""

    basic: ClassVar = ("out", "serve", "port", "studies", "side", "seed", "steps")
    out: Location = Location("runs/demo")
    """Folder for everything it makes; run again, it continues with what is there."""
    serve: bool = True
    """Open the app at the end."""
    port: int = 7860
    """Port of the app, on 127.0.0.1."""
    studies: int = 400
    """Number of generated studies."""
    side: int = 256
    """Long side of a radiograph, in pixels."""
    seed: int = 7
    """Seed of the generated studies; the shipped backbone was trained on others."""
    steps: int = 40
    """Pretraining steps, of 32 studies each where there are as many."""

    def run(self) -> Path:
        """The folder. Raises ConfigError where `out` holds a demo of other settings."""
        from ...downstream.config import EvaluateConfig
        from ...downstream.evaluate import evaluate

        out = self.out.path.resolve()
        self._claim(out)
        archive, shards = out / "archive", out / "shards"
        train_studies = self._shards(archive, shards)
        _print_stage(3, f"pretraining continues from the shipped backbone for {self.steps} steps")
        backbones = {"shipped": SHIPPED, "trained": self._trained(out, shards, train_studies)}
        _print_stage(4, "evaluation: k-NN on held-out patients, beside random weights and raw pixels")
        config = EvaluateConfig(fractions=(1.0,))
        reports = {
            name: evaluate(str(backbone), str(shards), out / f"evaluate-{name}", config)
            for name, backbone in backbones.items()
        }
        print("\n".join(summary(out, reports)))
        if self.serve:
            self._open(out, shards, backbones)
        return out

    def _claim(self, out: Path) -> None:
        """One folder, one demo: its settings are written first and compared later."""
        settings = to_json(replace(self, out=Location("."), serve=True, port=0))
        saved = out / "demo.json"
        if saved.exists() and saved.read_text() != settings:
            raise ConfigError(f"{out}: holds a demo of other settings; choose another --out or remove it")
        out.mkdir(parents=True, exist_ok=True)
        saved.write_text(settings)

    def _shards(self, archive: Path, shards: Path) -> int:
        """Generate and ingest; the number of training studies."""
        from ...platform.ingest.config import IngestConfig
        from ...platform.ingest.ingest import ingest
        from ...platform.phantom.config import PhantomConfig
        from ...platform.phantom.dog.archive import write_radiographs

        _print_stage(1, f"{self.studies} generated studies as DICOM")
        write_radiographs(archive, PhantomConfig(studies=self.studies, side=self.side, seed=self.seed))
        _print_stage(2, "the archive becomes pseudonymized shards")
        # Generated patients need no secrecy, and a random key would split them differently on every machine.
        secret = shards.with_name("shards.secret")
        secret.write_bytes(b"generated studies".ljust(32, b"."))
        config = IngestConfig(
            secret=Location(secret), labels=Location(archive / "labels.csv"), val=0.1, test=0.3
        )
        return ingest(archive / "dicom", shards, config).studies("train")

    def _trained(self, out: Path, shards: Path, studies: int) -> Path:
        """The backbone that this demo trains; a finished one is kept, an interrupted training continues."""
        from ...platform.training import checkpoint
        from ...pretrain.job import pretrain
        from ...pretrain.recipes import recipe

        folder = out / "pretrain"
        if (folder / "backbone").is_dir():
            return folder / "backbone"
        resume = checkpoint.newest(folder / "checkpoints") is not None
        config = recipe("demo")
        pretrain(
            replace(
                config,
                shards=(Location(shards),),
                out=Location(folder),
                start=str(SHIPPED),
                steps=self.steps,
                resume=resume,
                batch=min(config.batch, studies),
            )
        )
        return folder / "backbone"

    def _open(self, out: Path, shards: Path, backbones: Mapping[str, Path]) -> None:
        from ...serving.config import AppConfig
        from ...serving.page.app import serve

        features = tuple(
            Location(out / f"evaluate-{name}" / "features" / "backbone.parquet") for name in backbones
        )
        shown: tuple[str | Path, ...] = (*backbones.values(), "random")
        serve(
            AppConfig(
                shards=Location(shards), backbones=shown, features=features, port=self.port, side=self.side
            )
        )


def _print_stage(number: int, text: str) -> None:
    print(f"\n[{number}/4] {text}", flush=True)


def summary(out: Path, reports: Mapping[str, EvaluationReport]) -> list[str]:
    """The last lines: metrics with their intervals, then where to look."""
    lines = ["", "Macro AUROC of k-NN on test patients, and differences (95 % interval over patients)"]
    for name, report in reports.items():
        auroc = report.find("knn", "AUROC", "macro", "backbone")
        lines.append(f"  {name:<8} {auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f})")
        for baseline in ("random", "pixels"):
            gain = report.find("knn", "AUROC", "macro", f"backbone - {baseline}")
            lines.append(f"    over {baseline:<7} {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
    lines += ["", f"folder   {out}", f"tables   {out}/evaluate-shipped, {out}/evaluate-trained"]
    return [*lines, f"MLflow   {next(iter(reports.values())).link}"]
