"""What a configuration says about layers and the lossless scope, and rows that contradict it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from h2o_gate_plugin.gates.evidence import Row
from h2o_gate_plugin.gates.log_scan import LogFacts
from h2o_gate_plugin.gates.scope import (
    claims_full_coverage,
    h2o_due,
    kept_tokens,
    layer_violations,
    log_violations,
    mode,
    never_switched_on,
    scope_parts,
)
from h2o_gate_plugin.kv_options import KvValue

from .rows import a_row

Kv = dict[str, KvValue]
STORE: Kv = {"kv_lossless_runtime_mode": "store", "kv_lossless_front_sample_token_interval": 1}


def of_lengths(row: Row, prompt: int | None, gen: int | None) -> Row:
    """As of a ``-kv false`` row, which has one length."""
    return replace(row, bench=replace(row.bench, prompt_tokens=prompt, gen_tokens=gen))


def logged(kv: Kv, planned: tuple[int, ...] = (), groups: tuple[tuple[int, int, int], ...] = ()) -> tuple[str, ...]:
    return log_violations(a_row(kv=kv, log=LogFacts((), 0, frozenset(planned), groups, {})))


@pytest.mark.parametrize(
    ("kv", "expected"),
    [
        ({}, "full"),
        ({"kv_lossless_runtime_mode": "probe"}, "probe"),
        ({"kv_lossless_enable": False}, ""),
        ({"kv_lossless_runtime_enable": False}, ""),
        ({"kv_lossless_codec": "none"}, ""),
        ({"kv_lossless_scope": "none"}, ""),
    ],
)
def test_the_lossless_store_has_a_mode_only_where_all_of_its_switches_are_on(kv: Kv, expected: str) -> None:
    assert mode(a_row(kv=kv)) == expected


@pytest.mark.parametrize(
    ("kv", "expected"),
    [
        ({}, ("front", "kept")),
        ({"kv_lossless_enable": False}, ()),
        ({"kv_lossless_scope": "h2o_kept"}, ("kept",)),
        ({"kv_lossless_scope": "front_n"}, ("front",)),
        ({"kv_lossless_front_n": 0}, ("kept",)),
        ({"kv_lossless_front_n": 1}, ("front", "kept")),
        ({"kv_h2o_layer_start": 0}, ("kept",)),
        ({"kv_h2o_layer_start": 0, "kv_h2o_enable": False}, ("front",)),
        (STORE | {"kv_lossless_store_disable_front": False}, ("front", "kept")),
        (STORE | {"kv_lossless_store_disable_front": True}, ("kept",)),
        ({"kv_lossless_store_disable_front": True}, ("front", "kept")),
    ],
)
def test_the_parts_of_the_lossless_scope_are_those_with_layers_that_are_not_switched_off(kv: Kv, expected: tuple[str, ...]) -> None:
    assert scope_parts(a_row(kv=kv)) == expected


def test_a_store_without_its_front_claims_full_coverage_only_where_the_front_is_out_of_scope() -> None:
    without_front: Kv = STORE | {"kv_lossless_store_disable_front": True}
    assert not claims_full_coverage(a_row(kv=without_front))
    assert claims_full_coverage(a_row(kv=without_front | {"kv_lossless_scope": "h2o_kept"}))


def test_h2o_is_due_from_its_trigger_on_prompt_and_answer_together() -> None:
    lengths = ((256, 128, True), (255, 128, False), (384, None, True), (383, None, False), (None, 384, True), (None, 383, False))
    for prompt, gen, due in lengths:
        assert h2o_due(of_lengths(a_row(), prompt, gen)) is due
    assert h2o_due(a_row(kv={"kv_h2o_enable": False})) is False
    assert h2o_due(a_row(kv=None)) is None


@pytest.mark.parametrize(
    ("kv", "kept", "layers"),
    [
        ({}, "640,640,205,205", ()),
        ({}, "639,639,205,205", ()),
        ({}, "638,640,205,205", (0,)),
        ({}, "640,640,112,112", ()),
        ({}, "640,640,111,112", (2,)),
        ({"kv_h2o_enable": False}, "640,640,640,640", ()),
        ({"kv_h2o_enable": False}, "205,640,640,205", (0, 3)),
        ({"kv_h2o_layer_end": 2}, "640,640,205,640", ()),
        ({"kv_h2o_layer_end": 2}, "640,640,205,205", (3,)),
        ({"kv_h2o_layer_end": 99}, "640,640,205,205", ()),
        ({"kv_h2o_layer_start": 0, "kv_h2o_layer_end": 0}, "205,640,640,640", ()),
        ({"kv_h2o_layer_start": 0, "kv_h2o_layer_end": 0}, "205,205,640,640", (1,)),
    ],
)
def test_layers_outside_the_range_hold_every_token_but_the_last_and_those_inside_their_ends(
    kv: Kv, kept: str, layers: tuple[int, ...]
) -> None:
    found = layer_violations(a_row(kv=kv, kept_tokens=kept))
    assert tuple(int(line.split()[1]) for line in found) == layers


def test_a_run_shorter_than_the_protected_ends_holds_all_but_its_last_token() -> None:
    assert layer_violations(a_row(prompt=60, gen=40, kept_tokens="100,100,99,99")) == ()
    (told,) = layer_violations(a_row(prompt=60, gen=40, kept_tokens="100,100,98,99"))
    assert told == "layer 2 holds 98 tokens, fewer than the protected 112"


def test_a_row_of_one_length_is_held_to_that_length() -> None:
    for prompt, gen in ((640, None), (None, 640)):
        row = of_lengths(a_row(kept_tokens="640,641,205,205"), prompt, gen)
        assert layer_violations(row) == ("layer 1 holds 641 tokens, expected all 640",)


def test_what_a_layer_may_hold_follows_the_ratio_that_the_row_claims() -> None:
    assert layer_violations(a_row(h2o_lossy=1.5, kept_tokens="640,640,443,443")) == ()
    (told,) = layer_violations(a_row(h2o_lossy=1.5, kept_tokens="640,640,444,443"))
    assert told == "layer 2 holds 444 tokens, h2o_lossy 1.500 of 640 allows 427"


def test_a_row_that_does_not_tell_in_whole_numbers_is_no_evidence_of_layers() -> None:
    assert kept_tokens(a_row(kept_tokens="640, 205")) == (640, 205)
    for cell in (None, "n/a", "640,2.5", "640,"):
        assert kept_tokens(a_row(kept_tokens=cell)) is None
        assert layer_violations(a_row(kept_tokens=cell)) == ()


@pytest.mark.parametrize(
    ("kv", "planned", "layers"),
    [
        ({}, (2, 3, 30), ()),
        ({}, (1, 2), (1,)),
        ({"kv_h2o_layer_end": 2}, (2, 3), (3,)),
        ({"kv_h2o_layer_start": 0, "kv_h2o_layer_end": 0}, (0, 1), (1,)),
        ({"kv_h2o_enable": False}, (2,), (2,)),
    ],
)
def test_a_plan_outside_the_range_or_with_h2o_off_contradicts_the_configuration(
    kv: Kv, planned: tuple[int, ...], layers: tuple[int, ...]
) -> None:
    found = logged(kv, planned)
    assert tuple(int(line.split("layer=")[1].split()[0]) for line in found) == layers


def test_later_groups_have_the_size_of_their_mode_at_least_once() -> None:
    sizes: Kv = {"kv_lossless_block_tokens": 128, "kv_lossless_store_grouped_step_tokens": 256, "kv_lossless_store_bootstrap_tokens": 32}
    first = (2, 1, 32)
    for kv, key, right, wrong in (
        (sizes, "kv_lossless_block_tokens", 128, 256),
        (sizes | STORE, "kv_lossless_store_grouped_step_tokens", 256, 128),
    ):
        assert logged(kv, (), (first, (2, 2, right), (2, 3, 64))) == ()
        assert logged(kv, (), (first,)) == ()
        told = logged(kv, (), (first, (2, 2, wrong), (2, 3, 64)))
        assert told == (f"no later group of {right} tokens ({key}), only of 64, {wrong}",)


def test_where_the_configuration_is_not_known_or_packs_nothing_groups_contradict_nothing() -> None:
    facts = LogFacts((), 0, frozenset({0}), ((0, 1, 7),), {})
    assert log_violations(a_row(kv=None, log=facts)) == ()
    assert log_violations(a_row(kv={"kv_lossless_enable": False, "kv_h2o_layer_start": 0}, log=facts)) == ()


def test_a_row_with_h2o_off_on_purpose_does_not_hide_one_that_never_switched_on() -> None:
    off, idle = a_row(kv={"kv_h2o_enable": False}, h2o_lossy="n/a"), a_row(prompt=128, gen=64)
    assert never_switched_on((a_row(), off)) is None
    assert never_switched_on((off, idle)) == (
        "H2O never switched on: prompt 128 gen 64 (run.log:3) stays below kv_h2o_trigger_min_tokens 384"
    )
