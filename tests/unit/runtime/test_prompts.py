from __future__ import annotations

from pathlib import Path

import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.prompts import PromptSource, prompt_kind
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


def test_the_prompts_of_a_length_are_different_text(source: PromptSource) -> None:
    prompts = [source.prompt(300, 10, number) for number in range(8)]
    assert prompts[0] == source.prompt(300, 10)
    assert len({prompt.ids for prompt in prompts}) == len({prompt.continuation for prompt in prompts}) == 8


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
