"""Pretraining: pairs of views -> crops -> student and teacher (self-distillation) -> a backbone folder.

The package can be called, because `vetdino.pretrain` is also the name of the workflow.

>>> import tempfile, vetdino
>>> work = tempfile.mkdtemp()
>>> archive = vetdino.phantom(work + "/dogs", studies=24, side=64)
>>> _ = vetdino.ingest(archive / "dicom", work + "/shards")
>>> settings = {"probe.every": 0, "loaders": 0, "device": "cpu"}
>>> vetdino.pretrain("demo", shards=work + "/shards", out=work + "/run", steps=2, batch=8, **settings).name
'backbone'
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ..platform.core.location import Location


class _Workflow(ModuleType):
    """This package, with a call operator."""

    def __call__(self, recipe: str, **settings: Any) -> Path | Location:
        """Pretrain a backbone, as `vetdino pretrain RECIPE`; the backbone's folder.

        recipe: a name such as "small" (`vetdino pretrain --help` lists them). settings: changes to it by dotted name.
        Raises ConfigError for an unknown recipe or setting, or settings that contradict each other.
        """
        from ..platform.core.config import with_settings
        from .job import pretrain
        from .recipes import recipe as config_of

        return pretrain(with_settings(config_of(recipe), settings))


sys.modules[__name__].__class__ = _Workflow
