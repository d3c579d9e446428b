"""The table fault -> gate -> caught, on the terminal and as docs/faults.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .catalogue import Fault
from .gate_runs import REFUSED, Gate, Outcome

HEADER = ("fault", "id", "planted", "must turn red", "turned red", "value (limit)", "caught", "green without it")
WIDEST_LIST = 4


@dataclass(frozen=True)
class Row:
    """One fault and what became of it."""

    fault: Fault
    outcome: Outcome
    control: Outcome

    @property
    def caught(self) -> bool:
        """Every gate that must turn red did, in the way and with the words that were asked for."""
        gates = self.outcome.gates
        expected = [gates.get(name) for name in self.fault.expected]
        as_asked = all(gate is not None and gate.status == self.fault.expected[gate.name] for gate in expected)
        return as_asked and any(self.fault.says in gate.reason for gate in expected if gate is not None)

    @property
    def control_green(self) -> bool:
        """The gates that must turn red were judged and hold without the fault, and so does every other gate of that run."""
        judged = self.control.gates
        return not self.control.red and all(name == REFUSED or judged[name].status == "PASS" for name in self.fault.expected)

    def cells(self) -> tuple[str, ...]:
        fault, red = self.fault, self.outcome.red
        names = [_named(gate.name, gate.status) for gate in red]
        told = ", ".join(names) if len(names) <= WIDEST_LIST else f"{', '.join(names[:2])} and {len(names) - 2} more"
        values = [_shown(gate, fault.says) for gate in red if gate.name in fault.expected]
        return (
            fault.name,
            ", ".join(fault.ids),
            fault.planted,
            ", ".join(_named(name, status) for name, status in fault.expected.items()),
            told or "none",
            "; ".join(dict.fromkeys(values)) or "-",
            "yes" if self.caught else f"NO: {fault.gap}" if fault.gap else "NO",
            "yes" if self.control_green else "NO",
        )


def _shown(gate: Gate, says: str) -> str:
    shown = "no value" if gate.status == "NOT_MEASURED" else gate.shown
    return f'{shown}: "{says}"' if says else shown


def _named(gate: str, status: str) -> str:
    words = {"FAIL": "fails", "NOT_MEASURED": "not measured", "INCONCLUSIVE": "inconclusive"}
    return gate if gate == REFUSED else f"{gate} {words[status]}"


def summary(rows: Sequence[Row]) -> str:
    caught = sum(row.caught for row in rows)
    green = sum(row.control_green for row in rows)
    return f"{len(rows)} faults planted, {caught} caught, {green} of the same runs without the fault green"


def terminal_lines(rows: Sequence[Row]) -> tuple[str, ...]:
    shown = [[cell for place, cell in enumerate(row.cells()) if HEADER[place] not in ("planted", "must turn red")] for row in rows]
    header = [name for name in HEADER if name not in ("planted", "must turn red")]
    widths = [max(len(line[place]) for line in (header, *shown)) for place in range(len(header))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in (header, *shown)]
    return (*lines, summary(rows))


INTRODUCTION = """\
# Planted faults: what turns which gate red

`make faults` plants every fault below in a process of its own, runs the gates on it as a user would, and asks for the named gate to turn red; the same run without the fault must be green. The table is what that run printed
(`make faults-table` writes this file). "Not measured" fails the verdict like a figure beyond its limit; "refused" means that the run did not start.

- Ids: D1 to D29 are defects that the gates of the reference let through. X1 to X8 are faults that others met: RoPE positions out of step after compaction (X1), new tokens evicted at once (X2), a cache kept per query head under
  grouped-query attention (X3), a ratio that counts inactive steps (X4), score ties that evict silently (X5), a kept count of 0 on short prompts (X6), state that leaks from one prompt into the next (X7), candidate and baseline
  prefilled differently (X8). Y are further ones.
- Faults of an engine are planted in the embedded one: `tests/faults/faulty_llm_bench.py` replaces one function of it in the process of a launcher that the test writes. No option, variable or file of the package leads there, and the kernels'
  machine code on disk stays that of the real engine. Faults of tables, dumps, baselines and limits are doctored files and the scripted engine of the unit tests.
- The settings (`tests/faults/settings/`) are the suite's tuned ones, made small: 512 tokens of prompt, 64 decoded, two repeats, every layer encoded, so that coverage is claimed. All gates have their default limits and all evidence is required.
"""  # noqa: E501 (lines of a document)


def document(rows: Sequence[Row]) -> str:
    lines = [INTRODUCTION, f"{summary(rows)}.", "", f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row.cells())} |" for row in rows]
    return "\n".join(lines) + "\n"
