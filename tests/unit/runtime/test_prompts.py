from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from h2o_gate_plugin.bench.table import parse_log
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.llm_bench import main
from h2o_gate_plugin.runtime.prompts import PromptSource, prompt_file, prompt_kind
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
    with pytest.raises(ConfigError, match="held-out text: expected a readable UTF-8 file"):
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


def file_with(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prompt.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_prompt_file_gives_its_first_tokens_and_what_it_says_next(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = PromptSource(tokenizer, "text", file=file_with(tmp_path, "abcdefghij" * 3))
    prompt = source.measured_prompt(8, 5)
    assert (text_of(tokenizer, prompt.ids), text_of(tokenizer, prompt.continuation)) == ("abcdefgh", "ijabc")
    assert prompt.kind == "text"
    assert source.plain_prompts(8, 5, 4) == (prompt,)


def test_a_prompt_file_may_end_within_the_continuation_and_is_refused_when_it_ends_within_the_prompt(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = PromptSource(tokenizer, "text", file=file_with(tmp_path, "abcdefghij"))
    assert len(source.measured_prompt(8, 5).continuation) == 2
    assert source.plain_prompts(8, 5, 4) == (source.measured_prompt(8, 5),)
    assert source.measured_prompt(10, 5).continuation == ()
    assert source.plain_prompts(9, 5, 4) == source.plain_prompts(10, 5, 4) == ()  # one token is fed and none is left to be scored
    with pytest.raises(
        ConfigError, match=r"prompt\.txt: prompt file: expected at least 11 tokens \(-p\), got 10; ask for fewer"
    ) as refused:
        source.measured_prompt(11, 1)
    assert "\n" not in str(refused.value)


def test_a_prompt_file_of_one_token_over_and_over_is_constant_and_not_scored(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = PromptSource(tokenizer, "text", file=file_with(tmp_path, "a" * 40 + "bcd"))
    assert source.measured_prompt(40, 2).kind == "constant"
    assert source.plain_prompts(40, 2, 4) == ()
    assert source.measured_prompt(41, 2).kind == "text"


def test_without_a_prompt_file_the_measured_prompt_is_the_held_out_one(source: PromptSource, tokenizer: Tokenizer) -> None:
    assert source.measured_prompt(300, 10) == source.prompt(300, 10)
    assert source.plain_prompts(300, 10, 4) == tuple(source.prompt(300, 10, number) for number in range(4))
    assert PromptSource(tokenizer, "constant").plain_prompts(300, 10, 4) == ()


def test_planted_pairs_stand_in_held_out_text_whatever_the_prompt_file_says(
    source: PromptSource, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with_file = PromptSource(tokenizer, "text", file=file_with(tmp_path, "abcdefghij" * 200))
    assert with_file.planted_prompt(1024, 1) == source.planted_prompt(1024, 1)
    assert source.planted_prompt(1024, 1) is not None


def test_the_environment_names_the_prompt_file_and_contradicts_constant_tokens(tmp_path: Path) -> None:
    assert prompt_file({}) is None
    assert prompt_file({"H2O_BENCH_PROMPT_FILE": "a.txt"}) == Path("a.txt")
    with pytest.raises(
        ConfigError, match=r"H2O_BENCH_PROMPT: expected text beside H2O_BENCH_PROMPT_FILE=a\.txt, got 'constant'; unset one"
    ):
        prompt_file({"H2O_BENCH_PROMPT": "constant", "H2O_BENCH_PROMPT_FILE": "a.txt"})


@pytest.mark.parametrize(("data", "words"), [(None, "No such file"), (b"\xff\xfe\xff", "invalid start byte")])
def test_a_prompt_file_that_cannot_be_read_is_refused(tokenizer: Tokenizer, tmp_path: Path, data: bytes | None, words: str) -> None:
    path = tmp_path / "prompt.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"prompt\.txt: prompt file: expected a readable UTF-8 file, got {words}.*H2O_BENCH_PROMPT_FILE"):
        PromptSource(tokenizer, "text", file=path)


def run_on(path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> int:
    monkeypatch.setenv("H2O_BENCH_PROMPT_FILE", str(path))
    return main(["-m", str(config), "-t", "1", "-kv", "true", "-rep", "1", *line.split()])


def test_llm_bench_measures_speed_and_plain_quality_on_the_prompt_file(
    bench_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_with(tmp_path, "abcdefghij" * 3)
    log = tmp_path / "table.log"
    assert run_on(path, bench_config(), monkeypatch, f"-p 20 -n 4 -fp {log}") == 0
    (row,) = parse_log(log)
    assert (row.prompt_tokens, row.text["prompt_kind"], row.measures["quality_prompts"].mean) == (20, "text", 1)
    assert "nll_full" in row.measures
    assert run_on(file_with(tmp_path, "a" * 30), bench_config(), monkeypatch, f"-p 20 -n 4 -fp {log}") == 0
    constant = parse_log(log)[-1].text
    assert (constant["prompt_kind"], constant["nll_full"]) == ("constant", "n/a")


def test_llm_bench_refuses_a_prompt_file_that_is_too_short_in_one_line(
    bench_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_on(file_with(tmp_path, "abcdefghij"), bench_config(), monkeypatch, "-p 20 -n 4") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "prompt.txt: prompt file: expected at least 20 tokens (-p), got 10" in captured.err


def test_h2o_that_a_short_prompt_file_never_switches_on_is_printed_as_not_measured(
    bench_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "table.log"
    config = bench_config(
        kv_h2o_enable=True, kv_h2o_layer_start=1, kv_h2o_sink_tokens=2, kv_h2o_recent_tokens=4, kv_h2o_trigger_min_tokens=25
    )
    for n_gen in (4, 8):  # 24 tokens, then 28
        assert run_on(file_with(tmp_path, "abcdefghij" * 4), config, monkeypatch, f"-p 20 -n {n_gen} -fp {log}") == 0
    off, on = (row.text for row in parse_log(log))
    assert (off["h2o_keep"], off["h2o_lossy"]) == ("n/a", "n/a")
    assert on["h2o_lossy"] != "n/a"
