"""Which commit the working directory stands at, when there is one."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Revision:
    """``commit``: 40 or 64 hex digits; ``changed``: tracked files differ from it. Each None = not known."""

    commit: str | None = None
    changed: bool | None = None

    @property
    def short(self) -> str:
        """``7a1b41d+`` where files were changed, ``-`` without a commit."""
        return "-" if self.commit is None else self.commit[:7] + ("+" if self.changed else "")


def revision_of(folder: Path) -> Revision:
    """Of the git checkout around ``folder``. No git, no checkout, no commit yet: a Revision that knows nothing."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if not commit:
        return Revision()
    changes = _git(folder, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return Revision(commit, None if changes is None else bool(changes))


def _git(folder: Path, *words: str) -> str | None:
    program = shutil.which("git")
    if program is None:
        return None
    try:
        done = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None  # a commit is worth having, never worth a run
    return done.stdout.strip() if done.returncode == 0 else None
