"""vetdino: pretrain a foundation encoder on imaging studies by multi-view distillation, and use it.

The public names load their module when they are first asked for, so that `import vetdino` costs nothing.

>>> import vetdino
>>> vetdino.Study(key="4f2a", patient="9c01", views=(vetdino.StoredView(b"...", "VD"),))
Study(4f2a, 1 view: VD)
>>> backbone = vetdino.load("runs/demo/backbone")        # doctest: +SKIP
"""

__version__ = "0.1.0"

_HOMES = {
    "View": "platform.data.study",
    "StoredView": "platform.data.study",
    "Study": "platform.data.study",
    "load_manifest": "platform.data.shards",
    "read": "platform.data.shards",
    "load": "platform.models.backbone",
    "Features": "platform.measure.features",
    "extract": "platform.measure.features",
    "load_features": "platform.measure.features",
    "save_features": "platform.measure.features",
    "nearest": "platform.measure.neighbors",
    "VetdinoError": "platform.core.errors",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__():
    return [*globals(), *__all__]
