"""The `vetdino …` commands in an operator's file, read by our own command line, whose settings they must fit."""

from __future__ import annotations

import re
import shlex
from typing import Any

from vetdino.infra.cli import COMMANDS
from vetdino.platform.core.config import cli_config


def commands_in_comments(text: str) -> list[str]:
    """Each `vetdino COMMAND …` in `#` comments, to the end of its line or of the last that a backslash joins to it."""
    joined = re.sub(r"\\\n#\s*", "", text)
    lines = [line.lstrip("# ") for line in joined.splitlines() if line.lstrip().startswith("#")]
    names = "|".join(map(re.escape, sorted(COMMANDS, key=len, reverse=True)))
    found = [re.search(rf"\bvetdino (?:{names}) .*", line) for line in lines]
    return [match[0].split("   ")[0] for match in found if match and "`" not in match[0]]


def settings_of(command: str) -> Any:
    """The config that a command line describes, checked as before its first step; fails where a word of it is wrong."""
    program, *words = shlex.split(command)
    assert program == "vetdino"
    name = max((name for name in COMMANDS if words[: len(name.split())] == name.split()), key=len)
    start, rest, _ = COMMANDS[name].load().parse_start(words[len(name.split()) :])
    config = cli_config(start, rest, f"vetdino {name}")
    if hasattr(config, "check"):
        config.check()
    return config
