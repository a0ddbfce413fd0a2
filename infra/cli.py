"""The command line: which commands there are, their help, and how each of them ends.

A command's module is imported when it is used, so `vetdino --help` never waits for a library, and a command's
`--help` never for torch or Ray. Exit codes: 0 done, 1 the work could not be done, 2 the command line could not be
read, 130 stopped with Ctrl-C, 143 with SIGTERM (`kill`, or a cluster's scheduler).
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ..platform.core.config import cli_config, nearest
from ..platform.core.errors import ConfigError, VetdinoError
from ..platform.core.files import explain_os_error
from ..platform.core.location import Location
from ..platform.core.log_lines import job_named, warnings_as_lines

if TYPE_CHECKING:
    from .commands.arguments import Command

REPEAT = "run the same command again"
CONTINUE = "run the same command again to continue"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command is, and what the overview says of it.

    home: `module:class` below `infra.commands`. usage: the arguments after its name. again: what to do after Ctrl-C.
    """

    home: str
    usage: str
    summary: str
    again: str = REPEAT

    def load(self) -> type[Command]:
        """The command's class."""
        module, _, name = self.home.partition(":")
        return getattr(import_module(f".commands.{module}", __package__), name)


COMMANDS = {
    "phantom": Entry(
        "phantom:PhantomRadiographs",
        "OUT",
        "generated radiographs, ultrasound or CT/MRI, with truth",
        CONTINUE,
    ),
    "ingest": Entry("ingest:Ingest", "SRC OUT", "DICOM tree or image table -> shards", CONTINUE),
    "verify": Entry("verify:Verify", "SHARDS", "are the shards what was written?"),
    "pretrain": Entry(
        "pretrain:Pretrain",
        "RECIPE",
        "shards -> backbone, on one worker or many",
        "run the same command with --resume to continue",
    ),
    "distill": Entry(
        "distill:Distill",
        "TEACHER STUDENT",
        "a strong backbone, shards -> a small ViT or CNN",
        "run the same command with --resume to continue",
    ),
    "plan": Entry("plan:PlanTraining", "RECIPE", "memory, time, network, disk and cost of a training"),
    "doctor": Entry("doctor:Doctor", "", "is this machine, or a cluster, ready? what mends it"),
    "replay": Entry("replay:Replay", "RUN", "run a step with a non-finite loss again"),
    "embed": Entry("embed:Embed", "BACKBONE SHARDS OUT", "backbone, shards -> features (Parquet)", CONTINUE),
    "index build": Entry("index.commands:IndexBuild", "FEATURES OUT", "features -> a gallery"),
    "index add": Entry("index.commands:IndexAdd", "BUNDLE FEATURES", "more rows for a gallery"),
    "index delete": Entry("index.commands:IndexDelete", "BUNDLE", "studies or patients taken out"),
    "index compact": Entry("index.commands:IndexCompact", "BUNDLE", "a gallery built anew from its rows"),
    "index verify": Entry("index.commands:IndexVerify", "BUNDLE", "every file compared with its SHA-256"),
    "search": Entry("search:Search", "BUNDLE", "studies similar to one of a gallery"),
    "evaluate": Entry("evaluate:Evaluate", "BACKBONE SHARDS", "how good a backbone's features are"),
    "compare-backbones": Entry(
        "compare_backbones:CompareBackbones", "BACKBONE…", "backbones and baselines on the same studies"
    ),
    "zeroshot assess": Entry(
        "zeroshot.experiments:Assess", "DOMAINS", "one image a domain through all blocks, with attention"
    ),
    "zeroshot scatter": Entry(
        "zeroshot.experiments:Scatter", "DOMAINS", "patches of all domains in three dimensions"
    ),
    "zeroshot same-domain": Entry(
        "zeroshot.experiments:SameDomain", "DOMAINS", "co-segmentation of growing sets of each domain"
    ),
    "zeroshot cross-domain": Entry(
        "zeroshot.experiments:CrossDomain", "DOMAINS", "co-segmentation of two domains together"
    ),
    "zeroshot noise": Entry("zeroshot.experiments:Noise", "DOMAINS", "co-segmentation under growing noise"),
    "zeroshot segment": Entry(
        "zeroshot.segment:ZeroshotSegment", "IMAGES…", "masks for new frames, without ground truth"
    ),
    "fewshot prepare": Entry("fewshot.prepare:Prepare", "SRC OUT", "scans and label maps -> prepared slices"),
    "fewshot train": Entry(
        "fewshot.train:Train", "VOLUMES", "encoders trained on superpixels, without labels", CONTINUE
    ),
    "fewshot evaluate": Entry(
        "fewshot.evaluate:FewshotEvaluate", "VOLUMES", "segmentation over folds, with baselines and oracle"
    ),
    "fewshot compare": Entry("fewshot.compare:FewshotCompare", "VOLUMES", "encoders side by side"),
    "fewshot kshot": Entry("fewshot.kshot:Kshot", "VOLUMES", "what more labelled scans add"),
    "fewshot xdomain": Entry(
        "fewshot.xdomain:Xdomain", "VOLUMES VOLUMES…", "one folder's scans as support for another's"
    ),
    "fewshot cca-audit": Entry(
        "fewshot.cca_audit:CcaAudit", "VOLUMES", "what cutting masks to connected components does"
    ),
    "fewshot ttt-audit": Entry(
        "fewshot.ttt_audit:TttAudit", "VOLUMES", "what test-time training does, slice by slice"
    ),
    "fewshot segment": Entry(
        "fewshot.segment:FewshotSegment", "SCAN…", "organs of new scans from one labelled scan"
    ),
    "compare": Entry("compare:Compare", "RUN…", "runs side by side on one page, differences with intervals"),
    "report": Entry("report:ModelCard", "BACKBONE", "a model card: data, recipe, figures, limits"),
    "demo": Entry("demo:Demo", "", "all of it on generated studies, then the app", CONTINUE),
    "submit": Entry(
        "jobs:Submit",
        "COMMAND…",
        "a command as a job on a Ray cluster",
        "`vetdino jobs list` shows what runs",
    ),
    "jobs list": Entry("jobs:JobsList", "", "jobs of a cluster, the newest first"),
    "jobs logs": Entry("jobs:JobsLogs", "JOB", "a job's log and progress until it ends", "the job goes on"),
    "jobs stop": Entry("jobs:JobsStop", "JOB", "a job stopped as by Ctrl-C"),
    "serve": Entry("serve:Serve", "[GALLERY…]", "embeddings and similar studies over HTTP"),
    "app": Entry("app:App", "", "the page: patch similarity, attention, nearest studies"),
}

GROUPS = {
    "index": "galleries for similar-study search: build, add, delete, compact, verify",
    "zeroshot": "bone in b-mode ultrasound without training: experiments, masks",
    "fewshot": "organs of CT and MRI scans from one labelled scan",
    "jobs": "jobs on a Ray cluster: list, logs, stop",
}
"""First words of commands with two."""

NOT_IN_JOBS = ("app", "serve", "demo", "submit", *(name for name in COMMANDS if name.startswith("jobs ")))
"""Commands that `vetdino submit` refuses: those that wait for a browser or a client, and those about jobs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments name (default: the process's own); the exit code."""
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has closed the pipe; Python's own flush at exit must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(arguments: list[str]) -> int:
    """The exit code of the named command; BrokenPipeError goes through."""
    group, name, rest = _split(arguments)
    if name in ("", group) or name.removeprefix(group).strip() in HELP:
        print(overview(group))
        return 0
    if name == "--version":
        from .. import __version__

        print(f"vetdino {__version__}")
        return 0
    if name not in COMMANDS:
        return _fail(_unknown(group, name), 2)
    return _run(name, rest)


def _split(arguments: Sequence[str]) -> tuple[str, str, list[str]]:
    """The group or "", the whole name of the command, its arguments."""
    group = arguments[0] if arguments and arguments[0] in GROUPS else ""
    return group, " ".join(arguments[: 1 + bool(group)]), list(arguments[1 + bool(group) :])


def _unknown(group: str, name: str) -> str:
    known = [command for command in COMMANDS if command.startswith(group)]
    help_command = f"vetdino {group} --help".replace("  ", " ")
    return f"unknown command '{name}'; {nearest(name, [*known, *GROUPS])} (see {help_command})"


def _parsed(name: str, arguments: Sequence[str]) -> Command:
    """A command with its settings. Raises ConfigError, and SystemExit where a line about them was printed."""
    start, rest, more = COMMANDS[name].load().parse_start(arguments)
    return cli_config(start, rest, f"vetdino {name} {more}".strip())


def _check_for_job(submit: Command) -> None:
    """Raises as `_parsed` where the command that shall be submitted cannot run as a job."""
    from .commands.jobs import Submit, check_for_job

    assert isinstance(submit, Submit)
    group, name, rest = _split(submit.command)
    if not name:
        raise ConfigError("give the command that shall run: vetdino submit pretrain …")
    if name not in COMMANDS:
        raise ConfigError(_unknown(group, name))
    if name in NOT_IN_JOBS:
        raise ConfigError(f"'{name}' cannot run as a job; run it where you are: vetdino {name}")
    check_for_job(_parsed(name, rest))


HELP = ("-h", "--help", "--help-all")


def overview(group: str = "") -> str:
    """What `vetdino --help` (or `vetdino GROUP --help`) prints: commands, their arguments, one line each."""
    rows = {}
    for name, entry in COMMANDS.items():
        first = name.split()[0]
        if group and first == group:
            rows[f"{name.split()[1]} {entry.usage}"] = entry.summary
        elif not group and first in GROUPS:
            rows[f"{first} COMMAND"] = GROUPS[first]
        elif not group:
            rows[f"{name} {entry.usage}".strip()] = entry.summary
    width = max(map(len, rows))
    prog = f"vetdino {group}".strip()
    lines = [f"usage: {prog} COMMAND … [--setting value …]", ""]
    lines += [f"  {usage:<{width}}   {summary}" for usage, summary in rows.items()]
    lines += ["", f"{prog} COMMAND --help shows a command's usual settings, --help-all every one."]
    if not group:
        lines[-1] += (
            "\nLong commands print the folder they wrote as their last line, and can be stopped with Ctrl-C."
        )
    return "\n".join(lines)


def _run(name: str, arguments: list[str]) -> int:
    """The command's exit code; what a person can put right reaches them as one line."""
    entry = COMMANDS[name]
    command = None
    try:
        if any(word in HELP for word in arguments):
            print(command_help(name, arguments, shutil.get_terminal_size((100, 24)).columns))
            return 0
        command = _parsed(name, arguments)
        if name == "submit":
            _check_for_job(command)
        with (
            _stopped_by_sigterm(),
            job_named(verb=name),
            warnings_as_lines(),
            command.prepared(f"vetdino {name}") as local,
        ):
            written = local.run()
        if written is not None:
            print(command.shown(written, local))
        return 0
    except VetdinoError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt as interruption:
        return _fail(f"stopped; {entry.again}", _interruption_code(interruption))
    except BrokenPipeError:
        raise
    except OSError as error:
        explained = explain_os_error(error, _hiding_patients(error.filename, command))
        return _fail(f"{explained}, then {entry.again}", 1)
    except SystemExit as stop:  # the parser has printed its message, or Ray has met SIGTERM
        if stop.code == signal.SIGTERM:
            return _fail(f"stopped; {entry.again}", 128 + signal.SIGTERM)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        behind = _interruption_behind(error)
        if behind is None:
            raise
        return _fail(f"stopped; {entry.again}", _interruption_code(behind))


def _interruption_code(interruption: KeyboardInterrupt) -> int:
    """The exit code after Ctrl-C or SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(interruption, _Terminated) else signal.SIGINT)


def _interruption_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interruption while whose handling an error was raised, as by a ZIP file that is closed half-written."""
    context = error.__context__
    while context is not None and not isinstance(context, KeyboardInterrupt):
        context = context.__context__
    return context


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: its lock and its drafts are removed."""


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM raises `_Terminated` in the main thread; processes that are forked there just end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise _Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


PATIENT_FILES = ("source", "images", "domains", "scans", "support", "mask", "labels")
"""Settings that name files of a clinic, whose names may hold a patient's."""


def _hiding_patients(file: str | bytes | int | None, command: Command | None) -> str:
    """The file of an error as it may be printed: not the names below a folder of a clinic's files."""
    if not isinstance(file, str):
        return ""
    from ..platform.core.node_cache import node_cache

    for name in PATIENT_FILES:
        value = getattr(command, name, None)
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Location):
                # What lies at a URL is read from its copy.
                folder = path.path.absolute() if path.is_local else node_cache("inputs")
                if folder in Path(file).absolute().parents:
                    return f"a file in {path}"
    return file


def command_help(name: str, arguments: Sequence[str], width: int) -> str:
    """What `vetdino NAME … --help` or `--help-all` prints, at most `width` (and 110) columns wide."""
    from .settings import help_text

    command = COMMANDS[name].load()
    words = [word for word in arguments if word not in HELP]
    if not words and (recipes := getattr(command, "overview", None)):
        return recipes()
    start, _, more = command.parse_start(words)
    prog = f"vetdino {name} {more}".strip()
    return help_text(prog, start, start.basic, "--help-all" in arguments, min(width, 110))


def _fail(message: str, code: int) -> int:
    print(f"vetdino: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code
