"""Which commit of the code runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def git_revision() -> str:
    """Commit of this checkout, `+` after it where tracked files differ; empty outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return ""

    def output(*arguments: str) -> str:
        here = Path(__file__).parent
        run = subprocess.run([git, *arguments], cwd=here, capture_output=True, text=True, timeout=10)
        return run.stdout.strip() if run.returncode == 0 else ""

    commit = output("rev-parse", "HEAD")
    return commit + "+" * bool(commit and output("status", "--porcelain", "--untracked-files=no"))
