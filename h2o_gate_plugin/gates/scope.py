"""What a configuration says about layers, and where a row contradicts it."""

from __future__ import annotations

from collections.abc import Iterable

from h2o_gate_plugin.gates.evidence import Row

KEPT = "kept_tokens"
LOSSY, EVICT_US = "h2o_lossy", "h2o_evict_us"
PART_COLUMNS = {"front": "lossless_front_mb", "kept": "lossless_kept_mb"}


def mode(row: Row) -> str | None:
    """probe, full or store where the lossless store is on; "" where it is off; None where the config is not known."""
    if row.kv is None:
        return None
    on = row.kv["kv_lossless_enable"] and row.kv["kv_lossless_runtime_enable"] and row.kv["kv_lossless_codec"] != "none"
    return str(row.kv["kv_lossless_runtime_mode"]) if on and row.kv["kv_lossless_scope"] != "none" else ""


def front_layers(row: Row) -> int:
    """How many layers, from the first on, are the front of the lossless scope: those of the front that H2O does not evict from."""
    front_n = int(row.number("kv_lossless_front_n"))
    return min(front_n, int(row.number("kv_h2o_layer_start"))) if row.kv is not None and row.kv["kv_h2o_enable"] else front_n


def scope_parts(row: Row) -> tuple[str, ...]:
    """The parts of the lossless scope that this row's configuration asks for; empty where it is off or not known."""
    if row.kv is None or not mode(row):
        return ()
    scope = str(row.kv["kv_lossless_scope"])
    disabled = mode(row) == "store" and bool(row.kv["kv_lossless_store_disable_front"])
    front = scope != "h2o_kept" and front_layers(row) > 0 and not disabled
    kept = scope != "front_n" and bool(row.kv["kv_h2o_enable"])
    return tuple(part for part, wanted in (("front", front), ("kept", kept)) if wanted)


def claims_full_coverage(row: Row) -> bool:
    """Full or store mode that samples nothing: every layer in scope, every decode token, the front included."""
    if row.kv is None or mode(row) not in ("full", "store"):
        return False
    intervals = (row.number("kv_lossless_kept_sample_token_interval"), row.number("kv_lossless_front_sample_token_interval"))
    parts = scope_parts(row)
    return (
        ("kept" not in parts or (row.number("kv_lossless_kept_sample_layers") == 0 and intervals[0] <= 1))
        and ("front" not in parts or intervals[1] <= 1)
        and not (mode(row) == "store" and row.kv["kv_lossless_store_disable_front"] and row.kv["kv_lossless_scope"] != "h2o_kept")
    )


def h2o_due(row: Row) -> bool | None:
    """Whether the tokens of this row reach H2O's trigger; None where the config is not known."""
    if row.kv is None:
        return None
    seen = (row.bench.prompt_tokens or 0) + (row.bench.gen_tokens or 0)
    return bool(row.kv["kv_h2o_enable"]) and seen >= row.number("kv_h2o_trigger_min_tokens")


def never_switched_on(rows: Iterable[Row]) -> str | None:
    """Why there is nothing to judge in rows that were to evict and did not; None where each did, or where H2O is off on purpose.

    By the configuration (fewer tokens than the trigger), or by the table: n/a, or a ratio of 1 that took no time at all.
    """
    for row in rows:
        if row.kv is not None and not row.kv["kv_h2o_enable"]:
            continue
        if h2o_due(row) is False:
            return f"H2O never switched on: {row.place} stays below kv_h2o_trigger_min_tokens {row.number('kv_h2o_trigger_min_tokens'):g}"
        unplanned = row.prints(LOSSY) and not row.shows(LOSSY)
        if unplanned or (row.mean(LOSSY) == 1.0 and row.mean(EVICT_US) == 0.0):
            return f"H2O never switched on: nothing was evicted at {row.place}"
    return None


def kept_tokens(row: Row) -> tuple[int, ...] | None:
    """Of each layer, at the end of the run; None where the row does not say, or not in whole numbers."""
    cells = row.bench.text.get(KEPT, "").split(",")
    return tuple(int(cell) for cell in cells) if all(cell.strip().isdecimal() for cell in cells) else None


def layer_violations(row: Row) -> tuple[str, ...]:
    """Layers that hold what their configuration and h2o_lossy do not allow, one line each; for rows with kept_tokens and a known config.

    A layer outside the H2O range keeps every token. One inside keeps at least the protected ends, and where H2O is due no more than
    h2o_lossy says and what came after the last plan.
    """
    kept = kept_tokens(row)
    if kept is None or row.kv is None:
        return ()
    seen = (row.bench.prompt_tokens or 0) + (row.bench.gen_tokens or 0)
    lossy, due = row.mean(LOSSY), bool(h2o_due(row))
    start, end = int(row.number("kv_h2o_layer_start")), int(row.number("kv_h2o_layer_end"))
    in_range = range(start, len(kept) if end < 0 else min(end + 1, len(kept))) if row.kv["kv_h2o_enable"] else range(0)
    ends = int(row.number("kv_h2o_sink_tokens") + row.number("kv_h2o_recent_tokens"))
    since_plan = int(row.number("kv_h2o_update_interval"))
    found = []
    for layer, tokens in enumerate(kept):
        if tokens > seen or (layer not in in_range and tokens < seen - 1):
            found.append(f"layer {layer} holds {tokens} tokens, expected all {seen}")
        elif layer in in_range and tokens < min(seen - 1, ends):
            found.append(f"layer {layer} holds {tokens} tokens, fewer than the protected {ends}")
        elif layer in in_range and due and lossy is not None and tokens > seen / max(lossy, 1.0) + since_plan + 1:
            found.append(f"layer {layer} holds {tokens} tokens, h2o_lossy {lossy:.3f} of {seen} allows {seen / max(lossy, 1.0):.0f}")
    return tuple(found)


def log_violations(row: Row) -> tuple[str, ...]:
    """What the statistics lines say against the configuration: plans outside the H2O range, groups of the wrong size."""
    if row.kv is None or row.log is None:
        return ()
    start, end = int(row.number("kv_h2o_layer_start")), int(row.number("kv_h2o_layer_end"))
    found = [
        f"[H2O] layer={layer} evicts, but kv_h2o_layer_start..end is {start}..{end}"
        for layer in sorted(row.log.planned)
        if layer < start or (end >= 0 and layer > end) or not row.kv["kv_h2o_enable"]
    ]
    return (*found, *_wrong_groups(row))


def _wrong_groups(row: Row) -> Iterable[str]:
    """The first group of a layer has store_bootstrap_tokens; of the later ones at least one has the mode's group size."""
    log, runtime_mode = row.log, mode(row)
    if log is None or not runtime_mode:
        return
    bootstrap = int(row.number("kv_lossless_store_bootstrap_tokens"))
    key = "kv_lossless_store_grouped_step_tokens" if runtime_mode == "store" else "kv_lossless_block_tokens"
    size = int(row.number(key))
    first = {(layer, tokens) for layer, updates, tokens in log.groups if updates == 1 and tokens != bootstrap}
    yield from (f"layer {layer}: first group of {tokens} tokens, expected {bootstrap}" for layer, tokens in sorted(first))
    later = {tokens for _, updates, tokens in log.groups if updates >= 2}
    if later and size not in later:
        yield f"no later group of {size} tokens ({key}), only of {', '.join(map(str, sorted(later)))}"
