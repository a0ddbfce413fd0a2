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


def commands_in_blocks(markdown: str) -> list[str]:
    """Each `vetdino COMMAND …` in the code blocks of a page, also inside a Ray job, to its end across backslashes.

    Without lines that only hint at a command (`…`) or whose words a shell fills in (`$share`).
    """
    fenced = re.findall(r"^```(?:sh|text)\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^ {4}.*\n)+", markdown, re.MULTILINE)
    lines = "\n".join([*fenced, *indented])
    joined = re.sub(r"\\\n\s*", " ", lines)
    names = "|".join(map(re.escape, sorted(COMMANDS, key=len, reverse=True)))
    found = re.findall(
        rf"^ *(?:ray job submit .*-- python -m )?(vetdino (?:{names}) .*)$", joined, re.MULTILINE
    )
    commands = [re.split(r" +#(?= )| ; do", command)[0] for command in found]
    return [command for command in commands if not re.search(r"…|\$\w", command.replace("$BACKBONE", "x"))]


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
