"""The claims of the show with their figures, written after each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Claim:
    """What is to hold. figure: what was measured, in words; seconds: from the step's start."""

    step: str
    claim: str
    figure: str
    held: bool
    seconds: float


@dataclass(slots=True)
class Table:
    """Written to a folder as `hosts.md` and `hosts.json` with each new claim."""

    folder: Path
    claims: list[Claim] = field(default_factory=list)

    def add(self, claim: Claim) -> None:
        self.claims.append(claim)
        print(row(claim), flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "hosts.md").write_text("\n".join([*HEADER, *map(row, self.claims)]) + "\n")
        content = {"held": self.held, "claims": [asdict(claim) for claim in self.claims]}
        (self.folder / "hosts.json").write_text(json.dumps(content, indent=1) + "\n")

    @property
    def held(self) -> bool:
        """Whether there are claims, and all of them hold."""
        return bool(self.claims) and all(claim.held for claim in self.claims)


HEADER = ("| step | claim | figure | held | seconds |", "| --- | --- | --- | --- | --- |")


def row(claim: Claim) -> str:
    """A line of the table.

    >>> row(Claim("embed", "equal features", "61 files", True, 40.2))
    '| embed | equal features | 61 files | yes | 40 |'
    """
    figure = claim.figure.replace("|", "/").replace("\n", " ")
    return (
        f"| {claim.step} | {claim.claim} | {figure} | {'yes' if claim.held else 'NO'} | {claim.seconds:.0f} |"
    )
