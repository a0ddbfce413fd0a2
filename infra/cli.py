"""The command line: which verbs there are, and how each of them ends.

A verb is imported when it is asked for, so `vetdino --help` never waits for torch or ray. Exit codes:
0 done, 1 the work could not be done, 2 the command line could not be read, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from ..platform.core.config import nearest
from ..platform.core.errors import VetdinoError


@dataclass(frozen=True, slots=True)
class Verb:
    """One word after `vetdino`: the function that does it, and what it does in one line.

    home: `module:function` within this room; the function takes the remaining arguments and gives back what
    the last line shall say (the folder it left), or None.
    """

    home: str
    usage: str
    help: str
    again: str = "run the same command again to continue"


AFRESH = "run the same command again"

VERBS = {
    "phantom": Verb(
        "commands.verbs:phantom", "OUT", "generated studies (DICOM) or ultrasound frames (--kind), with truth"
    ),
    "ingest": Verb("commands.verbs:ingest", "SRC OUT", "DICOM tree or image table -> shards"),
    "pretrain": Verb(
        "commands.verbs:pretrain",
        "RECIPE",
        "shards -> backbone, on one worker or many",
        again="run the same command with --resume to continue",
    ),
    "replay": Verb("commands.verbs:replay", "RUN", "looks again at a step whose loss was no number", AFRESH),
    "embed": Verb(
        "commands.verbs:embed", "BACKBONE SHARDS OUT", "backbone, shards -> features (Parquet)", AFRESH
    ),
    "evaluate": Verb(
        "commands.verbs:evaluate", "BACKBONE SHARDS", "how good the backbone's features are", AFRESH
    ),
    "compare-backbones": Verb(
        "commands.verbs:compare_backbones",
        "BACKBONE…",
        "backbones and floors on equal terms, one table",
        AFRESH,
    ),
    "zeroshot": Verb(
        "commands.verbs:zeroshot",
        "COMMAND",
        "b-mode frames without training: five experiments, masks",
        AFRESH,
    ),
    "fewshot": Verb(
        "commands.verbs:fewshot", "COMMAND", "organs of CT and MRI scans from one labelled example", AFRESH
    ),
    "compare": Verb(
        "commands.verbs:compare", "RUN…", "runs side by side on one page, differences with intervals", AFRESH
    ),
    "report": Verb(
        "commands.verbs:report", "BACKBONE", "a model card: data, recipe, figures, limits", AFRESH
    ),
    "demo": Verb("commands.verbs:demo", "", "all of it on generated studies, then opens the page"),
    "app": Verb("commands.verbs:app", "", "the page: patch similarity, attention, nearest studies", AFRESH),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the arguments ask for (default: the process's own) and gives back the exit code."""
    try:
        code = _answer(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone: nobody is left to tell, and Python's own flush at exit must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _answer(arguments: list[str]) -> int:
    """The exit code of what was asked; BrokenPipeError goes through."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        from .. import __version__

        print(f"vetdino {__version__}")
        return 0
    name, *rest = arguments
    if name not in VERBS:
        return _complain(f"unknown verb '{name}'; {nearest(name, VERBS)} (see vetdino --help)", 2)
    return _run(VERBS[name], rest)


def overview() -> str:
    """What `vetdino --help` prints: every verb with its arguments and one line."""
    left = {name: f"{name} {verb.usage}".strip() for name, verb in VERBS.items()}
    width = max(map(len, left.values()))
    verbs = "\n".join(f"  {left[name]:<{width}}   {verb.help}" for name, verb in VERBS.items())
    return (
        "usage: vetdino VERB … [--setting value …]\n\n"
        f"{verbs}\n\n"
        "vetdino VERB --help lists the verb's settings. Every long verb prints the folder it left as its\n"
        "last line, and can be stopped with Ctrl-C and run again."
    )


def _run(verb: Verb, arguments: list[str]) -> int:
    """The verb's exit code; whatever a person can put right reaches them as one line."""
    module, _, function = verb.home.partition(":")
    try:
        left = getattr(import_module(f".{module}", __package__), function)(arguments)
        if left is not None:
            print(left)
        return 0
    except VetdinoError as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        return _complain(f"stopped; {verb.again}", 130)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _complain(f"the disk is full; free some space, then {verb.again}", 1)
        raise
    except SystemExit as stop:  # the parser has said what it had to say
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _complain(message: str, code: int) -> int:
    print(f"vetdino: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code
