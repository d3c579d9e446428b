from __future__ import annotations

from pathlib import Path

import pytest

from h2o_gate_plugin.runtime.arguments import FLAGS, ArgumentError, Arguments, parse_arguments, usage
from h2o_gate_plugin.runtime.instances import sweep


def parse(line: str) -> Arguments:
    return parse_arguments(line.split())


def test_defaults_are_those_of_the_contract() -> None:
    arguments = parse_arguments([])
    assert arguments.models == (Path("./Qwen2.5-1.5B-Instruct"),)
    assert (arguments.backends, arguments.precisions, arguments.threads) == (("cpu",), (2,), (4,))
    assert (arguments.prompts, arguments.gens, arguments.repeat) == ((512,), (128,), 5)
    assert (arguments.kv_cache, arguments.loading_time, arguments.mmaps) == (False, False, (False,))
    assert (arguments.memories, arguments.powers, arguments.quant_attentions) == ((2,), (0,), (0,))
    assert (arguments.dynamic_options, arguments.division_ratios, arguments.sme_core_nums) == ((0,), (41,), (2,))
    assert (arguments.file_print, arguments.json_file, arguments.prompt_gens) == (None, None, ())


def test_the_call_that_the_suite_makes_is_read() -> None:
    arguments = parse("-m c.json -a cpu -t 1 -qatten 0 -kv true -p 512,1024 -n 128 -rep 3 -fp log.txt")
    assert (arguments.models, arguments.threads, arguments.prompts) == ((Path("c.json"),), (1,), (512, 1024))
    assert (arguments.kv_cache, arguments.repeat, arguments.file_print) == (True, 3, Path("log.txt"))


def test_a_repeated_flag_appends_and_threads_run_from_many_to_few() -> None:
    arguments = parse("-p 64 -p 32,16 -t 1,4 -t 2 -pg 8,4 -pg 2,1 -rep 3,9")
    assert arguments.prompts == (64, 32, 16)
    assert arguments.threads == (4, 2, 1)
    assert arguments.prompt_gens == ((8, 4), (2, 1))
    assert arguments.repeat == 3


@pytest.mark.parametrize("flag", ["--n-prompt", "--n_prompt"])
def test_long_names_take_both_spellings(flag: str) -> None:
    assert parse_arguments([flag, "7"]).prompts == (7,)


def test_the_json_file_is_optional() -> None:
    assert parse_arguments(["-j"]).json_file == Path("llm_bench.json")
    assert parse_arguments(["-j", "-t", "2"]).json_file == Path("llm_bench.json")
    assert parse_arguments(["--json", "out.json"]).json_file == Path("out.json")


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        (["--nope"], "--nope"),
        (["512"], "512"),
        (["-p"], "-p"),
        (["-fp"], "-fp"),
        (["-p", "12x"], "-p"),
        (["-p", "1_0"], "-p"),
        (["-p", "-1"], "-p"),
        (["-p", "8,,9"], "-p"),
        (["-t", "0"], "-t"),
        (["-t", "1.0"], "-t"),
        (["-a", "cuda"], "-a"),
        (["-c", "3"], "-c"),
        (["-kv", "yes"], "-kv"),
        (["-rep", "0"], "-rep"),
        (["-pg", "5"], "-pg"),
        (["-pg", "5,6,7"], "-pg"),
        (["-m", ""], "-m"),
        (["-n_prompt", "5"], "-n_prompt"),
    ],
)
def test_a_bad_argument_is_named_in_the_words_of_the_contract(argv: list[str], flag: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_arguments(argv)
    assert str(caught.value) == f"error: invalid parameter for argument: {flag}"


def test_the_usage_names_every_flag() -> None:
    for flag in FLAGS.values():
        assert all(name in usage() for name in flag.names)


def test_with_kv_true_every_prompt_meets_every_gen_inside_every_setting() -> None:
    instances = sweep(parse("-m a,b -t 1,2 -kv true -p 8,0,16 -n 4,0,2"))
    assert [(str(i.settings.model), i.settings.threads, i.n_prompt, i.n_gen) for i in instances] == [
        (model, threads, n_prompt, n_gen) for model in "ab" for threads in (2, 1) for n_prompt in (8, 16) for n_gen in (4, 2)
    ]
    assert {i.kind for i in instances} == {"prompt_and_decode"}


def test_with_kv_false_prompts_come_first_then_gens_then_pairs() -> None:
    instances = sweep(parse("-m a -p 8,16,0 -n 4 -pg 2,1 -pg 0,0 -pg 3,0 -pg 0,5"))
    assert [(i.kind, i.n_prompt, i.n_gen) for i in instances] == [
        ("prefill", 8, 0),
        ("prefill", 16, 0),
        ("decode", 0, 4),
        ("both", 2, 1),
        ("prefill", 3, 0),
        ("decode", 0, 5),
    ]
