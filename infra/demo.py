"""The whole journey on generated studies: archive, shards, encoder, figures, page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..platform.core.config import to_json
from ..platform.core.errors import ConfigError

SHIPPED = Path(__file__).parent / "zoo" / "small"
"""The backbone that comes with vetdino; its card tells the command that made it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """How large the demonstration is, and where it goes."""

    out: Path = Path("runs/demo")
    """Folder for everything it makes; run again, it goes on with what is there."""
    serve: bool = True
    """Open the page at the end."""
    port: int = 7860
    """Of the page, on 127.0.0.1."""
    studies: int = 400
    """Generated studies."""
    side: int = 256
    """Long side of a radiograph, in pixels."""
    seed: int = 7
    """Of the generated studies; the shipped backbone learnt from others."""
    steps: int = 120
    """Pretraining steps, of 64 studies where there are so many."""


def demo(config: DemoConfig) -> Path:
    """Phantom, ingest, pretrain, evaluate, embed, page; the folder it left.

    Raises ConfigError where `out` holds a demonstration of other settings.
    """
    from ..downstream.evaluate import EvaluateConfig, evaluate
    from ..platform.ingest.ingest import IngestConfig, ingest
    from ..platform.phantom.dog.archive import PhantomConfig, phantom

    out = config.out.resolve()
    _claim(out, config)
    archive, shards = out / "archive", out / "shards"
    _say(1, f"{config.studies} generated studies as DICOM")
    phantom(archive, PhantomConfig(studies=config.studies, side=config.side, seed=config.seed))
    _say(2, "the archive becomes pseudonymised shards")
    # Generated patients need no secrecy, and a key of one's own would divide them anew on every machine.
    secret = out / "shards.secret"
    secret.write_bytes(b"generated studies".ljust(32, b"."))
    labels = archive / "labels.csv"
    manifest = ingest(
        archive / "dicom", shards, IngestConfig(secret=secret, labels=labels, val=0.1, test=0.3)
    )
    _say(3, f"pretraining goes on from the shipped backbone for {config.steps} steps")
    trained = _trained(config, out, shards, manifest.studies("train"))
    _say(4, "how good: k-NN on patients never trained on, beside random weights and raw pixels")
    reports = {}
    for name, backbone in (("shipped", SHIPPED), ("trained", trained)):
        how = EvaluateConfig(fractions=(1.0,))
        reports[name] = evaluate(str(backbone), str(shards), out / f"evaluate-{name}", how)
    for line in summary(out, reports):
        print(line)
    if config.serve:
        from ..serving.app import AppConfig, serve

        backbones = (SHIPPED, trained, "random")
        features = tuple(out / f"evaluate-{name}" / "features" / "backbone.parquet" for name in reports)
        serve(
            AppConfig(
                shards=shards, backbones=backbones, features=features, port=config.port, side=config.side
            )
        )
    return out


def _trained(config: DemoConfig, out: Path, shards: Path, studies: int) -> Path:
    """The backbone that this demonstration trains; a finished one is kept, an interrupted one goes on."""
    from ..platform.training import checkpoint
    from ..pretrain.job import pretrain
    from ..pretrain.recipes import recipe

    folder = out / "pretrain"
    if (folder / "backbone").is_dir():
        return folder / "backbone"
    begun = checkpoint.newest(folder / "checkpoints") is not None
    asked = replace(
        recipe("demo"), shards=shards, out=folder, start=str(SHIPPED), steps=config.steps, resume=begun
    )
    return pretrain(replace(asked, batch=min(asked.batch, studies)))


def _claim(out: Path, config: DemoConfig) -> None:
    """One folder, one demonstration: its settings are written first and compared later."""
    settled = to_json(replace(config, out=Path("."), serve=True, port=0))
    saved = out / "demo.json"
    if saved.exists() and saved.read_text() != settled:
        raise ConfigError(
            f"{out}: holds a demonstration of other settings; choose another --out or remove it"
        )
    out.mkdir(parents=True, exist_ok=True)
    saved.write_text(settled)


def _say(part: int, what: str) -> None:
    print(f"\n[{part}/4] {what}", flush=True)


def summary(out: Path, reports: dict[str, object]) -> list[str]:
    """The last lines: figures with their intervals, then where to look."""
    lines = ["", "Macro AUROC of k-NN on test patients, and what it gains (95 % interval over patients)"]
    for name, report in reports.items():
        own = report.find("knn", "AUROC", "macro", "backbone")
        lines.append(f"  {name:<8} {own.value:.3f} ({own.low:.3f} to {own.high:.3f})")
        for floor in ("random", "pixels"):
            gain = report.find("knn", "AUROC", "macro", f"backbone - {floor}")
            lines.append(f"    over {floor:<7} {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
    lines += ["", f"folder   {out}", f"tables   {out}/evaluate-shipped, {out}/evaluate-trained"]
    return [*lines, f"MLflow   {next(iter(reports.values())).link}"]
