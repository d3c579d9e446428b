"""What is read from an engine's output: words of damage, statistics lines, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.gates.log_scan import BROKEN, CLEAN, LONGEST_LINE, MOST_LINES_KEPT, LogFacts, scan_log, tells_of_broken_kv

PLAN = (
    "[H2O] layer=2 kv=513 keep_ratio=0.3125 evict=353 lossy_ratio=3.200 evict_us=12 reserve_pairs=3 target=0.3 effective=0.3 floor=0.2 "
    "quantized=0.3 recent=96 sink=16 block=32"
)
GROUP = (
    "[H2O-LOSSLESS] layer=0 kv=513 start=16 tokens=128 raw=65536 attempt_comp=40000 eff_comp=40000 attempt_ratio=1.6 eff_ratio=1.6 "
    "comp_us=9 decomp_us=4 updates=1 fallback=0 backpressure=0 queue=0 mode=1 zstd=1"
)


def scanned(tmp_path: Path, text: str) -> LogFacts:
    path = tmp_path / "out.txt"
    path.write_text(text, encoding="utf-8")
    facts = scan_log(path)
    assert facts is not None
    return facts


@pytest.mark.parametrize(
    "line",
    [
        "kv store: layer 3: checksum error",
        "CRC check failed for block 7",
        "block 3 is corrupted",
        "[KV] mismatch in layer 2",
        "mismatches=4",
        "round-trip failed",
        "decompression of frame 2 failed",
        "logits: nan",
        "score = -nan at head 1",
        "attempt_ratio=inf",
        "non-finite value in V",
        "Assertion `len == n' failed.",
        "index out of bounds",
        "==1==ERROR: AddressSanitizer: heap-use-after-free",
        "kv.cpp:7: runtime error: signed integer overflow",
        "block zero-filled",
        "decoded block is not bit-equal",
        "plan for layer 9 dropped",
    ],
)
def test_a_line_that_tells_of_damage_is_found_with_its_place(tmp_path: Path, line: str) -> None:
    facts = scanned(tmp_path, f"loading\n{line}\ndone\n")
    assert facts.n_broken == 1
    assert facts.broken == (f"out.txt:2: {' '.join(line.split())}",)


@settings(max_examples=40)
@given(st.from_regex(BROKEN))
def test_no_line_is_passed_over_for_its_words(line: str) -> None:
    assert tells_of_broken_kv(line) == (CLEAN.search(line) is None)


@pytest.mark.parametrize(
    "line",
    [
        "mismatch=0",
        "no mismatches",
        "0 corrupt blocks",
        "all finite",
        "information",
        "infer 3 tokens",
        "banana",
        "checksums: ok",
        PLAN,
        GROUP,
        "| nan |",
    ],
)
def test_a_line_that_denies_it_or_only_sounds_like_it_is_left_alone(tmp_path: Path, line: str) -> None:
    assert scanned(tmp_path, f"{line}\n").n_broken == 0


def test_statistics_lines_are_read_by_the_contract(tmp_path: Path) -> None:
    refused = GROUP.replace("backpressure=0", "backpressure=1").replace("layer=0", "layer=5")
    failed = GROUP.replace("fallback=0", "fallback=1").replace("layer=0", "layer=2")
    idle = PLAN.replace("evict=353", "evict=0").replace("layer=2", "layer=4")
    facts = scanned(tmp_path, "\n".join((PLAN, idle, GROUP, GROUP, refused, failed)))
    assert facts.planned == {2}
    assert facts.groups == ((0, 1, 128), (2, 1, 128))
    assert facts.encoded_bytes == {0: 2 * 65536}


def test_many_lines_are_counted_and_few_are_kept(tmp_path: Path) -> None:
    facts = scanned(tmp_path, "checksum error\n" * 50)
    assert (facts.n_broken, len(facts.broken)) == (50, MOST_LINES_KEPT)


def test_a_line_without_end_is_cut_and_counts_as_one(tmp_path: Path) -> None:
    facts = scanned(tmp_path, "x" * (3 * LONGEST_LINE) + "\nchecksum error\n")
    assert facts.broken == ("out.txt:2: checksum error",)


def test_damage_below_a_table_is_found_and_a_long_line_is_told_in_200_characters(tmp_path: Path) -> None:
    facts = scanned(tmp_path, f"| llm_demo |\nchecksum error {'x' * 300}\n")
    assert facts.broken == (f"out.txt:2: checksum error {'x' * 185}",)


def test_a_plan_that_evicts_a_single_token_counts(tmp_path: Path) -> None:
    assert scanned(tmp_path, PLAN.replace("evict=353", "evict=1")).planned == {2}


def test_without_any_output_there_are_no_facts(tmp_path: Path) -> None:
    assert scan_log(tmp_path / "none.txt") is None


@given(junk=st.binary(max_size=400))
def test_any_bytes_are_read_without_an_error(junk: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("junk") / "out.txt"
    path.write_bytes(junk)
    facts = scan_log(path)
    assert facts is not None
    assert facts.n_broken <= junk.count(b"\n") + junk.count(b"\r") + 1
