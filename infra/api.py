"""The workflows as Python functions: the names and defaults of the commands, for notebooks and scripts.

Further keyword arguments are the command's settings by their dotted names, as in `config.json` and `--help-all`:
`ingest(source, out, val=0.2)`, or `ingest(source, out, **{"table.labels": "*"})`. All raise ConfigError for an
unknown setting or a value of the wrong type, before the work begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..platform.core.config import subconfig, with_settings
from ..platform.core.location import Location

if TYPE_CHECKING:
    from ..downstream.results import EvaluationReport
    from ..platform.data.manifest import Manifest
    from ..platform.measure.features import Features


def phantom(
    out: str | Path, kind: Literal["radiograph", "ultrasound", "volume"] = "radiograph", **settings: Any
) -> Path | Location:
    """Write generated studies with known truth, as `vetdino phantom`; the folder.

    >>> import tempfile, vetdino
    >>> folder = vetdino.phantom(tempfile.mkdtemp() + "/dogs", studies=2, side=64)
    >>> len(list(folder.glob("dicom/**/*.dcm"))) >= 4
    True
    """
    from .commands.phantom import KINDS

    command: Any = with_settings(KINDS[kind], {**settings, "out": out})
    with command.prepared("vetdino.phantom") as local:
        written = local.run()
    return command.shown(written, local)


def ingest(source: str | Path, out: str | Path, **settings: Any) -> Manifest:
    """Turn a DICOM tree or an image table into shards, as `vetdino ingest`; their manifest.

    Raises DataError where nothing of the source can be used.

    >>> import tempfile, vetdino
    >>> work = tempfile.mkdtemp()
    >>> archive = vetdino.phantom(work + "/dogs", studies=6, side=64)
    >>> vetdino.ingest(archive / "dicom", work + "/shards", labels=archive / "labels.csv").counts["studies"]
    6
    """
    from ..platform.data.manifest import load_manifest
    from .commands.ingest import Ingest

    command = with_settings(Ingest, {**settings, "source": source, "out": out})
    with command.prepared("vetdino.ingest") as local:
        return load_manifest(local.run())


def distill(teacher: str | Path, student: str | Path, **settings: Any) -> Path | Location:
    """Distill a frozen teacher into a small student, as `vetdino distill TEACHER STUDENT`; the student's folder.

    >>> import tempfile, vetdino
    >>> work = tempfile.mkdtemp()
    >>> archive = vetdino.phantom(work + "/dogs", studies=24, side=64)
    >>> _ = vetdino.ingest(archive / "dicom", work + "/shards")
    >>> settings = {"shards": work + "/shards", "out": work + "/run", "steps": 2, "batch": 8, "device": "cpu"}
    >>> small = {"backbone.width": 32, "backbone.depth": 2, "backbone.heads": 2, "crops.global_side": 32}
    >>> folder = vetdino.distill(vetdino.SHIPPED, "vit_tiny_patch16_224", **settings, **small, **{"probe.every": 0})
    >>> vetdino.load(folder).width
    32
    """
    from ..pretrain.config import FeatureDistillationConfig
    from ..pretrain.job import distill as run

    paths = {"teacher": str(teacher), "student": str(student)}
    return run(with_settings(FeatureDistillationConfig, {**settings, **paths}))


def embed(backbone: str | Path, shards: str | Path, out: str | Path, **settings: Any) -> Features:
    """Write a backbone's features of each study or view, as `vetdino embed`; the features.

    >>> import tempfile, vetdino
    >>> work = tempfile.mkdtemp()
    >>> archive = vetdino.phantom(work + "/dogs", studies=6, side=64)
    >>> _ = vetdino.ingest(archive / "dicom", work + "/shards")
    >>> vetdino.embed(vetdino.SHIPPED, work + "/shards", work + "/features").vectors.shape
    (6, 192)
    """
    from ..platform.measure.features import load_features
    from .commands.embed import Embed

    paths = {"backbone": str(backbone), "shards": str(shards), "out": out}
    command = with_settings(Embed, {**settings, **paths})
    with command.prepared("vetdino.embed") as local:
        return load_features(local.run())


def evaluate(
    backbone: str | Path, shards: str | Path, out: str | Path = "runs/evaluate", **settings: Any
) -> EvaluationReport:
    """Measure a backbone beside random weights, raw pixels and their PCA, as `vetdino evaluate`; the metrics.

    Raises ConfigError where the splits do not allow a task.

    >>> import tempfile, vetdino
    >>> work = tempfile.mkdtemp()
    >>> archive = vetdino.phantom(work + "/dogs", studies=60, side=64)
    >>> _ = vetdino.ingest(archive / "dicom", work + "/shards", labels=archive / "labels.csv", val=0.2, test=0.3)
    >>> paths = (work + "/shards", work + "/evaluation")
    >>> report = vetdino.evaluate(vetdino.SHIPPED, *paths, resamples=20)  # doctest: +ELLIPSIS
    knn AUROC, ...
    >>> 0 <= report.find("knn", "AUROC", "macro", "backbone").value <= 1
    True
    """
    from ..downstream.config import EvaluateConfig
    from ..downstream.evaluate import evaluate as run
    from .commands.evaluate import Evaluate

    paths = {"backbone": str(backbone), "shards": str(shards), "out": out}
    command = with_settings(Evaluate, {**settings, **paths})
    with command.prepared("vetdino.evaluate") as local:
        return run(local.backbone, str(local.shards), local.out.path, subconfig(EvaluateConfig, local))


def segment(
    inputs: Sequence[str | Path],
    backbone: str | Path,
    out: str | Path,
    *,
    support: str | Path | None = None,
    mask: str | Path | None = None,
    **settings: Any,
) -> Path | Location:
    """Write masks and overlays for new images or scans; the folder.

    With `support` and `mask` (a labelled CT or MRI scan) as `vetdino fewshot segment`; without them as `vetdino
    zeroshot segment` on b-mode frames. Raises ConfigError where only one of the two is given.

    >>> import tempfile, vetdino
    >>> work = tempfile.mkdtemp()
    >>> frames = vetdino.phantom(work + "/frames", "ultrasound", frames=2, domains=1, side=128)
    >>> folder = vetdino.segment(sorted(frames.glob("*/images/*.png")), vetdino.SHIPPED, work + "/masks")
    >>> len(list(folder.glob("masks/*.png")))
    2
    """
    from ..platform.core.errors import ConfigError

    if (support is None) != (mask is None):
        raise ConfigError("segment: give both support and mask (few-shot), or neither (zero-shot)")
    paths: dict[str, Any] = {"backbone": str(backbone), "out": out}
    if support is None:
        from .commands.zeroshot.segment import ZeroshotSegment

        zeroshot = with_settings(ZeroshotSegment, {**settings, **paths, "images": tuple(inputs)})
        with zeroshot.prepared("vetdino.segment") as masks:
            written = masks.run()
        return zeroshot.shown(written, masks)
    from .commands.fewshot.segment import FewshotSegment

    paths |= {"support": support, "mask": mask}
    fewshot = with_settings(FewshotSegment, {**settings, **paths, "scans": tuple(inputs)})
    with fewshot.prepared("vetdino.segment") as labels:
        written = labels.run()
    return fewshot.shown(written, labels)
