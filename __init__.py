"""vetdino: pretrain a foundation encoder on imaging studies by multi-view distillation, and use it.

The public names load their module when they are first asked for, so that `import vetdino` costs nothing.

>>> import vetdino
>>> vetdino.Study(key="4f2a", patient="9c01", views=(vetdino.StoredView(b"...", "VD"),))
Study(4f2a, 1 view: VD)
>>> backbone = vetdino.load("runs/demo/backbone")        # doctest: +SKIP
"""

__version__ = "0.1.0"

_HOMES = {
    "View": "platform.study",
    "StoredView": "platform.study",
    "Study": "platform.study",
    "load_manifest": "platform.shards",
    "read": "platform.shards",
    "load": "platform.backbone",
    "Features": "platform.features",
    "extract": "platform.features",
    "load_features": "platform.features",
    "save_features": "platform.features",
    "nearest": "platform.neighbours",
    "VetdinoError": "platform.errors",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__():
    return [*globals(), *__all__]
