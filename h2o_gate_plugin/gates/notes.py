"""What a reader of a verdict should know beside it: constant prompts, figures that look wrong, claims without evidence."""

from __future__ import annotations

from h2o_gate_plugin.bench_columns import NOT_MEASURED_CELL
from h2o_gate_plugin.gates.evidence import CaseEvidence, Row

CLAIMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("memory given back", ("kv_range_full_mb", "kv_range_resident_mb")),
    ("coverage", ("lossless_coverage",)),
    ("exactness", ("kv_mismatch_blocks",)),
    ("text quality", ("kl_mean", "top1_agree")),
    ("tokens decoded", ("decode_tokens",)),
    ("real prompt", ("prompt_kind",)),
)
"""Claim → the evidence columns that prove it (bench_columns, group evidence)."""


def notes_on(evidence: CaseEvidence) -> tuple[str, ...]:
    return (
        *_constant_prompts(evidence),
        *_short_decodes(evidence),
        *_mismatches(evidence),
        *_ungated(evidence),
        *_unproven(evidence),
    )


def _constant_prompts(evidence: CaseEvidence) -> tuple[str, ...]:
    constant = [row for row in evidence.rows if row.bench.text.get("prompt_kind") == "constant"]
    if not constant:
        return ()
    places = ", ".join(row.place for row in constant[:2])
    return (
        f"constant-token prompt in {len(constant)} of {len(evidence.rows)} rows ({places}): its equal V rows prove nothing about lossless",
    )


def _short_decodes(evidence: CaseEvidence) -> tuple[str, ...]:
    short = [
        row
        for row in evidence.rows
        if (tokens := row.mean("decode_tokens")) is not None and row.bench.gen_tokens is not None and tokens < row.bench.gen_tokens
    ]
    if not short:
        return ()
    worst = min(short, key=lambda row: row.mean("decode_tokens") or 0.0)
    return (f"decoding ended early in {len(short)} rows: {worst.mean('decode_tokens'):g} tokens at {worst.place}",)


def _mismatches(evidence: CaseEvidence) -> tuple[str, ...]:
    broken = [row for row in evidence.rows if (row.mean("kv_mismatch_blocks") or 0.0) > 0]
    if not broken:
        return ()
    return (f"KV is NOT exact: {broken[0].mean('kv_mismatch_blocks'):g} decoded blocks differ from the original at {broken[0].place}",)


def _ungated(evidence: CaseEvidence) -> tuple[str, ...]:
    """What the evidence columns say of claims that no gate holds yet, at its worst row."""
    told = []
    if coverage := _figures(evidence, "lossless_coverage"):
        told.append(f"lossless coverage {_range(coverage)} of the cold KV in scope")
    full, resident = _figures(evidence, "kv_range_full_mb"), _figures(evidence, "kv_range_resident_mb")
    if full and len(full) == len(resident) and min(resident) > 0:
        told.append(f"KV memory of the H2O layers {min(f / r for f, r in zip(full, resident, strict=True)):.2f}x smaller")
    if divergence := _figures(evidence, "kl_mean"):
        told.append(f"KL to the full cache {_range(divergence)} nats")
    recall_full, recall_kv = _figures(evidence, "recall_full"), _figures(evidence, "recall_kv")
    if recall_full and recall_kv:
        told.append(f"planted recall {min(recall_kv):.2f} against {min(recall_full):.2f} with the full cache{_controls(evidence)}")
    return (f"measured, not gated: {'; '.join(told)}",) if told else ()


def _controls(evidence: CaseEvidence) -> str:
    controls = _figures(evidence, "recall_random"), _figures(evidence, "recall_window")
    return f", {max(controls[0]):.2f} random, {max(controls[1]):.2f} newest only" if all(controls) else ""


def _figures(evidence: CaseEvidence, column: str) -> tuple[float, ...]:
    return tuple(mean for row in evidence.rows if (mean := row.mean(column)) is not None)


def _range(figures: tuple[float, ...]) -> str:
    low, high = f"{min(figures):.2f}", f"{max(figures):.2f}"
    return low if low == high else f"{low} to {high}"


def _unproven(evidence: CaseEvidence) -> tuple[str, ...]:
    runs: dict[str, list[Row]] = {}
    for row in evidence.rows:  # quality is the same in every repeat of a run, so that one of them need show it
        runs.setdefault(row.run_id, []).append(row)
    claims = [
        claim
        for claim, columns in CLAIMS
        if any(not any(_shows(row, column) for row in rows) for rows in runs.values() for column in columns)
    ]
    return (f"unproven, the engine prints no evidence of it: {', '.join(claims)}",) if claims else ()


def _shows(row: Row, column: str) -> bool:
    return row.bench.text.get(column, NOT_MEASURED_CELL) != NOT_MEASURED_CELL
