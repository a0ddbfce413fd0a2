"""`python -m benchmarks.gpu`: all figures that need a GPU, within eight minutes, as one table."""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROWS = {
    "matrix product": 40.0,
    "step multi_view_s14": 60.0,
    "step multi_view_b14": 60.0,
    "step multi_view_l14": 60.0,
    "loader": 80.0,
    "embed 224": 50.0,
    "embed 518": 50.0,
    "step multi_view_s14 compiled": 90.0,
    "step multi_view_b14 compiled": 90.0,
    "step multi_view_l14 compiled": 90.0,
    "neighbors": 50.0,
    "step vet_s14": 50.0,
    "step vet_s14 compiled": 60.0,
}
"""Row -> seconds that it may take at most; in the order of what is missed most. `rows.py` measures them."""

COLUMNS = (
    "row",
    "rate",
    "unit",
    "ms",
    "peak_share",
    "memory_gib",
    "predicted_gib",
    "studies",
    "note",
    "error",
)

SPARE = 5.0
"""Seconds of the limit that are kept for the table and for ending a row."""

LEAST = 10.0
"""Seconds below which a row is not begun."""

NEEDED = ("torch", "timm", "cv2", "deepspeed", "faiss", "pyarrow", "pydantic", "fsspec", "safetensors")
"""Modules without which rows fail."""


def main() -> None:
    """Measure each row in a process of its own, and write the table after each."""
    args = _parse_args()
    if args.one:
        from .rows import TooManyStudiesError, run_row

        try:
            run_row(args.one, args.device, args.tiny, args.seconds, args.studies)
        except TooManyStudiesError as error:
            print(f"{args.one}: {error}, {error.fewer} are tried", file=sys.stderr)
            os.execv(sys.executable, command_of(args.one, args, args.seconds, error.fewer))
        os._exit(0)  # libraries take their time to end, or hang: the figures are printed
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        print(f"missing here: {', '.join(missing)}; rows that need them fail (see benchmarks/README.md)")
    began, about = time.monotonic(), dict[str, Any]()
    args.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for name in args.rows:
        limit = min(ROWS[name], 60 * args.minutes - SPARE - (time.monotonic() - began))
        if limit < LEAST:
            results.append({"row": name, "error": f"not begun: {args.minutes:g} minutes are over"})
        else:
            results.append(measured(name, args, limit))
            about = results[-1].pop("machine", about)
        print(line(results[-1]), flush=True)
        write(args.out, results, about)
    print(args.out / "gpu.md")


def measured(name: str, args: argparse.Namespace, limit: float) -> dict[str, Any]:
    """A row's figures, the last that its process printed, with the machine, and its error where it has one."""
    process = subprocess.Popen(
        command_of(name, args, limit),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    error = ""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        error = f"stopped after {limit:.0f} s"
        os.killpg(process.pid, signal.SIGKILL)  # with its loaders and compilers
        out, err = process.communicate()
    if process.returncode and not error:
        error = reason(err) or f"exit code {process.returncode}"
    figures: dict[str, Any] = {}
    for text in out.splitlines():
        if text.startswith("{"):
            figures |= json.loads(text)
    return {"row": name, **figures, "error": error}


def command_of(name: str, args: argparse.Namespace, seconds: float, studies: int = 0) -> list[str]:
    """What measures one row. studies: of a step; 0: as many as fit."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--one", name, "--seconds", str(seconds)]
    command += ["--device", args.device, "--studies", str(studies)]
    return command + ["--tiny"] * args.tiny


def reason(err: str) -> str:
    """One line of a traceback: the last that names an error, else the last.

    >>> reason("Traceback:\\n  File x\\ntorch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB\\nsee the log")
    'torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB'
    """
    lines = [text.strip() for text in err.splitlines() if text.strip()]
    named = [text for text in lines if text.split(":")[0].endswith(("Error", "Exception"))]
    return (named or lines or [""])[-1][:300]


def line(result: dict[str, Any]) -> str:
    """A row as it is printed."""
    figures = f"{result['rate']:>10.4g} {result['unit']}" if "rate" in result else ""
    return " ".join(
        f"{result['row']:<32}{figures} {result.get('note', '')} {result['error']}".split("\n")
    ).rstrip()


def write(out: Path, results: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """The table so far as Markdown, CSV and JSON."""
    (out / "gpu.json").write_text(json.dumps({"machine": about, "rows": results}, indent=1) + "\n")
    with (out / "gpu.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(results)
    lines = [", ".join(f"{name} {value}" for name, value in about.items()), ""]
    lines += ["| what | rate | ms a step | of the peak | memory, GiB | predicted | studies | |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for result in results:
        cells = [
            result["row"],
            f"{result['rate']:.4g} {result['unit']}" if "rate" in result else "",
            *(_cell(result.get(name), form) for name, form in (("ms", ".4g"), ("peak_share", ".1%"))),
            *(_cell(result.get(name), ".4g") for name in ("memory_gib", "predicted_gib", "studies")),
            "; ".join(filter(None, (result.get("note"), result["error"]))).replace("|", "/"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    (out / "gpu.md").write_text("\n".join(lines) + "\n")


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _parse_args() -> argparse.Namespace:
    # argparse: a bare GPU machine has torch, and perhaps no command line of ours.
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="small networks and data, to try the benchmark itself"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="of all rows together")
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu"), help="folder for gpu.md, gpu.csv and gpu.json"
    )
    parser.add_argument("--one", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)
    parser.add_argument("--studies", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
