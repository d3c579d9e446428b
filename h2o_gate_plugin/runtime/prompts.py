"""What a run reads: held-out text with its true continuation, the same with planted pairs, or constant tokens.

Real text through the model's tokenizer; a constant-token prompt only on request, flagged in the row. Which text a prompt holds depends on
its length and its number alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.planted import PlantedPrompt, planted_prompt
from h2o_gate_plugin.runtime.tokenizer import Tokenizer

PromptKind = Literal["text", "constant"]

HELD_OUT_TEXT = Path(__file__).parents[1] / "models" / "reference" / "heldout.txt"
PROMPT_VARIABLE = "H2O_BENCH_PROMPT"
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


class PromptSource:
    """Cuts prompts from the held-out text; the same lengths always give the same tokens."""

    def __init__(self, tokenizer: Tokenizer, kind: PromptKind, text_path: Path = HELD_OUT_TEXT) -> None:
        """Raises ConfigError when the text cannot be read."""
        self.kind = kind
        self._tokenizer = tokenizer
        self._path = text_path
        try:
            text = text_path.read_text(encoding="utf-8")
        except OSError as err:
            raise ConfigError(f"{text_path}: held-out text: expected a readable file, got {err.strerror}; build it again") from err
        self._lines = tuple(text.splitlines())
        self._ids = tokenizer.encode(text).ids if kind == "text" else ()

    def prompt(self, n_prompt: int, n_continuation: int, number: int = 0) -> Prompt:
        """``n_prompt`` tokens and the next ``n_continuation``, at an offset that depends on ``n_prompt`` and ``number``.

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
