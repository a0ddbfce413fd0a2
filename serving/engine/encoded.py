"""What backbones made of the views that were looked at last, of studies and uploads alike."""

from __future__ import annotations

import threading
from collections import OrderedDict

from .model import EncodedView

ViewKey = tuple[int, str, int]
"""Number of a backbone, name of a study, number of a view."""


class EncodedViews:
    """Patch tokens and attention of views, of at most `most_bytes` together; thread-safe.

    Those not looked at for the longest time go first; one that is larger than all may be is not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._views: OrderedDict[ViewKey, EncodedView] = OrderedDict()
        self._lock = threading.Lock()
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        return self._size

    def get(self, key: ViewKey) -> EncodedView | None:
        """A view that is kept."""
        with self._lock:
            if key in self._views:
                self._views.move_to_end(key)
            return self._views.get(key)

    def add(self, key: ViewKey, view: EncodedView) -> None:
        """Keeps a view."""
        with self._lock:
            self._remove(key)
            self._views[key] = view
            self._size += view.size
            while self._size > self.most_bytes:
                self._remove(next(iter(self._views)))

    def remove_study(self, name: str) -> None:
        """Removes all views of a study."""
        with self._lock:
            for key in [key for key in self._views if key[1] == name]:
                self._remove(key)

    def _remove(self, key: ViewKey) -> None:
        if (view := self._views.pop(key, None)) is not None:
            self._size -= view.size

    def __len__(self) -> int:
        return len(self._views)
