"""What a run reads: a prompt file or held-out text with its true continuation, the same with planted pairs, or constant tokens.

Real text through the model's tokenizer; constant tokens are flagged in the row. Which held-out text a prompt holds depends on its length
and its number alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.outside_file import read_text
from h2o_gate_plugin.runtime.planted import PlantedPrompt, planted_prompt
from h2o_gate_plugin.runtime.tokenizer import Tokenizer

PromptKind = Literal["text", "constant"]

HELD_OUT_TEXT = Path(__file__).parents[1] / "models" / "reference" / "heldout.txt"
PROMPT_VARIABLE = "H2O_BENCH_PROMPT"
PROMPT_FILE_VARIABLE = "H2O_BENCH_PROMPT_FILE"
CONSTANT_TOKEN = 16
"""The C++ llm_bench's prompt is copies of this id."""

OFFSET_STRIDE, PROMPT_STRIDE = 9973, 17011
"""Primes; spread the prompts of different lengths, and those of one length, over the held-out text."""


@dataclass(frozen=True)
class Prompt:
    """``continuation`` is what the text really says next."""

    kind: PromptKind
    ids: tuple[int, ...]
    continuation: tuple[int, ...]


def prompt_kind(environment: Mapping[str, str] = os.environ) -> PromptKind:
    """The kind named by H2O_BENCH_PROMPT, ``text`` when unset. Raises ConfigError for another word."""
    kind = environment.get(PROMPT_VARIABLE, "text")
    if kind not in get_args(PromptKind):
        raise ConfigError(f"environment: {PROMPT_VARIABLE}: expected text or constant, got {kind!r}")
    return cast(PromptKind, kind)


def prompt_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file named by H2O_BENCH_PROMPT_FILE, None when unset. Raises ConfigError beside H2O_BENCH_PROMPT=constant."""
    name = environment.get(PROMPT_FILE_VARIABLE)
    if not name:
        return None
    if prompt_kind(environment) == "constant":
        raise ConfigError(f"environment: {PROMPT_VARIABLE}: expected text beside {PROMPT_FILE_VARIABLE}={name}, got 'constant'; unset one")
    return Path(name)


class PromptSource:
    """Cuts prompts from the held-out text, or from the start of a prompt file; the same lengths always give the same tokens."""

    def __init__(self, tokenizer: Tokenizer, kind: PromptKind, text_path: Path = HELD_OUT_TEXT, file: Path | None = None) -> None:
        """Raises ConfigError when the text or the prompt file cannot be read."""
        self.kind = kind
        self._tokenizer = tokenizer
        self._path, self._file = text_path, file
        text = _read(text_path, "held-out text", "build it again")
        self._lines = tuple(text.splitlines())
        self._ids = tokenizer.encode(text).ids if kind == "text" else ()
        self._file_ids = () if file is None else tokenizer.encode(_read(file, "prompt file", f"check {PROMPT_FILE_VARIABLE}")).ids

    def measured_prompt(self, n_prompt: int, n_continuation: int) -> Prompt:
        """What a row's speed is measured on: the prompt file's first tokens where there is one, else held-out text.

        A prompt file's continuation may be shorter than asked for, or empty: it is what the file still says. Raises ConfigError when the
        file, or the held-out text, has too few tokens.
        """
        if self._file is None:
            return self.prompt(n_prompt, n_continuation)
        if len(self._file_ids) < n_prompt:
            raise ConfigError(
                f"{self._file}: prompt file: expected at least {n_prompt} tokens (-p), got {len(self._file_ids)}; ask for fewer"
            )
        ids, continuation = self._file_ids[:n_prompt], self._file_ids[n_prompt : n_prompt + n_continuation]
        return Prompt("constant" if len(ids) > 1 and len(set(ids)) == 1 else "text", ids, continuation)

    def plain_prompts(self, n_prompt: int, n_continuation: int, most: int) -> tuple[Prompt, ...]:
        """Prompts whose continuation can be scored: the prompt file alone where there is one, else ``most`` of the held-out text.

        None of constant tokens; a prompt file without a second token after the prompt gives none.
        """
        if self._file is None:
            prompts = tuple(self.prompt(n_prompt, n_continuation, number) for number in range(most))
        else:
            prompts = (self.measured_prompt(n_prompt, n_continuation),)
        return tuple(prompt for prompt in prompts if prompt.kind == "text" and len(prompt.continuation) > 1)

    def prompt(self, n_prompt: int, n_continuation: int, number: int = 0) -> Prompt:
        """``n_prompt`` tokens of held-out text and the next ``n_continuation``, at an offset that depends on ``n_prompt`` and ``number``.

        Raises ConfigError when the text is too short.
        """
        if self.kind == "constant":
            return Prompt("constant", (CONSTANT_TOKEN,) * n_prompt, (CONSTANT_TOKEN,) * n_continuation)
        wanted, span = n_prompt + n_continuation, len(self._ids) // 2
        if wanted > span:
            raise ConfigError(f"{self._path}: held-out text: expected at most {span} tokens to be asked for, got {wanted}")
        start = (n_prompt * OFFSET_STRIDE + number * PROMPT_STRIDE) % span
        return Prompt("text", self._ids[start : start + n_prompt], self._ids[start + n_prompt : start + wanted])

    def planted_prompt(self, n_prompt: int, number: int = 0) -> PlantedPrompt | None:
        """Held-out text with planted pairs, as `planted.planted_prompt`; None too when the prompt is constant tokens."""
        if self.kind == "constant":
            return None
        return planted_prompt(self._tokenizer, self._lines, n_prompt, seed=f"{n_prompt}/{number}")


def _read(path: Path, thing: str, advice: str) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as err:
        reason = (err.strerror or str(err)) if isinstance(err, OSError) else err.reason
        raise ConfigError(f"{path}: {thing}: expected a readable UTF-8 file, got {reason}; {advice}") from err
