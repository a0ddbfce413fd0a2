"""docs/commands.md: every command with every setting, from the same config classes that the command line parses.

`python -m vetdino.infra.reference` writes it anew. A test compares the page with what `--help-all` prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..platform.core.files import atomic_write
from .cli import COMMANDS, overview
from .commands.phantom import KINDS
from .settings import Setting, description, settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"


def reference() -> str:
    """The whole page as Markdown."""
    lines = [
        "# Commands",
        "",
        "Written by `python -m vetdino.infra.reference`; do not edit by hand. `vetdino COMMAND --help` shows the usual",
        "settings, `--help-all` all of these. A setting has the same dotted name in `config.json` and in Python.",
        "",
        "```text",
        overview(),
        "```",
    ]
    for title, command in variants():
        lines += ["", f"## vetdino {title}", "", description(command), ""]
        lines += ["| setting | values | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [row(setting) for setting in settings(command)]
    return "\n".join(lines) + "\n"


def variants() -> Iterator[tuple[str, object]]:
    """Each command's name and its config class; each kind of phantom; a recipe as an instance."""
    for name, entry in COMMANDS.items():
        if name == "phantom":
            yield from ((f"phantom OUT --kind {kind}", command) for kind, command in KINDS.items())
        elif name in ("pretrain", "plan"):
            yield f"{name} RECIPE", entry.load().parse_start(["small"])[0]
        else:
            yield f"{name} {entry.usage}".strip(), entry.load()


def row(setting: Setting) -> str:
    """One line of a command's table."""
    default = "required" if setting.default is None else f"`{setting.default}`" if setting.default else "none"
    cells = [f"`{setting.flag}`", f"`{setting.values}`" if setting.values else "", default, setting.meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    atomic_write(PAGE, reference())
    print(PAGE)
