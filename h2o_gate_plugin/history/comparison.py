"""Two runs side by side: what they ran on, their budgets, and each gate of each case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from h2o_gate_plugin.bench.pack import BUDGETS
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.history.run import KeptGate, KeptRun

Trend = Literal["better", "worse", "same", "changed"]

RANK = {"PASS": 0, "OFF": 1, "UNPROVEN": 1, "INCONCLUSIVE": 2, "NOT_MEASURED": 3, "FAIL": 3}
"""A status with a higher rank is worse. OFF and UNPROVEN stand behind PASS: what held before is no longer shown to hold."""
NOT_JUDGED_RANK = 1

_ELSEWHERE = {"--h2o-out", "--h2o-from", "--h2o-history", *(f"--{name.replace('_', '-')}" for name in BUDGETS)}
"""Flags that are no difference: where files lie, and limits, which are told as budgets."""


@dataclass(frozen=True)
class Difference:
    """Something that A and B do not share. ``matters``: figures of speed are then not comparable."""

    thing: str
    a: str
    b: str
    matters: bool = False


@dataclass(frozen=True)
class BudgetDifference:
    """Limits of one gate or criterion, None = off, with what set them."""

    case: str
    name: str
    unit: str
    a: float | None
    a_origin: str
    b: float | None
    b_origin: str


@dataclass(frozen=True)
class GateChange:
    """One gate, or one of its criteria, in A and in B; None: it was not judged there. ``change``: B - A in ``unit``, None where a value
    is missing or the units differ. ``trend`` is that of the value, by the gate's direction; ``status_trend`` that of the status.
    """

    case: str
    gate: str
    criterion: str | None
    unit: str
    a: KeptGate | None
    b: KeptGate | None
    change: float | None
    trend: Trend | None
    status_trend: Trend

    @property
    def name(self) -> str:
        return self.gate if self.criterion is None else f"{self.gate}: {self.criterion}"


@dataclass(frozen=True)
class Comparison:
    """``only_a``, ``only_b``: cases of one run alone. ``worse``: the gates whose status is worse in B."""

    a: KeptRun
    b: KeptRun
    differences: tuple[Difference, ...]
    budgets: tuple[BudgetDifference, ...]
    changes: tuple[GateChange, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def worse(self) -> tuple[GateChange, ...]:
        return tuple(change for change in self.changes if change.criterion is None and change.status_trend == "worse")


def compare(a: KeptRun, b: KeptRun) -> Comparison:
    """Raises ConfigError when no case was judged in both."""
    common = tuple(case for case in a.plans if case in b.plans)
    if not common:
        raise ConfigError(
            f"compare: expected runs with a case in common, got {', '.join(a.plans)} and {', '.join(b.plans)}; compare two of one pack"
        )
    return Comparison(
        a,
        b,
        tuple(_differences(a, b, common)),
        tuple(_budget_differences(a, b, common)),
        tuple(change for case in common for change in _gate_changes(a, b, case)),
        tuple(case for case in a.plans if case not in b.plans),
        tuple(case for case in b.plans if case not in a.plans),
    )


def _differences(a: KeptRun, b: KeptRun, common: tuple[str, ...]) -> Iterator[Difference]:
    """Host, engine and model first: they decide whether the rest can be compared at all."""
    if a.origin.host != b.origin.host or a.origin.host is None:
        yield Difference("host", _host(a), _host(b), matters=True)
    if (a.engine, a.origin.engine_sha256) != (b.engine, b.origin.engine_sha256):
        yield Difference("engine", _engine(a), _engine(b))
    if a.origin.config_sha256 != b.origin.config_sha256:
        yield Difference("model config", _sha(a.origin.config_sha256), _sha(b.origin.config_sha256))
    for case in common:
        plans = a.plans[case], b.plans[case]
        if plans[0] != plans[1] and None not in plans:
            yield Difference(f"plan of {case}", _sha(plans[0]), _sha(plans[1]))
    if a.revision != b.revision and None not in (a.revision.commit, b.revision.commit):
        yield Difference("commit", a.revision.short, b.revision.short)
    if a.version != b.version and None not in (a.version, b.version):
        yield Difference("h2o-gate", str(a.version), str(b.version))
    if a.incomplete != b.incomplete:
        yield Difference("part of the pack", a.incomplete or "whole", b.incomplete or "whole")
    for flag in dict.fromkeys((*a.settings, *b.settings)):
        value_a, value_b = (run.settings.get(flag, ("-", ""))[0] for run in (a, b))
        if value_a != value_b and flag not in _ELSEWHERE:
            yield Difference(flag, value_a, value_b)


def _host(run: KeptRun) -> str:
    return "not known" if run.origin.host is None else f"{run.origin.host} ({run.cpu})"


def _engine(run: KeptRun) -> str:
    return f"{run.engine} {_sha(run.origin.engine_sha256)}"


def _sha(digest: str | None) -> str:
    return "not known" if digest is None else digest[:12]


def _by_name(run: KeptRun, case: str) -> dict[tuple[str, str | None], KeptGate]:
    return {(gate.gate, gate.criterion): gate for gate in run.gates if gate.case == case}


def _budget_differences(a: KeptRun, b: KeptRun, common: tuple[str, ...]) -> Iterator[BudgetDifference]:
    """Of a gate with criteria only theirs: its own limit is that of whichever is nearest to failing."""
    for case in common:
        in_a, in_b = _by_name(a, case), _by_name(b, case)
        split = {gate for gate, criterion in (*in_a, *in_b) if criterion is not None}
        for key in in_a:
            if key not in in_b or (key[1] is None and key[0] in split):
                continue
            old, new = in_a[key], in_b[key]
            if old.limit != new.limit:
                yield BudgetDifference(case, new.name, new.unit, old.limit, old.limit_origin, new.limit, new.limit_origin)


def _gate_changes(a: KeptRun, b: KeptRun, case: str) -> Iterator[GateChange]:
    in_a, in_b = _by_name(a, case), _by_name(b, case)
    for key in sorted(dict.fromkeys((*in_a, *in_b)), key=lambda key: _order(key, tuple(in_a) + tuple(in_b))):
        yield _change(case, key, in_a.get(key), in_b.get(key))


def _order(key: tuple[str, str | None], known: tuple[tuple[str, str | None], ...]) -> tuple[int, int]:
    """Gates as A has them, each followed by its criteria."""
    return next(index for index, (gate, _) in enumerate(known) if gate == key[0]), known.index(key)


def _change(case: str, key: tuple[str, str | None], a: KeptGate | None, b: KeptGate | None) -> GateChange:
    known = b or a
    assert known is not None  # noqa: S101  a key of one of the two
    values = None if a is None or b is None or a.value is None or b.value is None or a.unit != b.unit else (a.value, b.value)
    change = None if values is None else values[1] - values[0]
    trend: Trend | None = None
    if change is not None and known.direction is not None:
        gain = change if known.direction == ">=" else -change
        trend = "same" if gain == 0 else "better" if gain > 0 else "worse"
    return GateChange(case, *key, known.unit, a, b, change, trend, _status_trend(a, b))


def _status_trend(a: KeptGate | None, b: KeptGate | None) -> Trend:
    statuses = tuple(None if gate is None else gate.status for gate in (a, b))
    ranks = tuple(NOT_JUDGED_RANK if status is None else RANK[status] for status in statuses)
    if statuses[0] == statuses[1]:
        return "same"
    if ranks[1] > ranks[0]:
        return "worse"
    return "better" if statuses[1] == "PASS" else "changed"
