"""pytest that is killed, or whose disk is full, from its n-th file operation on; started by `test_every_write`.

    python dying_pytest.py count|torn|full N pytest's own words

Operations, below the working folder but not in its tmp, which is pytest's own: opening a file for writing, renaming, removing, making a
folder, fsync, opening the history.
``torn`` kills before the N-th, and cuts a file that is about to be synced to half first; ``full`` refuses the N-th and all
later ones that need space. ``count`` writes how many there were to operations.txt. Planted in this process alone.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any

ROOT = os.getcwd()
NEED_SPACE = ("open", "os.mkdir", "fsync", "os.rename")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MODE, LIMIT = sys.argv[1], int(sys.argv[2])
done = 0
at_work = False


def operation(event: str, path: str, descriptor: int | None = None) -> None:
    global done
    done += 1
    if MODE == "torn" and done == LIMIT:
        if descriptor is not None and os.path.isfile(path):
            os.truncate(path, os.stat(path).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    if MODE == "full" and done >= LIMIT and event in NEED_SPACE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def audit(event: str, args: tuple[Any, ...]) -> None:
    global at_work
    if at_work or event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "sqlite3.connect"):
        return
    if not args or not isinstance(args[0], str | bytes | os.PathLike):
        return
    path = os.path.join(ROOT, os.fsdecode(args[0]))
    if not path.startswith(f"{ROOT}/") or os.path.join(path, "").startswith(os.path.join(ROOT, "tmp", "")) or "__pycache__" in path:
        return
    if event == "open" and not args[2] & WRITING:
        return
    at_work = True
    if os.path.lexists(path) == (event == "os.mkdir") and event in ("os.mkdir", "os.remove", "os.rmdir"):
        event = ""  # there already, or gone already: nothing changes
    try:
        if event:
            operation(event, path)
    finally:
        at_work = False


def main() -> int:
    import pytest

    fsync = os.fsync

    def counted(descriptor: int) -> None:
        global at_work
        at_work = True
        try:
            operation("fsync", os.readlink(f"/proc/self/fd/{descriptor}"), descriptor)
        finally:
            at_work = False
        fsync(descriptor)

    setattr(os, "fsync", counted)  # noqa: B010  typed
    sys.addaudithook(audit)
    code = int(pytest.main(sys.argv[3:]))
    counted_operations = done
    if MODE == "count":
        with open("operations.txt", "w", encoding="utf-8") as file:
            file.write(str(counted_operations))
    return code


if __name__ == "__main__":
    sys.exit(main())
