"""Settings of reading a table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig:
    """Which columns of an image table mean what; an empty name is looked for among the usual ones."""

    path: str = ""
    """Column of the picture's file, relative to the table's folder."""
    patient: str = ""
    """Column of the patient; no patient is ever divided between splits."""
    study: str = ""
    """Column of the study; views of one study form pairs."""
    view: str = ""
    """Column of the projection (AP, PA, LATERAL, VD, ...)."""
    labels: str = ""
    """Column that lists the findings as text, `A,B` for columns of labels (1, 0, yes, no; -1 or nothing where unknown),
    or `*` for every other column that mostly holds labels; without it, `*` for --labels. A cell that is no label is an
    error."""
    separators: str = "|,;"
    """Characters that separate findings in a list."""
    absent: tuple[str, ...] = ("No Finding", "Normal", "No Fracture")
    """Texts that mean: examined, and every finding of the table is absent."""
    unknown: tuple[str, ...] = ("unlabelled", "unlabeled", "unknown")
    """Texts that mean, as an empty cell does: every finding is unknown."""
