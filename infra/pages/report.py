"""The model card: what a backbone is, its training data, how good it is beside baselines, and what it is not for."""

from __future__ import annotations

from pathlib import Path

from ...platform.core.files import atomic_write
from .blocks import CardPicture, as_html, as_markdown
from .config import ReportConfig
from .facts import read_facts
from .sections import card_sections, example_studies


def report(backbone: Path, out: Path, config: ReportConfig | None = None) -> Path:
    """Writes card.md, card.html and pictures into `out`, and returns the folder.

    Raises ConfigError if there is no backbone folder or a run evaluated another backbone, DataError for damaged files.
    """
    config = config or ReportConfig()
    facts = read_facts(Path(backbone), config)
    sections = card_sections(facts, config)
    if config.shards:
        sections["Example studies"] = list(example_studies(Path(backbone), config))
    for block in (block for blocks in sections.values() for block in blocks):
        if isinstance(block, CardPicture):
            atomic_write(out / block.name, block.encoded)
    name = f"Model card: {facts.card.label}"
    atomic_write(out / "card.md", as_markdown(name, sections))
    atomic_write(out / "card.html", as_html(name, sections))
    return out
