"""`vetdino search BUNDLE --key K`: studies of other patients that are similar to one of a gallery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from .arguments import BUNDLE, Command


@dataclass(frozen=True, kw_only=True)
class Search(Command):
    """List the rows of a gallery that are most similar to one of its rows, without those of the same patient."""

    basic: ClassVar = ("key", "view", "k", "present", "absent", "projections", "split")
    bundle: BUNDLE
    key: str
    """Key of the study."""
    view: str = ""
    """View of the study (view0, view1, …), in a gallery by view."""
    k: int = 10
    """Number of matches."""
    present: tuple[str, ...] = ()
    """Findings that a match must be known to have."""
    absent: tuple[str, ...] = ()
    """Findings that a match must be known not to have."""
    projections: tuple[str, ...] = ()
    """Projections of which a match must have at least one."""
    split: Literal["train", "val", "test"] | None = None
    """Split of the matches; None: any."""

    def run(self) -> None:
        from ...platform.core.errors import ConfigError
        from ...serving.gallery.gallery import Gallery

        if both := set(self.present) & set(self.absent):
            raise ConfigError(f"finding {min(both)} is both in --present and in --absent; leave out one")
        findings = dict.fromkeys(self.present, True) | dict.fromkeys(self.absent, False)
        gallery = Gallery.open(self.bundle.path)
        matches = gallery.similar(
            self.key,
            self.k,
            view=self.view,
            findings=findings,
            projections=self.projections,
            split=self.split,
        )
        for match in matches:
            item = match.item
            name = f"{item.key}/{item.view}" if item.view else item.key
            known = [finding for finding, value in item.findings.items() if value == 1.0]
            parts = [f"{match.score:.4f}", name, item.split, " ".join(item.projections), ", ".join(known)]
            print("  ".join(filter(None, parts)))
