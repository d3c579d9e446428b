"""How every artifact is written: under a temporary name, then renamed, so that a reader sees the old file or the whole new one."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from h2o_gate_plugin.errors import FileError

PARTIAL = re.compile(r"\..*-(?P<pid>\d+)-\d+\.partial")
NAME_CHARS = 40
"""Of the file's own name in the temporary one, which must not be longer than a file system allows where the name itself is not."""


def write_atomic(path: Path, text: str) -> None:
    """``text`` as UTF-8; what UTF-8 cannot say (a file name that is no text) as a backslash escape, which JSON reads back.

    Raises FileError.
    """
    with written_whole(path) as partial:
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """The temporary name to write to inside the block; at its end the file is on the disk and has its own name.

    Whatever goes wrong, an interrupt too, the old file stays and no temporary one. What a killed process left is removed on the way.
    Raises FileError where the disk does not take it.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # standard output by its name in /dev, say
        yield path
        return
    path = Path(os.path.realpath(path))  # where a link leads is written, the link stays
    partial = path.with_name(f".{path.name[:NAME_CHARS]}-{os.getpid()}-{threading.get_ident()}.partial")
    try:
        try:
            yield partial
            _to_disk(partial)
            os.replace(partial, path)
            _folder_to_disk(path.parent)
        finally:
            partial.unlink(missing_ok=True)
        remove_left_partials(path.parent)
    except OSError as err:
        raise not_written(path, err) from err


def not_written(path: Path, err: OSError) -> FileError:
    """Says why, and that what was written before is still there."""
    return FileError(
        f"{path}: file: expected to be able to write it, got {err.strerror or err}; free space or choose another folder, "
        "what was written before is kept"
    )


def remove_left_partials(folder: Path) -> None:
    """Temporary files of processes that are gone; those of this moment's writers stay."""
    for entry in os.scandir(folder):
        found = PARTIAL.fullmatch(entry.name)
        if found is not None and not _alive(int(found["pid"])):
            Path(entry.path).unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Before the rename, else a loss of power could leave the new name with nothing in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folder_to_disk(folder: Path) -> None:
    """After the rename, so that a loss of power does not take the new name back; not every system syncs folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True  # another user's, or no process id at all
    return True
