"""The embedded engine at a context of 8,192 tokens: what it holds, what it counts, and that its memory grows with the tokens alone.

    python tools/long_context.py                                  # prompts of 1,900, 3,900 and 7,900 tokens, three modes: some minutes
    python tools/long_context.py --prompts 7900 --quality on      # with the whole untimed quality pass: minutes

RoPE's angles are made for as many positions as config.json's max_position_embeddings says, and nothing else limits the context: this
is the reference model with that number raised. Its text is meaningless there; what KV costs is not.

Each mode is a process of `llm_bench` with the suite's values, read from its own table. What does not hold is printed, and then the exit
code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from peak_memory import run_measured

from h2o_gate_plugin.bench.table import BenchRow, parse_log
from h2o_gate_plugin.kv_options import KvValue, suite_values

REFERENCE = Path(__file__).parents[1] / "h2o_gate_plugin" / "models" / "reference"
CONTEXT_TOKENS, N_GEN = 8192, 128
FRONT_LAYERS, UPDATE_INTERVAL, TOKEN_BYTES, MIB = 2, 16, 512, 2**20
"""Layers that nothing is evicted from; decoded tokens between plans; K and V of a token in one layer: 2 heads of 64 words each."""
MODES: dict[str, dict[str, KvValue]] = {
    "off": {},
    "full": dict(suite_values({"kv_lossless_runtime_mode": "full"}, "long context")),
    "store": dict(suite_values({"kv_lossless_runtime_mode": "store"}, "long context")),
}
PROCESS_MIB = 240
"""The interpreter with numpy, numba, the kernels and the model's weights."""
KIB_PER_TOKEN, QUALITY_KIB_PER_TOKEN = 24, 32
"""What a token may take: K and V of all layers are 4, spare rows and an eviction's copies another 4, one layer's float32 image 1, the
probabilities of 256 queries 4 and their copies. The quality pass holds a cache for each policy, and a plain one in float32."""


@dataclass(frozen=True)
class Run:
    mode: str
    n_prompt: int
    row: BenchRow
    seconds: float
    peak_mib: float
    quality: bool = False

    @property
    def bound_mib(self) -> float:
        return PROCESS_MIB + (KIB_PER_TOKEN + QUALITY_KIB_PER_TOKEN * self.quality) * self.tokens / 1024

    @property
    def tokens(self) -> int:
        return self.n_prompt + N_GEN

    @property
    def kept(self) -> tuple[int, ...]:
        """Tokens of each layer."""
        return tuple(int(word) for word in self.row.text["kept_tokens"].split(","))

    def figure(self, column: str) -> float | None:
        measure = self.row.measures.get(column)
        return None if measure is None else measure.mean


def run(folder: Path, mode: str, n_prompt: int, quality: str) -> Run:
    """Raises ValueError with the process's last words where it fails."""
    log = folder / f"{mode}_{n_prompt}.log"
    argv = [sys.executable, "-m", "h2o_gate_plugin.runtime.llm_bench", "-m", str(folder / f"{mode}.json"), "-t", "1", "-kv", "true"]
    argv += ["-p", str(n_prompt), "-n", str(N_GEN), "-rep", "1", "-fp", str(log)]
    done = run_measured(argv, env={**os.environ, "H2O_BENCH_QUALITY": quality})
    if done.exit_code:
        raise ValueError(f"{argv}: expected exit 0, got {done.exit_code}: {done.output[-500:]}")
    (row,) = parse_log(log)
    return Run(mode, n_prompt, row, done.seconds, done.peak_mib, quality == "on")


def stretched(folder: Path) -> None:
    """The reference model with a longer context, and a bench config for each mode."""
    config = json.loads((REFERENCE / "config.json").read_text(encoding="utf-8")) | {"max_position_embeddings": CONTEXT_TOKENS}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).symlink_to(REFERENCE / name)
    bench = json.loads((REFERENCE / "bench_config.json").read_text(encoding="utf-8")) | {"base_dir": str(folder)}
    for mode, values in MODES.items():
        (folder / f"{mode}.json").write_text(json.dumps(bench | values), encoding="utf-8")


def broken(runs: Sequence[Run]) -> Iterator[str]:
    """What does not hold, a line each."""
    for each in runs:
        for name, holds, told in _claims(each):
            if not holds:
                yield f"{each.mode}, prompt {each.n_prompt}: {name}: {told}"
    for full, store in zip(_of(runs, "full"), _of(runs, "store"), strict=True):
        if full.kept != store.kept:
            yield f"prompt {full.n_prompt}: kept_tokens: full {full.kept}, store {store.kept}"
    for mode in MODES:
        peaks = [each.peak_mib for each in _of(runs, mode)]
        if len(peaks) == 3 and peaks[2] - peaks[1] > 3 * (peaks[1] - peaks[0]) + 16:  # twice the tokens: 2 is linear, 4 quadratic
            yield f"{mode}: peak memory: {', '.join(f'{peak:.0f}' for peak in peaks)} MiB grows faster than the tokens"


def _claims(each: Run) -> Iterator[tuple[str, bool, str]]:
    """(column, whether it holds, what was found)."""
    n_layer = len(each.kept)
    exact = {
        "kv_full_mb": each.tokens * n_layer,
        "kv_range_full_mb": each.tokens * (n_layer - FRONT_LAYERS),
    }
    if each.mode == "full":  # raw rows alone, spare ones given back at the end of the turn
        exact["kv_range_resident_mb"] = sum(each.kept[FRONT_LAYERS:])
    for name, rows in exact.items():
        yield name, each.row.text[name].startswith(f"{rows * TOKEN_BYTES / MIB:.4f}"), f"{each.row.text[name]} for {rows} rows"
    yield "peak memory", each.peak_mib <= each.bound_mib, f"{each.peak_mib:.0f} MiB, bound {each.bound_mib:.0f} MiB"
    yield "kept_tokens", each.kept[:FRONT_LAYERS] == (each.tokens,) * FRONT_LAYERS, str(each.kept)
    if each.mode == "off":
        yield "kept_tokens", set(each.kept) == {each.tokens}, str(each.kept)
        return
    planned = sum(each.kept[FRONT_LAYERS:]) / (n_layer - FRONT_LAYERS) - UPDATE_INTERVAL  # tokens that came since the last plan are kept
    lossy, coverage, lossless = (each.figure(name) or 0.0 for name in ("h2o_lossy", "lossless_coverage", "h2o_lossless"))
    yield "h2o_lossy", 3.0 <= lossy <= each.tokens / planned, f"{lossy:.3f} with {each.kept} of {each.tokens} tokens kept"
    yield "h2o_lossless", lossless > 1.0, f"{lossless:.3f}"
    yield "lossless_coverage", 0.0 < coverage <= 1.0, f"{coverage:.4f}"
    held, whole = each.figure("kv_range_resident_mb") or 0.0, sum(each.kept[FRONT_LAYERS:]) * TOKEN_BYTES / MIB
    yield "kv_range_resident_mb", 0.0 < held <= whole + 1e-4, f"{held:.4f} with {whole:.4f} kept"
    for name in ("h2o_lossless_fallback", "kv_mismatch_blocks", "h2o_lossless_backpressure_skip"):
        yield name, each.figure(name) == 0.0, str(each.row.text[name])
    if (rows := each.figure("turns_mismatch_rows")) is not None:
        yield "turns_mismatch_rows", rows == 0, f"{rows:g}"
    if (divergence := each.figure("kl_masked")) is not None:
        yield "kl_masked", divergence < 1e-4, f"{divergence:g} nats"


def _of(runs: Sequence[Run], mode: str) -> list[Run]:
    return [each for each in runs if each.mode == mode]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--prompts", default="1900,3900,7900", metavar="LIST", help="prompt tokens (%(default)s)")
    parser.add_argument("--quality", choices=("on", "off"), default="off", help="the untimed quality pass (%(default)s)")
    args = parser.parse_args()
    runs: list[Run] = []
    print("| mode | prompt | prefill, decode tok/s | lossy | lossless | coverage | KV full, held, peak MiB | seconds | process, peak |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        stretched(Path(name))
        for mode in MODES:
            for n_prompt in map(int, args.prompts.split(",")):
                runs.append(run(Path(name), mode, n_prompt, args.quality))
                print(_line(runs[-1]), flush=True)
    lines = tuple(broken(runs))
    print("\n".join(lines) if lines else f"\n{len(runs)} runs: every figure holds")
    return 1 if lines else 0


def _line(each: Run) -> str:
    text = each.row.text
    speeds = ", ".join(f"{speed.mean:.0f}" for speed in (each.row.prefill_tps, each.row.decode_tps) if speed is not None)
    ratios = (text[name].partition(" ")[0] for name in ("h2o_lossy", "h2o_lossless", "lossless_coverage"))
    held = ", ".join(text[name].partition(" ")[0] for name in ("kv_full_mb", "kv_resident_mb", "kv_peak_mb"))
    return f"| {each.mode} | {each.n_prompt:,} | {speeds} | {' | '.join(ratios)} | {held} | {each.seconds:.0f} | {each.peak_mib:.0f} MiB |"


if __name__ == "__main__":
    sys.exit(main())
