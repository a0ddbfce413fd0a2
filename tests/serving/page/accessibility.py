"""What axe-core finds wrong with a page: names, roles, contrast, headings, order of focus."""

from __future__ import annotations

from typing import Any

from axe_playwright_python.sync_playwright import Axe


def faults(page: Any) -> list[str]:
    """Every fault of any weight, `rule: element`."""
    violations = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:90]}" for rule in violations for node in rule["nodes"]]
