"""What a run reads: held-out text with its true continuation, planted recall questions, or constant tokens.

Source: semantics.md-style rules of this project: real text through the model's tokenizer; a constant-token prompt only on request,
flagged in the row. Planted recall is the "heavy" bucket: pairs asked several times in the prompt and again after it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.tokenizer import Tokenizer

PromptKind = Literal["text", "constant"]

HELD_OUT_TEXT = Path(__file__).parents[1] / "models" / "reference" / "heldout.txt"
PROMPT_VARIABLE = "H2O_BENCH_PROMPT"
CONSTANT_TOKEN = 16
"""The C++ llm_bench's prompt is copies of this id."""

N_PAIRS = 4
ASKED_IN_PROMPT = 3
PAIRS_BEFORE = 0.4
ASKED_BEFORE = 0.8
"""Shares of the prompt: assignments stand in the first part, the questions between them and the second mark, so that the
newest tokens alone do not hold an answer."""
LARGEST_PLANTED_SHARE = 0.5
"""Of the prompt's tokens; where the planted lines would take more, nothing is planted."""
OFFSET_STRIDE = 9973
"""Prime; spreads the prompts of different lengths over the held-out text."""


@dataclass(frozen=True)
class Prompt:
    """``continuation`` is what the text really says next."""

    kind: PromptKind
    ids: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class PlantedPrompt:
    """``questions`` follow ``ids``; each of ``answers`` holds the places in ``questions`` of one answer's tokens."""

    ids: tuple[int, ...]
    questions: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


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

    def prompt(self, n_prompt: int, n_continuation: int) -> Prompt:
        """``n_prompt`` tokens at an offset that depends on ``n_prompt`` alone, and the next ``n_continuation`` tokens.

        Raises ConfigError when the text is too short.
        """
        if self.kind == "constant":
            return Prompt("constant", (CONSTANT_TOKEN,) * n_prompt, (CONSTANT_TOKEN,) * n_continuation)
        wanted = n_prompt + n_continuation
        if wanted > len(self._ids) // 2:
            raise ConfigError(f"{self._path}: held-out text: expected at most {len(self._ids) // 2} tokens to be asked for, got {wanted}")
        start = n_prompt * OFFSET_STRIDE % (len(self._ids) // 2)
        return Prompt("text", self._ids[start : start + n_prompt], self._ids[start + n_prompt : start + wanted])

    def planted_prompt(self, n_prompt: int) -> PlantedPrompt | None:
        """Exactly ``n_prompt`` tokens of held-out text with ``ABC = 123`` pairs planted, each asked as ``assert ABC == 123``.

        Seeded by ``n_prompt``. None where there is no room for the pairs, or the prompt is constant tokens.
        """
        if self.kind == "constant":
            return None
        rng = random.Random(n_prompt)  # noqa: S311 (no secret)
        pairs = _pairs(rng)
        planted = _planted_lines(rng, pairs)
        if len(self._tokenizer.encode(_merge((), planted)).ids) > LARGEST_PLANTED_SHARE * n_prompt:
            return None
        first = rng.randrange(len(self._lines) // 4, len(self._lines) // 2)
        n_lines = n_prompt // 4  # more lines than fit; shrunk until they do
        while len(ids := self._tokenizer.encode(body := _merge(self._lines[first : first + n_lines], planted)).ids) > n_prompt:
            n_lines = min(n_lines - 1, n_lines * n_prompt // len(ids))
        lead_in = "".join(f"{line}\n" for line in self._lines[first - n_prompt // 4 : first])
        ids = self._tokenizer.encode(lead_in + body).ids[-n_prompt:]
        if len(ids) < n_prompt:
            return None
        return self._asked_again(ids, rng.sample(pairs, len(pairs)))

    def _asked_again(self, ids: tuple[int, ...], pairs: list[tuple[str, str]]) -> PlantedPrompt:
        text = ""
        ends: list[int] = []
        for name, value in pairs:
            text += f"assert {name} == {value}"
            ends.append(len(text))
            text += "\n"
        asked = self._tokenizer.encode(text)
        answers = tuple(
            tuple(place for place, (start, stop) in enumerate(asked.spans) if start < end and stop > end - len(value))
            for end, (_, value) in zip(ends, pairs, strict=True)
        )
        return PlantedPrompt(ids, asked.ids, answers)


def _pairs(rng: random.Random) -> list[tuple[str, str]]:
    """Distinct names of three capitals, values of three digits."""
    names: list[str] = []
    while len(names) < N_PAIRS:
        name = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=3))
        if name not in names:
            names.append(name)
    return [(name, str(rng.randint(100, 999))) for name in names]


def _planted_lines(rng: random.Random, pairs: list[tuple[str, str]]) -> list[tuple[float, str]]:
    """(place as share of the prompt, line), in order."""
    planted: list[tuple[float, str]] = []
    for name, value in pairs:
        place = rng.uniform(0.0, PAIRS_BEFORE)
        planted.append((place, f"{name} = {value}"))
        planted += [(rng.uniform(place, ASKED_BEFORE), f"assert {name} == {value}") for _ in range(ASKED_IN_PROMPT)]
    return sorted(planted)


def _merge(lines: tuple[str, ...], planted: list[tuple[float, str]]) -> str:
    """Lines of text with the planted ones between them, at their share of the text's characters."""
    n_characters = sum(len(line) for line in lines)
    merged: list[str] = []
    passed = cursor = 0
    for line in lines:
        while cursor < len(planted) and planted[cursor][0] * n_characters <= passed:
            merged.append(planted[cursor][1])
            cursor += 1
        merged.append(line)
        passed += len(line)
    merged += [line for _, line in planted[cursor:]]
    return "".join(f"{line}\n" for line in merged)
