"""Gates on what must be true behind the columns: memory freed, everything covered, every layer treated as configured, KV exact.

Source: our runtime semantics ("Evidence columns") and the catalogue of defects (docs/faults.md).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from h2o_gate_plugin.gates.evidence import CaseEvidence, Row
from h2o_gate_plugin.gates.judging import blank, decided, lacking, missing, no_rows, not_applicable, once_a_run, worst_row
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.result import Criterion, GateName, GateResult
from h2o_gate_plugin.gates.scope import (
    KEPT,
    PART_COLUMNS,
    claims_full_coverage,
    front_layers,
    kept_tokens,
    layer_violations,
    log_violations,
    mode,
    never_switched_on,
    scope_parts,
)

FULL, PEAK = "kv_full_mb", "kv_peak_mb"
RANGE_FULL, RANGE_DECODE, RANGE_RESIDENT = "kv_range_full_mb", "kv_range_decode_mb", "kv_range_resident_mb"
COVERAGE, MISMATCHES, TURNS = "lossless_coverage", "kv_mismatch_blocks", "turns_mismatch_rows"
DECODED, PROMPT_KIND = "decode_tokens", "prompt_kind"
ASYNC_WAIT, BACKPRESSURE = "h2o_lossless_async_wait_us", "h2o_lossless_backpressure_skip"
CACHE_HIT, CACHE_MISS = "h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss"
REPEATED = ("h2o_keep", "h2o_lossy", RANGE_FULL)
PEAK_ROUNDING_MIB = 1e-4
"""The last printed digit of a MiB column."""


def check_resident(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """KV bytes of the H2O layers without compression / those alive, worst row of each: while decoding, and after the turn.

    Both are held against ``min_resident``, in store mode the second against ``min_joint_resident``. Nor may the peak be above the
    baseline's, or the KV without compression be counted larger than the model's own config makes it.
    """
    joint = evidence.runtime_mode == "store"
    end = "min_joint_resident" if joint else "min_resident"
    moments = (("while decoding", RANGE_DECODE, "min_resident"), ("after the turn", RANGE_RESIDENT, end))
    wanted = tuple(each for each in moments if getattr(limits, each[2]) is not None)
    start = blank("resident_pass", getattr(limits, end), "ratio", ">=", "worst row", f"{RANGE_FULL} / {RANGE_RESIDENT}, {RANGE_DECODE}")
    start = replace(start, limit_origin=limits.origin(end), status="NOT_MEASURED" if wanted else "OFF")
    if not wanted:
        return start
    if (gap := lacking(start, evidence, RANGE_FULL, *(column for _, column, _ in wanted))) is not None:
        return gap
    if (off := never_switched_on(evidence.rows)) is not None:
        return replace(start, reason=off)
    criteria = tuple(_resident(name, column, limit, evidence.rows, limits) for name, column, limit in wanted)
    nearest = min(criteria, key=lambda criterion: criterion.relative_margin)
    told = [f"{each.name} {each.value:.3f}, limit {each.limit:g} at {each.row}" for each in criteria if not each.holds]
    told += [line for line in (_peak_above_baseline(evidence), _miscounted(evidence)) if line is not None]
    return replace(
        start,
        status="FAIL" if told else "PASS",
        value=nearest.value,
        limit=nearest.limit,
        limit_origin=nearest.origin,
        source=f"{nearest.name}: {start.source}",
        rows=(nearest.row,),
        criteria=criteria,
        reason="; ".join(told) or None,
    )


def _resident(name: str, column: str, limit: str, rows: tuple[Row, ...], limits: Limits) -> Criterion:
    ratios = [((row.mean(RANGE_FULL) or 0.0) / alive if (alive := row.mean(column)) else 0.0, row.place) for row in rows]
    value, place = min(ratios)
    return Criterion(name, value, getattr(limits, limit), "ratio", ">=", place, limits.origin(limit))


def _miscounted(evidence: CaseEvidence) -> str | None:
    """The first row whose KV without compression is not what layers, KV heads and head size of the model make it, to within a token."""
    for row in evidence.rows:
        told, token_bytes = row.mean(FULL), row.kv_token_bytes
        if told is None or token_bytes is None:
            continue
        token_mib = token_bytes / 2**20
        expected = ((row.bench.prompt_tokens or 0) + (row.bench.gen_tokens or 0)) * token_mib
        if abs(told - expected) > token_mib + PEAK_ROUNDING_MIB:
            return f"{FULL} is {told:.4f} MiB, but the model's config.json makes it {expected:.4f} at {row.place}"
    return None


def _peak_above_baseline(evidence: CaseEvidence) -> str | None:
    """The first row whose peak is above that of every baseline row of its lengths; None without such a row, or without baselines."""
    peaks: dict[tuple[int | None, int | None], float] = {}
    for row in evidence.baseline_rows:
        if (peak := row.mean(PEAK)) is not None:
            lengths = (row.bench.prompt_tokens, row.bench.gen_tokens)
            peaks[lengths] = max(peak, peaks.get(lengths, 0.0))
    for row in evidence.rows:
        peak, allowed = row.mean(PEAK), peaks.get((row.bench.prompt_tokens, row.bench.gen_tokens))
        if peak is not None and allowed is not None and peak > allowed + PEAK_ROUNDING_MIB:
            return f"peak of KV memory {peak:.4f} MiB is above the baseline's {allowed:.4f} MiB at {row.place}"
    return None


def check_coverage(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Cold KV in scope that was packed or proven, worst row; asked for where the configuration samples nothing."""
    start = blank("coverage_pass", limits.min_coverage, "share", ">=", "worst row", COVERAGE)
    if limits.min_coverage is None:
        return start
    if (gone := no_rows(evidence.rows, evidence.failures)) is not None:
        return replace(start, reason=gone)
    if any(row.kv is None for row in evidence.rows):
        return replace(start, status="UNPROVEN", reason="not known what the configuration claims to cover")
    claiming = tuple(row for row in evidence.rows if claims_full_coverage(row))
    if not claiming:
        least = min((share for row in evidence.rows if (share := row.mean(COVERAGE)) is not None), default=None)
        return replace(not_applicable(start, "no claim of full coverage: the configuration samples or leaves out the front"), value=least)
    return lacking(start, replace(evidence, rows=claiming), COVERAGE) or worst_row(start, claiming, COVERAGE)


def check_scope(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Layers that hold what configuration and h2o_lossy do not allow; each part of the lossless scope must have packed something."""
    source = f"{KEPT}, {', '.join(PART_COLUMNS.values())}"
    start = blank("scope_pass", limits.max_scope_violations, "layers", "<=", "all rows", source)
    if limits.max_scope_violations is None:
        return start
    if (gone := no_rows(evidence.rows, evidence.failures)) is not None:
        return replace(start, reason=gone)
    if any(row.kv is None for row in evidence.rows):
        return replace(start, status="UNPROVEN", reason="not known how the layers were configured")
    violations = [(line, row) for row in evidence.rows for line in layer_violations(row)]
    if violations:
        rows = tuple({row.place: row for _, row in violations}.values())
        return decided(start, float(len(violations)), rows[:2], "; ".join(dict.fromkeys(line for line, _ in violations[:3])))
    if (off := never_switched_on(evidence.rows)) is not None:
        return replace(start, reason=off)
    idle = [found for row in evidence.rows if (found := _idle_part(row)) is not None]
    if idle:
        return replace(start, reason=idle[0])
    if any(kept_tokens(row) is None for row in evidence.rows):
        return replace(start, status="UNPROVEN", reason=f"the engine prints no {KEPT}")
    if any(_encoded(row, part) is None for row in evidence.rows for part in scope_parts(row)):
        return replace(start, status="UNPROVEN", reason="the engine does not say what it packed of each part of the lossless scope")
    return decided(start, 0.0)


def _encoded(row: Row, part: str) -> float | None:
    """Raw bytes or MiB that were packed of a part: from the column, else from the statistics lines; None where neither says."""
    if row.shows(PART_COLUMNS[part]):
        return row.mean(PART_COLUMNS[part])
    if row.log is None or not row.log.groups:
        return None
    front = [size for layer, size in row.log.encoded_bytes.items() if layer < front_layers(row)]
    return float(sum(front)) if part == "front" else float(sum(row.log.encoded_bytes.values()) - sum(front))


def _idle_part(row: Row) -> str | None:
    idle = [part for part in scope_parts(row) if _encoded(row, part) == 0]
    if not idle:
        return None
    return f"the {idle[0]} part of the lossless scope packed nothing at {row.place}: its ratio, time and exactness are of nothing"


def check_kv_exact(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Decoded blocks and, over two turns, kept rows that are not bit for bit what went in; the worst row, plus the worst two turns."""
    start = blank("kv_exact_pass", limits.max_mismatches, "blocks", "<=", "worst row, two turns", f"{MISMATCHES} + {TURNS}")
    if limits.max_mismatches is None:
        return start
    if (gap := lacking(start, evidence, MISMATCHES)) is not None:
        return gap
    blocks = max(evidence.rows, key=lambda row: row.mean(MISMATCHES) or 0.0)
    turned, silent = once_a_run(evidence.rows, TURNS)
    turns = max(turned, key=lambda row: row.mean(TURNS) or 0.0, default=None)
    value = (blocks.mean(MISMATCHES) or 0.0) + ((turns.mean(TURNS) or 0.0) if turns is not None else 0.0)
    result = decided(start, value, (blocks,) if blocks.mean(MISMATCHES) or turns is None else (turns,))
    if result.status == "FAIL" or not silent:
        return result
    if not any(row.prints(TURNS) for row in evidence.rows):
        return replace(start, status="UNPROVEN", value=value, reason=f"one turn is exact, but the engine prints no {TURNS}")
    return replace(start, status="NOT_MEASURED", value=value, reason=f"no second turn was compared in {silent[0].place}")


def check_repeats(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Repeats of a process and processes of a run must give the same ratios: what differs leaked from one repeat into the next.

    The value is the largest spread relative to its mean, over the columns and runs.
    """
    start = blank("repeats_pass", limits.max_repeat_spread, "share", "<=", "widest run", ", ".join(REPEATED))
    if limits.max_repeat_spread is None:
        return start
    if (gone := missing(evidence.rows, "h2o_lossy", evidence.failures)) is not None:
        return replace(start, reason=gone)
    runs: dict[tuple[str, int | None, int | None], list[Row]] = defaultdict(list)
    for row in evidence.rows:
        runs[row.run_id, row.bench.prompt_tokens, row.bench.gen_tokens].append(row)
    alone = [rows[0] for rows in runs.values() if len(rows) == 1 and (rows[0].repeats or 1) < 2]
    if alone:
        return replace(start, status="UNPROVEN", reason=f"nothing was repeated in {alone[0].place}: one repeat of one process")
    spreads = [(_spread(rows, column), column, rows[0]) for rows in runs.values() for column in REPEATED]
    value, column, row = max(spreads, key=lambda found: found[0])
    reason = f"{column} differs between repeats: state leaks from one into the next" if value > 0 else None
    return decided(start, value, (row,), reason)


def _spread(rows: list[Row], column: str) -> float:
    means = [mean for row in rows if (mean := row.mean(column)) is not None]
    deviations = [deviation for row in rows if (deviation := row.sd(column)) is not None]
    largest = max([max(means, default=0.0) - min(means, default=0.0), *deviations])
    return largest / max(means) if means and max(means) > 0 else largest


def check_tokens(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Tokens decoded less (or more) than the -n that speeds are divided by, worst row."""
    start = blank("tokens_pass", limits.max_missing_tokens, "tokens", "<=", "worst row", f"{DECODED} against -n")
    if limits.max_missing_tokens is None:
        return start
    rows = (*evidence.rows, *(row for row in evidence.baseline_rows if row.shows(DECODED)))
    if (gap := lacking(start, evidence, DECODED)) is not None:
        return gap
    off = [(max(abs((row.bench.gen_tokens or 0) - (row.mean(DECODED) or 0.0)), row.sd(DECODED) or 0.0), row) for row in rows]
    value, row = max(off, key=lambda pair: pair[0])
    told = f"{row.mean(DECODED):g} of {row.bench.gen_tokens} tokens were decoded: the speeds are wrong" if value else None
    return decided(start, value, (row,), told)


def check_prompt(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Rows with a constant-token prompt: their equal V rows are no evidence of lossless compression."""
    start = blank("prompt_pass", limits.max_constant_prompts, "rows", "<=", "all rows", PROMPT_KIND)
    if limits.max_constant_prompts is None:
        return start
    if (gap := lacking(start, evidence, PROMPT_KIND)) is not None:
        return gap
    odd = tuple(row for row in evidence.rows if row.bench.text[PROMPT_KIND] != "text")
    words = sorted({row.bench.text[PROMPT_KIND] for row in odd})
    return decided(start, float(len(odd)), odd[:2], f"prompts of kind {', '.join(words)} prove nothing about lossless" if odd else None)


def check_async_wait(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Time that a run waits for the encode workers."""
    return _budget("async_wait_pass", ASYNC_WAIT, limits.max_async_wait_us, "us", evidence)


def check_backpressure(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Groups that a full queue refused."""
    return _budget("backpressure_pass", BACKPRESSURE, limits.max_backpressure, "blocks", evidence)


def _budget(name: GateName, column: str, limit: float | None, unit: str, evidence: CaseEvidence) -> GateResult:
    start = blank(name, limit, unit, "<=", "worst row", column)
    if limit is None:
        return start
    return lacking(start, evidence, column) or worst_row(start, evidence.rows, column)


def check_decode_cache(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Store mode decodes what it reads: a decode cache without a miss never decoded anything, one without a hit serves nothing."""
    start = blank("decode_cache_pass", limits.min_decode_cache_reads, "reads", ">=", "worst row", f"{CACHE_MISS}, {CACHE_HIT}")
    if limits.min_decode_cache_reads is None:
        return start
    if (gap := lacking(start, evidence, CACHE_HIT, CACHE_MISS)) is not None:
        return gap
    if any(row.kv is None for row in evidence.rows):
        return replace(start, status="UNPROVEN", reason="not known whether there was a decode cache")
    storing = tuple(row for row in evidence.rows if mode(row) == "store")
    if not storing:
        return not_applicable(start, "nothing is read back from a store outside store mode")
    missed = worst_row(start, storing, CACHE_MISS)
    if missed.status == "FAIL":
        return replace(missed, reason="no block was ever decoded: what attention reads is not the compressed copy")
    cached = tuple(row for row in storing if row.number("kv_lossless_decode_cache_blocks") > 0)
    hit = worst_row(start, cached, CACHE_HIT) if cached else missed
    return replace(hit, reason="the decode cache never served a block") if hit.status == "FAIL" else missed


def check_log(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Lines of the candidates' output that tell of broken KV, and statistics lines that contradict the configuration."""
    start = blank("log_pass", limits.max_log_errors, "lines", "<=", "all processes", "stdout and log")
    if limits.max_log_errors is None:
        return start
    if (gone := no_rows(evidence.rows, evidence.failures)) is not None:
        return replace(start, reason=gone)
    read = tuple(row for row in evidence.rows if row.log is not None)
    if len(read) < len(evidence.rows):
        return replace(start, status="UNPROVEN", reason="the output of the processes is not there")
    lines = [line for row in read if row.log is not None for line in (*row.log.broken, *log_violations(row))]
    count = sum(row.log.n_broken + len(log_violations(row)) for row in read if row.log is not None)
    bad = tuple(row for row in read if row.log is not None and (row.log.n_broken or log_violations(row)))
    return decided(start, float(count), bad[:1], "; ".join(dict.fromkeys(lines[:2])) or None)
