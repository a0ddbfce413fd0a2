"""The studies of one split of several folders of shards, one folder after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from .index import HANDLES, StudyIndex
from .study import Study


class JoinedIndex:
    """Several indexes as one: position i counts through the first folder's studies, then through the next one's."""

    def __init__(self, folders: Sequence[str], split: str) -> None:
        """Raises ShardError as `StudyIndex` does."""
        handles = max(1, HANDLES // max(1, len(folders)))  # as few files in all as one index opens
        self.parts = [StudyIndex(folder, split, handles) for folder in folders]
        self.counts = [len(part) for part in self.parts]
        self._first = np.cumsum([0, *self.counts])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __repr__(self) -> str:
        return f"JoinedIndex({' + '.join(map(repr, self.parts))})"

    @property
    def rows(self) -> pa.Table:
        """A row for each study, as `StudyIndex.rows`; labels that a folder does not know are null."""
        return pa.concat_tables([part.rows for part in self.parts], promote_options="default")

    def load(self, index: int) -> Study:
        """The study at a position, as `StudyIndex.load`."""
        part = int(np.searchsorted(self._first, index, side="right")) - 1
        return self.parts[part].load(index - int(self._first[part]))
