"""vetdino: pretrain a foundation encoder on imaging studies by multi-view distillation, and use it.

The public names load their module when they are first used, so that `import vetdino` costs nothing.

>>> import vetdino
>>> vetdino.Study(key="4f2a", patient="9c01", views=(vetdino.StoredView(b"...", "VD"),))
Study(4f2a, 1 view: VD)
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "SHIPPED",
    "Features",
    "Gallery",
    "StoredView",
    "Study",
    "VetdinoError",
    "View",
    "distill",
    "embed",
    "evaluate",
    "extract",
    "ingest",
    "load",
    "load_features",
    "load_manifest",
    "nearest",
    "phantom",
    "pretrain",
    "read",
    "save_features",
    "segment",
]

if TYPE_CHECKING:
    from .infra.api import distill, embed, evaluate, ingest, phantom, segment
    from .infra.commands.demo import SHIPPED
    from .platform.core.errors import VetdinoError
    from .platform.data.manifest import load_manifest
    from .platform.data.shards import read
    from .platform.data.study import StoredView, Study, View
    from .platform.measure.extraction import extract
    from .platform.measure.features import Features, load_features, save_features
    from .platform.measure.neighbors import nearest
    from .platform.models.loading import load
    from .serving.gallery.gallery import Gallery

_HOMES = {
    "SHIPPED": "infra.commands.demo",
    "phantom": "infra.api",
    "distill": "infra.api",
    "ingest": "infra.api",
    "embed": "infra.api",
    "evaluate": "infra.api",
    "segment": "infra.api",
    "View": "platform.data.study",
    "StoredView": "platform.data.study",
    "Study": "platform.data.study",
    "load_manifest": "platform.data.manifest",
    "read": "platform.data.shards",
    "load": "platform.models.loading",
    "Features": "platform.measure.features",
    "extract": "platform.measure.extraction",
    "load_features": "platform.measure.features",
    "save_features": "platform.measure.features",
    "nearest": "platform.measure.neighbors",
    "Gallery": "serving.gallery.gallery",
    "VetdinoError": "platform.core.errors",
}
"""Public name -> the module that defines it."""


def __getattr__(name):
    from importlib import import_module

    if name in ("pretrain", "client"):  # modules: the package pretrain itself can be called
        return import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__():
    return [*globals(), *__all__]
