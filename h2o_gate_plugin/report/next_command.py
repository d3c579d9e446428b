"""What to type after a verdict that is not true."""

from __future__ import annotations

import shlex
from pathlib import Path

from h2o_gate_plugin.gates.checks import GATES
from h2o_gate_plugin.report.model import Report, short_path

TYPED = "command line "
ENGINE_OPTIONS = ("--llm-bench", "--model-config", "--prompt-command")
"""Of no use where nothing is started."""
CASE_OPTIONS = ("--preset", "--runtime-mode", "--threads", "--backend")
"""They make a case that --h2o-from does not know: only a new measurement judges it again."""
FOLDERS = ("--h2o-out", "--h2o-from")


def typed_options(report: Report) -> dict[str, str]:
    """What the command line said, but for the folders: those are the next command's own affair."""
    return {flag: value for flag, value, origin in report.settings if origin.startswith(TYPED) and flag not in FOLDERS}


def next_command(report: Report, cwd: Path) -> str | None:
    """Look at the broken process first; else judge what was kept again, or measure where nothing was; None after a pass.

    With the options that were typed; those of environment and ini stay in force by themselves.
    """
    failed = [gate for case in report.cases for gate in case.gates if gate.failed]
    if not failed:
        return None
    broken = [process for case in report.cases for process in case.failures]
    if broken:
        return shlex.join(("less", short_path(broken[0].log, cwd)))
    typed = typed_options(report)
    names = {gate.name for gate in failed}
    packs = report.pack.replace("+", " or ")
    marks = f"{packs} and {GATES[names.pop()].marker}" if len(names) == 1 and "+" not in report.pack else packs
    words = ["pytest", "-m", marks]
    found = report.kept_in == report.out_dir or any(case.rows for case in report.cases)
    noisy = all(gate.status == "INCONCLUSIVE" for gate in failed)  # only more pairs decide
    if found and not noisy and typed.keys().isdisjoint(CASE_OPTIONS):
        dumped = () if report.kept_in.is_file() or not (report.kept_in / "offline.json").is_file() else ("--dump-dir",)
        typed = {flag: value for flag, value in typed.items() if flag not in (*ENGINE_OPTIONS, *dumped)}
        words.append(f"--h2o-from={short_path(report.kept_in, cwd)}")
    return shlex.join([*words, *(f"{flag}={short_path(Path(value), cwd)}" for flag, value in typed.items())])
