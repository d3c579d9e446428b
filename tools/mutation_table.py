"""The results of a mutmut run as the table of docs/mutation.md, and the mutants that survived: ``mutation_table.py MUTANTS_FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mutmut.stats import status_by_exit_code

KILLED = ("killed", "timeout")
"""A mutant that never ends is found out too."""


def results(mutants: Path) -> dict[str, dict[str, str]]:
    """Module → mutant → status, for every module that has mutants."""
    found = {}
    for meta in sorted(mutants.rglob("*.py.meta")):
        module = meta.relative_to(mutants / "h2o_gate_plugin").with_suffix("").as_posix()
        codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        found[module] = {name: status_by_exit_code[code] for name, code in codes.items()}
    return {module: statuses for module, statuses in found.items() if statuses}


def main() -> None:
    found = results(Path(sys.argv[1]))
    counts = {module: (len(of), sum(status in KILLED for status in of.values())) for module, of in found.items()}
    total = tuple(sum(column) for column in zip(*counts.values(), strict=True))
    print("| module | mutants | killed | survived |", "|---|---:|---:|---:|", sep="\n")
    for module, (mutants, killed) in {**counts, "**all**": total}.items():
        print(f"| {module} | {mutants} | {killed} | {mutants - killed} |")
    print()
    for statuses in found.values():
        for name, status in statuses.items():
            if status not in KILLED:
                print(f"{status}: {name}")


if __name__ == "__main__":
    main()
