from __future__ import annotations

import re
from pathlib import Path

import pytest

from h2o_gate_plugin.runtime.planted import ASKED_IN_PROMPT, LARGEST_PLANTED_SHARE, PAIR_COUNTS, PlantedPrompt
from h2o_gate_plugin.runtime.prompts import PromptSource
from h2o_gate_plugin.runtime.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    """One token a byte."""
    return Tokenizer(tiny_folder, 260)


@pytest.fixture(scope="module")
def source(tokenizer: Tokenizer) -> PromptSource:
    return PromptSource(tokenizer, "text")


@pytest.fixture(scope="module")
def letters(tokenizer: Tokenizer) -> dict[int, str]:
    return {tokenizer.encode(character).ids[0]: character for character in map(chr, range(128))}


def texts(planted: PlantedPrompt | None, letters: dict[int, str]) -> tuple[str, str]:
    """The prompt and the questions after it."""
    assert planted is not None
    prompt, questions = ("".join(letters.get(token, "?") for token in part) for part in (planted.ids, planted.questions))
    return prompt, questions


def answers_of(planted: PlantedPrompt | None, letters: dict[int, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Heavy and first-time pairs: name → the value at the answer's places in the questions."""
    _, questions = texts(planted, letters)
    assert planted is not None
    heavy, first_time = (
        {questions[answer[0] - 7 : answer[0] - 4]: "".join(questions[place] for place in answer) for answer in answers}
        for answers in (planted.heavy, planted.first_time)
    )
    return heavy, first_time


@pytest.mark.parametrize("n_prompt", [1024, 1500, 2000])
@pytest.mark.parametrize("number", [0, 3])
def test_every_pair_is_stated_once_and_asked_for_after_the_prompt_and_heavy_ones_inside_it_too(
    source: PromptSource, letters: dict[int, str], n_prompt: int, number: int
) -> None:
    planted = source.planted_prompt(n_prompt, number)
    prompt, questions = texts(planted, letters)
    assert len(prompt) == n_prompt
    heavy, first_time = answers_of(planted, letters)
    assert (len(heavy), len(first_time)) == PAIR_COUNTS[0]
    assert sorted(re.findall(r"assert ([A-Z]{3}) == (\d{3})\n", questions)) == sorted((heavy | first_time).items())
    for name, value in (heavy | first_time).items():
        assert len(re.findall(rf"^{name} = {value}\n", prompt, re.MULTILINE)) == 1
        assert prompt.count(f"assert {name} == {value}\n") == (ASKED_IN_PROMPT if name in heavy else 0)
        assert f"{name} == " not in prompt[: prompt.index(f"{name} = ")]


def test_the_newest_fifth_of_the_prompt_holds_no_pair(source: PromptSource, letters: dict[int, str]) -> None:
    for number in range(4):
        planted = source.planted_prompt(2000, number)
        prompt, _ = texts(planted, letters)
        heavy, first_time = answers_of(planted, letters)
        assert not any(name in prompt[1600:] for name in heavy | first_time)


def test_both_kinds_are_asked_for_in_one_shuffled_order(source: PromptSource, letters: dict[int, str]) -> None:
    orders = set()
    for number in range(6):
        planted = source.planted_prompt(1024, number)
        assert planted is not None
        places = [(answer[0], kind) for kind, answers in (("heavy", planted.heavy), ("first", planted.first_time)) for answer in answers]
        orders.add(tuple(kind for _, kind in sorted(places)))
    assert len(orders) > 2


def test_the_same_length_and_number_give_the_same_prompt_and_others_do_not(source: PromptSource) -> None:
    assert source.planted_prompt(1024, 1) == source.planted_prompt(1024, 1)
    prompts = [source.planted_prompt(1024, number) for number in range(4)]
    assert len({prompt.ids for prompt in prompts if prompt is not None}) == 4


def test_a_shorter_prompt_holds_fewer_pairs_and_at_last_none(source: PromptSource) -> None:
    """One token a byte: a heavy pair takes 64 of them, a first-time one 10."""
    counts = {n: (len(p.heavy), len(p.first_time)) if (p := source.planted_prompt(n)) else None for n in (100, 345, 505, 690)}
    assert LARGEST_PLANTED_SHARE == 0.4
    assert counts == {100: None, 345: (2, 1), 505: (3, 1), 690: (4, 2)}
