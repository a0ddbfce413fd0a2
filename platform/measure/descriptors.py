"""Which of a backbone's outputs become the feature vector of a study or a view.

Light on purpose (no numpy, no torch): the command line shows these settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["study", "view"]
"""What one vector of a feature table stands for."""

RowLevel = Literal["study", "view", "patch"]
"""What one row of a feature table is: a vector of a study or a view, or the tokens of all patches of a view."""

Pool = Literal["cls", "cls+mean"]
"""What is pooled from the tokens: the CLS token, or the CLS token and the mean of the patch tokens."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Which tokens of a backbone form the vector, and what a row is.

    pool: the CLS token alone, or followed by the mean of the last block's patch tokens. blocks: the CLS tokens of
    that many last blocks, concatenated, each after the final norm, as DINOv2 probes (2304.07193, appendix B.3).
    level: one row for each study (the mean of its views) or for each view.
    """

    pool: Pool = "cls"
    blocks: int = 1
    level: Level = "study"

    def digest(self, backbone: str) -> str:
        """Identity of these vectors: the digest of the backbone, followed by what differs from the default.

        >>> Descriptor().digest("4f2a"), Descriptor("cls+mean", 4).digest("4f2a")
        ('4f2a', '4f2a+mean+4blocks')
        """
        mean = "+mean" if self.pool == "cls+mean" else ""
        return backbone + mean + (f"+{self.blocks}blocks" if self.blocks > 1 else "")

    @classmethod
    def of_digest(cls, digest: str, level: Level = "study") -> tuple[str, Descriptor]:
        """The backbone's digest and the descriptor that `digest` was made from.

        >>> Descriptor.of_digest("4f2a+mean+4blocks")
        ('4f2a', Descriptor(cls+mean, 4 blocks, by study))
        """
        backbone, *parts = digest.split("+")
        blocks = next((int(part.removesuffix("blocks")) for part in parts if part.endswith("blocks")), 1)
        return backbone, cls("cls+mean" if "mean" in parts else "cls", blocks, level)

    def __repr__(self) -> str:
        blocks = f"{self.blocks} blocks" if self.blocks > 1 else "1 block"
        return f"Descriptor({self.pool}, {blocks}, by {self.level})"
