"""The command line of llm_bench, by the contract: which flags there are, and argv → frozen arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2o_gate_plugin.errors import ConfigError

DEFAULT_JSON_FILE = "llm_bench.json"


class ArgumentError(ConfigError):
    """An unknown flag, a missing value or a value of the wrong form."""

    def __init__(self, flag: str) -> None:
        super().__init__(f"error: invalid parameter for argument: {flag}")


@dataclass(frozen=True)
class Flag:
    """``names`` without duplicates for ``_`` and ``-``; ``parse`` raises ValueError; ``default`` as typed."""

    names: tuple[str, ...]
    parse: Callable[[str], Any]
    default: str
    text: str


@dataclass(frozen=True)
class Arguments:
    """Each list in sweep order. ``file_print`` None = stdout; ``json_file`` None = no JSON."""

    models: tuple[Path, ...]
    backends: tuple[str, ...]
    precisions: tuple[int, ...]
    memories: tuple[int, ...]
    powers: tuple[int, ...]
    threads: tuple[int, ...]
    dynamic_options: tuple[int, ...]
    division_ratios: tuple[int, ...]
    quant_attentions: tuple[int, ...]
    sme_core_nums: tuple[int, ...]
    mmaps: tuple[bool, ...]
    prompts: tuple[int, ...]
    gens: tuple[int, ...]
    prompt_gens: tuple[tuple[int, int], ...]
    repeat: int
    kv_cache: bool
    loading_time: bool
    file_print: Path | None
    json_file: Path | None


def _word(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(text)
        return text

    return parse


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit()):
            raise ValueError(text)
        value = int(text)
        if value < low or (high is not None and value > high):
            raise ValueError(text)
        return value

    return parse


def _flag(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text]


def _path(text: str) -> Path:
    if not text:
        raise ValueError(text)
    return Path(text)


FLAGS: Mapping[str, Flag] = {
    "models": Flag(("-m", "--model"), _path, "./Qwen2.5-1.5B-Instruct", "bench config.json, comma separated"),
    "backends": Flag(("-a", "--backends"), _word("cpu", "opencl", "metal"), "cpu", "backends; this engine has cpu"),
    "precisions": Flag(("-c", "--precision"), _integer(0, 2), "2", "0 normal, 1 high, 2 low; this engine computes in float32"),
    "threads": Flag(("-t", "--threads"), _integer(1), "4", "BLAS threads, run in descending order"),
    "prompts": Flag(("-p", "--n-prompt"), _integer(0), "512", "prompt tokens"),
    "gens": Flag(("-n", "--n-gen"), _integer(0), "128", "tokens to decode"),
    "mmaps": Flag(("-mmp", "--mmap"), _flag, "0", "accepted; no effect on this engine"),
    "repeats": Flag(("-rep", "--n-repeat"), _integer(1), "5", "timed runs, after one warm-up run"),
    "kv_cache": Flag(("-kv", "--kv-cache"), _flag, "false", "true: prompt and decode in one run, with the KV columns"),
    "loading_time": Flag(("-load", "--loading-time"), _flag, "false", "true: adds the loadingTime(s) column"),
    "dynamic_options": Flag(("-dyo",), _integer(0), "0", "accepted; no effect on this engine"),
    "division_ratios": Flag(("-mr",), _integer(0), "41", "accepted; no effect on this engine"),
    "sme_core_nums": Flag(("-scn",), _integer(0), "2", "accepted; no effect on this engine"),
    "quant_attentions": Flag(("-qatten", "--quant-attention"), _integer(0), "0", "this engine has none: only 0 runs"),
    "memories": Flag(("--memory",), _integer(0, 2), "2", "accepted; no effect on this engine"),
    "powers": Flag(("--power",), _integer(0, 2), "0", "accepted; no effect on this engine"),
}
"""The flags that take a comma list; -pg, -fp, -j and -h are read apart."""

_BY_NAME = {name: dest for dest, flag in FLAGS.items() for name in flag.names}


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Raises ArgumentError (exit 255 by the contract); -h is the caller's."""
    lists: dict[str, list[Any]] = {dest: [] for dest in FLAGS}
    prompt_gens: list[tuple[int, int]] = []
    files: dict[str, Path] = {}
    rest = list(argv)
    while rest:
        flag = rest.pop(0)
        name = flag.replace("_", "-") if flag.startswith("--") else flag
        if name in ("-j", "--json"):
            files["json"] = Path(rest.pop(0) if rest and not rest[0].startswith("-") else DEFAULT_JSON_FILE)
            continue
        if not rest or (name not in _BY_NAME and name not in ("-pg", "-fp", "--file-print")):
            raise ArgumentError(flag)
        value = rest.pop(0)
        try:
            if name == "-pg":
                n_prompt, n_gen = (_integer(0)(part) for part in value.split(","))
                prompt_gens.append((n_prompt, n_gen))
            elif name in ("-fp", "--file-print"):
                files["table"] = _path(value)
            else:
                dest = _BY_NAME[name]
                lists[dest] += [FLAGS[dest].parse(item) for item in value.split(",")]
        except (ValueError, KeyError) as err:
            raise ArgumentError(flag) from err
    return _arguments(lists, tuple(prompt_gens), files)


def _arguments(lists: Mapping[str, list[Any]], prompt_gens: tuple[tuple[int, int], ...], files: Mapping[str, Path]) -> Arguments:
    chosen = {dest: tuple(values or [FLAGS[dest].parse(FLAGS[dest].default)]) for dest, values in lists.items()}
    repeat, kv_cache, loading_time = (chosen.pop(dest)[0] for dest in ("repeats", "kv_cache", "loading_time"))
    chosen["threads"] = tuple(sorted(chosen["threads"], reverse=True))
    return Arguments(
        **chosen,
        prompt_gens=prompt_gens,
        repeat=repeat,
        kv_cache=kv_cache,
        loading_time=loading_time,
        file_print=files.get("table"),
        json_file=files.get("json"),
    )


def usage() -> str:
    lines = ["usage: llm_bench [options]", "", "options:", "  -h, --help"]
    for flag in FLAGS.values():
        lines.append(f"  {', '.join(flag.names):<28}{flag.text} (default: {flag.default})")
    lines.append(f"  {'-pg PROMPT,GEN':<28}prompt and decode together, with -kv false; repeatable")
    lines.append(f"  {'-fp, --file-print FILE':<28}append the table to FILE (default: stdout)")
    lines.append(f"  {'-j, --json [FILE]':<28}write the results as JSON (default file: {DEFAULT_JSON_FILE})")
    lines.append("")
    lines.append("Lists are comma separated and a repeated flag appends; --long_name and --long-name are the same.")
    return "\n".join(lines)
