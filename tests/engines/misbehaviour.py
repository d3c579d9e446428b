"""What an engine process can do wrong, by name: the scripted llm_bench does one of these instead of printing its table.

Whoever is started writes its process id down, so that a test can ask whether it is gone. Standard library only; imported when asked for.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

MIB = 1024 * 1024
BULK_BYTES = 100_000_000
LINE = b"[H2O] layer=2 kv=513 a line of noise as engines print them, again and again and again and again and again\n"


@dataclass(frozen=True)
class Call:
    """``log``: where the table goes; ``pids``: where process ids are written down, one a line."""

    log: Path
    header: str
    ruler: str
    row: str
    pids: Path

    @property
    def table(self) -> bytes:
        return f"{self.header}\n{self.ruler}\n{self.row}\n".encode()

    @property
    def half(self) -> bytes:
        return self.table[: -len(self.row.encode()) // 2]

    def write(self, data: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(data)

    def note(self, pid: int) -> None:
        with self.pids.open("a", encoding="ascii") as file:
            file.write(f"{pid}\n")


Misbehaviour = Callable[[Call], int]


def killed(name: str, part: str, call: Call) -> int:
    _print_part(call, part)
    os.kill(os.getpid(), signal.Signals[name])
    return 0


def exits(code: int, part: str, call: Call) -> int:
    _print_part(call, part)
    return code


def hangs(part: str, call: Call, stubborn: bool = False, child: bool = False, own_session: bool = False) -> int:
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _print_part(call, part)
    if child:
        _start_child(call, stubborn=True, own_session=own_session)
    return _sleep_for_ever()


def floods(target: str, data: bytes, call: Call) -> int:
    """Without an end, as fast as the disk takes it."""
    block = data * (MIB // len(data) + 1)
    with call.log.open("ab") if target == "log" else open(sys.stdout.fileno(), "wb", closefd=False) as file:
        while True:
            file.write(block)


def bulky(target: str, data: bytes, call: Call) -> int:
    """100 MB, and then all is well."""
    block = data * (MIB // len(data) + 1)
    with call.log.open("ab") if target == "log" else open(sys.stdout.fileno(), "wb", closefd=False) as file:
        for _ in range(BULK_BYTES // len(block) + 1):
            file.write(block)
        file.write(b"\n")
    call.write(call.table)
    return 0


def prints(make: Callable[[Call], bytes], call: Call) -> int:
    call.write(make(call))
    return 0


def removes_output(call: Call) -> int:
    """Its stdout and its table are pipes at the end, which nobody writes to."""
    for path in (Path(os.readlink("/proc/self/fd/1")), call.log):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    return 0


def leaves(call: Call, stubborn: bool = False, own_session: bool = False, daemon: bool = False) -> int:
    """Its table is whole; what it started runs on and holds its stdout."""
    call.write(call.table)
    if not daemon:
        _start_child(call, stubborn, own_session)
        return 0
    between = os.fork()
    if between == 0:
        os.setsid()
        _start_child(call, stubborn, own_session)
        os._exit(0)
    os.waitpid(between, 0)
    return 0


def leaves_one_after_another(call: Call) -> int:
    """What it leaves behind becomes another process, and another, each in a session of its own; at last it ends."""
    call.write(call.table)
    if os.fork():
        return 0
    for _ in range(2000):
        if os.fork():
            os._exit(0)
        os.setsid()
        call.note(os.getpid())
        time.sleep(0.002)
    os._exit(0)


def _print_part(call: Call, part: str) -> None:
    if part != "nothing":
        call.write({"header": f"{call.header}\n{call.ruler}\n".encode(), "half": call.half, "whole": call.table}[part])
    print(f"the table is printed: {part}", flush=True)


def _start_child(call: Call, stubborn: bool, own_session: bool) -> None:
    """A child that waits for ever. The parent goes on when the child has done what it was to do first."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        if stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if own_session:
            os.setsid()
        os.write(told, b"x")
        _sleep_for_ever()
    call.note(pid)
    os.read(ready, 1)


def _sleep_for_ever() -> int:
    while True:
        signal.pause()


def _cells(row: str, change: int) -> str:
    """The row with its last cell gone (-1) or doubled (1)."""
    cells = row.strip("| ").split(" | ")
    return f"| {' | '.join(cells[:-1] if change < 0 else [*cells, cells[-1]])} |"


def _table(call: Call, row: str) -> bytes:
    return f"{call.header}\n{call.ruler}\n{row}\n".encode()


def _second_column_named_twice(call: Call) -> bytes:
    first = call.header.split(" | ")[0].strip("| ")
    return call.table.replace(b"| " + first.encode() + b" | ", b"| " + first.encode() + b" | " + first.encode() + b" | ", 1)


MISBEHAVIOURS: Mapping[str, Misbehaviour] = {
    "killed before its table": partial(killed, "SIGKILL", "nothing"),
    "killed within its table": partial(killed, "SIGKILL", "half"),
    "killed after its table": partial(killed, "SIGKILL", "whole"),
    "segfault before its table": partial(killed, "SIGSEGV", "nothing"),
    "segfault within its table": partial(killed, "SIGSEGV", "half"),
    "segfault after its table": partial(killed, "SIGSEGV", "whole"),
    "exit 0 without a table": partial(exits, 0, "nothing"),
    "exit 0 without a row": partial(exits, 0, "header"),
    "exit 0 within a row": partial(exits, 0, "half"),
    "exit 1 with its row": partial(exits, 1, "whole"),
    "hangs silently": partial(hangs, "nothing"),
    "hangs within its table": partial(hangs, "half"),
    "hangs after its table": partial(hangs, "whole"),
    "hangs and ignores SIGTERM": partial(hangs, "half", stubborn=True),
    "hangs with a child that ignores SIGTERM": partial(hangs, "half", child=True),
    "hangs with a child in a session of its own": partial(hangs, "half", child=True, own_session=True),
    "stops itself": partial(killed, "SIGSTOP", "half"),
    "floods stdout": partial(floods, "stdout", LINE),
    "floods its log": partial(floods, "log", LINE),
    "floods its log with rows": partial(floods, "log", b"| a | b |\n"),
    "floods a line": partial(floods, "stdout", b"x"),
    "100 MB on stdout": partial(bulky, "stdout", LINE),
    "100 MB in its log": partial(bulky, "log", LINE),
    "a line of 100 MB in its log": partial(bulky, "log", b"x"),
    "a table line of 100 MB": partial(bulky, "log", b"|"),
    "removes its output": removes_output,
    "binary junk": partial(prints, lambda call: bytes(range(256)) * 64 + b"\n" + call.table),
    "CRLF": partial(prints, lambda call: call.table.replace(b"\n", b"\r\n")),
    "byte order mark": partial(prints, lambda call: b"\xef\xbb\xbf" + call.table),
    "UTF-16": partial(prints, lambda call: call.table.decode().encode("utf-16")),
    "UTF-16 without a mark": partial(prints, lambda call: call.table.decode().encode("utf-16-le")),
    "NULs": partial(prints, lambda call: call.table.replace(b" ", b"\0")),
    "no end of the last line": partial(prints, lambda call: call.table[:-1]),
    "a last line that is cut": partial(prints, lambda call: call.table + call.row.encode()[:3]),
    "two tables": partial(prints, lambda call: 2 * call.table),
    "a column twice": partial(prints, _second_column_named_twice),
    "too few cells": partial(prints, lambda call: _table(call, _cells(call.row, -1))),
    "too many cells": partial(prints, lambda call: _table(call, _cells(call.row, 1))),
    "leaves a child": leaves,
    "leaves a child that ignores SIGTERM": partial(leaves, stubborn=True),
    "leaves a child in a session of its own": partial(leaves, own_session=True),
    "leaves a daemon": partial(leaves, daemon=True, own_session=True),
    "leaves one after another": leaves_one_after_another,
}
