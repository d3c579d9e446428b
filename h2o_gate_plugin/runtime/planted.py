"""Planted recall: held-out text with pairs ``ABC = 123`` that are asked for as ``assert ABC == 123``.

Two kinds of pairs stand in one prompt. *Heavy* ones the prompt itself asks for three times: H2O's claim is that what was attended to
will be attended to again. *First-time* ones it states and never asks for: no policy that decides before the question can know them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from h2o_gate_plugin.runtime.tokenizer import Tokenizer

Answer = tuple[int, ...]
"""Places in ``questions`` of one answer's tokens."""

PAIR_COUNTS = ((4, 2), (3, 1), (2, 1))
"""(heavy, first-time) pairs, the most that keep the planted lines within LARGEST_PLANTED_SHARE."""
ASKED_IN_PROMPT = 3
PAIRS_BEFORE = 0.4
ASKED_BEFORE = 0.7
"""Shares of the prompt's characters: pairs are stated in the first part and asked for between there and the second mark, so that the newest
tokens alone do not hold the answers."""
LARGEST_PLANTED_SHARE = 0.4
"""Of the prompt's tokens."""


@dataclass(frozen=True)
class PlantedPrompt:
    """``questions`` follow ``ids`` and ask for every pair once, both kinds in one shuffled order."""

    ids: tuple[int, ...]
    questions: tuple[int, ...]
    heavy: tuple[Answer, ...]
    first_time: tuple[Answer, ...]


@dataclass(frozen=True)
class _Pair:
    name: str
    value: str
    heavy: bool

    @property
    def stated(self) -> str:
        return f"{self.name} = {self.value}"

    @property
    def asked(self) -> str:
        return f"assert {self.name} == {self.value}"


def planted_prompt(tokenizer: Tokenizer, lines: Sequence[str], n_prompt: int, seed: str) -> PlantedPrompt | None:
    """Exactly ``n_prompt`` tokens of ``lines`` with pairs planted, and the questions that follow. None where there is no room.

    Both kinds are stated in the same part of the text and asked for in one shuffled order, equally long after eviction began,
    so that their recall differs by what the prompt attended to and by nothing else.
    """
    rng = random.Random(seed)  # noqa: S311 (no secret)
    for n_heavy, n_first_time in PAIR_COUNTS:
        pairs = _pairs(rng, n_heavy, n_first_time)
        planted = _planted_lines(rng, pairs)
        if len(tokenizer.encode(_merge((), planted)).ids) <= LARGEST_PLANTED_SHARE * n_prompt:
            break
    else:
        return None
    first = rng.randrange(len(lines) // 4, len(lines) // 2)
    n_lines = n_prompt // 4  # more lines than fit; shrunk until they do
    while len(ids := tokenizer.encode(body := _merge(lines[first : first + n_lines], planted)).ids) > n_prompt:
        n_lines = min(n_lines - 1, n_lines * n_prompt // len(ids))
    lead_in = "".join(f"{line}\n" for line in lines[first - n_prompt // 4 : first])
    ids = tokenizer.encode(lead_in + body).ids[-n_prompt:]
    return _with_questions(tokenizer, ids, rng.sample(pairs, len(pairs))) if len(ids) == n_prompt else None


def _pairs(rng: random.Random, n_heavy: int, n_first_time: int) -> list[_Pair]:
    """Distinct names of three capitals, values of three digits."""
    names: list[str] = []
    while len(names) < n_heavy + n_first_time:
        name = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=3))
        if name not in names:
            names.append(name)
    return [_Pair(name, str(rng.randint(100, 999)), index < n_heavy) for index, name in enumerate(names)]


def _planted_lines(rng: random.Random, pairs: list[_Pair]) -> list[tuple[float, str]]:
    """(place as share of the text, line), in order."""
    planted: list[tuple[float, str]] = []
    for pair in pairs:
        place = rng.uniform(0.0, PAIRS_BEFORE)
        planted.append((place, pair.stated))
        planted += [(rng.uniform(place, ASKED_BEFORE), pair.asked) for _ in range(ASKED_IN_PROMPT if pair.heavy else 0)]
    return sorted(planted)


def _merge(lines: Sequence[str], planted: list[tuple[float, str]]) -> str:
    """Lines of text with the planted ones between them, each at its share of all the characters."""
    n_characters = sum(len(line) for line in lines) + sum(len(line) for _, line in planted)
    merged: list[str] = []
    passed = cursor = 0
    for line in lines:
        while cursor < len(planted) and planted[cursor][0] * n_characters <= passed:
            merged.append(planted[cursor][1])
            passed += len(planted[cursor][1])
            cursor += 1
        merged.append(line)
        passed += len(line)
    merged += [line for _, line in planted[cursor:]]
    return "".join(f"{line}\n" for line in merged)


def _with_questions(tokenizer: Tokenizer, ids: tuple[int, ...], pairs: list[_Pair]) -> PlantedPrompt:
    text = ""
    ends: list[int] = []
    for pair in pairs:
        text += pair.asked
        ends.append(len(text))
        text += "\n"
    asked = tokenizer.encode(text)
    answers = [
        tuple(place for place, (start, stop) in enumerate(asked.spans) if start < end and stop > end - len(pair.value))
        for end, pair in zip(ends, pairs, strict=True)
    ]
    kinds = list(zip(pairs, answers, strict=True))
    return PlantedPrompt(
        ids,
        asked.ids,
        heavy=tuple(answer for pair, answer in kinds if pair.heavy),
        first_time=tuple(answer for pair, answer in kinds if not pair.heavy),
    )
