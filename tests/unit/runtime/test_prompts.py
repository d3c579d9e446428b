from __future__ import annotations

import re
from pathlib import Path

import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.prompts import ASKED_IN_PROMPT, N_PAIRS, PromptSource, prompt_kind
from h2o_gate_plugin.runtime.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return Tokenizer(tiny_folder, 260)


@pytest.fixture(scope="module")
def source(tokenizer: Tokenizer) -> PromptSource:
    return PromptSource(tokenizer, "text")


def text_of(tokenizer: Tokenizer, ids: tuple[int, ...]) -> str:
    letters = {}
    for character in map(chr, range(128)):
        encoded = tokenizer.encode(character).ids
        if len(encoded) == 1:
            letters[encoded[0]] = character
    return "".join(letters.get(token, "?") for token in ids)


def test_the_prompt_depends_on_its_length_alone_and_continues_truly(source: PromptSource) -> None:
    short, long = source.prompt(300, 10), source.prompt(300, 200)
    assert short.ids == long.ids
    assert len(short.ids) == 300
    assert long.continuation[:10] == short.continuation
    assert source.prompt(301, 10).ids[:50] != short.ids[:50]
    assert len(set(short.ids)) > 20


def test_the_text_is_the_held_out_file(source: PromptSource, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abcdefgh" * 300, encoding="utf-8")
    prompt = PromptSource(tokenizer, "text", path).prompt(20, 5)
    assert text_of(tokenizer, prompt.ids + prompt.continuation) in "abcdefgh" * 300


def test_a_text_that_is_too_short_or_missing_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abc", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected at most 1 tokens"):
        PromptSource(tokenizer, "text", path).prompt(20, 5)
    with pytest.raises(ConfigError, match="held-out text: expected a readable file"):
        PromptSource(tokenizer, "text", tmp_path / "none.txt")


def test_a_constant_prompt_is_copies_of_token_16_and_plants_nothing(tokenizer: Tokenizer) -> None:
    source = PromptSource(tokenizer, "constant")
    assert source.prompt(5, 2).ids == (16,) * 5
    assert source.prompt(5, 2).kind == "constant"
    assert source.planted_prompt(1024) is None


def test_the_environment_names_the_kind() -> None:
    assert prompt_kind({}) == "text"
    assert prompt_kind({"H2O_BENCH_PROMPT": "constant"}) == "constant"
    with pytest.raises(ConfigError, match="H2O_BENCH_PROMPT: expected text or constant, got 'random'"):
        prompt_kind({"H2O_BENCH_PROMPT": "random"})


@pytest.mark.parametrize("n_prompt", [1024, 1500, 2000])
def test_every_pair_is_assigned_once_asked_in_the_prompt_and_asked_again(source: PromptSource, tokenizer: Tokenizer, n_prompt: int) -> None:
    planted = source.planted_prompt(n_prompt)
    assert planted is not None
    assert len(planted.ids) == n_prompt
    assert planted == source.planted_prompt(n_prompt)
    text, questions = text_of(tokenizer, planted.ids), text_of(tokenizer, planted.questions)
    asked = re.findall(r"assert ([A-Z]{3}) == (\d{3})\n", questions)
    assert len(set(asked)) == N_PAIRS
    for (name, value), answer in zip(asked, planted.answers, strict=True):
        assert len(re.findall(rf"^{name} = {value}\n", text, re.MULTILINE)) == 1
        assert len(re.findall(rf"^assert {name} == {value}\n", text, re.MULTILINE)) == ASKED_IN_PROMPT
        assert text.index(f"{name} = ") < text.index(f"{name} == ")
        assert "".join(questions[place] for place in answer) == value
    assert not re.search(r"assert [A-Z]{3} == ", text[int(0.9 * n_prompt) :]), "the newest tokens must not hold an answer"


def test_a_prompt_without_room_for_the_pairs_plants_nothing(source: PromptSource) -> None:
    assert source.planted_prompt(128) is None
    assert source.planted_prompt(500) is None  # one token a byte: the pairs and questions take some 270
