"""Prompt sets, stratified samples, and the argv template that tells an external engine of a prompt file."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2o_gate_plugin.bench.config import KV_OFF
from h2o_gate_plugin.bench.engine import Engine, engine_argv
from h2o_gate_plugin.bench.measure import measure_case
from h2o_gate_plugin.bench.preset import BenchConfig, PromptFile, expand, load_preset
from h2o_gate_plugin.bench.prompt_command import EXAMPLE, REQUIRED, parse_prompt_command
from h2o_gate_plugin.bench.prompt_set import PromptSet, load_prompt_set, own_prompt_set, prompt_tokens, sample
from h2o_gate_plugin.bench.run_plan import case_key, configs_of, plan_key
from h2o_gate_plugin.bench.timed_run import RunFiles, prepare
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv_options import suite_values

LEAST = "{config} {prompt_file} {prompt} {gen} {log}"


def folder_with(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "set"
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(f"text of {name}", encoding="utf-8")
    return folder


def ten_of_three(tmp_path: Path) -> Path:
    return folder_with(tmp_path, *(f"prompt_{bucket}_{number}.txt" for bucket in (128, 512, 2048) for number in range(1, 11)))


def test_a_folder_is_read_by_its_names_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "prompt_128_10.txt", "prompt_128_2.txt", "prompt_2048_1.txt", "README.md")
    prompts = load_prompt_set(folder, "--prompts")
    assert {bucket: [file.path.name for file in files] for bucket, files in prompts.prompts.items()} == {
        128: ["prompt_128_2.txt", "prompt_128_10.txt"],
        2048: ["prompt_2048_1.txt"],
    }
    assert prompts.context_tokens is None
    assert len(prompts.prompts[128][0].sha256) == 64


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_manifest_names_buckets_and_files_beside_itself(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "weather at 7.txt").write_text("Is it raining?", encoding="utf-8")
    document = {"context_tokens": 4096, "prompts": [{"bucket": 128, "file": "chat/weather at 7.txt"}]}
    manifest = tmp_path / f"prompts.{suffix}"
    manifest.write_text(json.dumps(document), encoding="utf-8")
    prompts = load_prompt_set(manifest, "--prompts")
    (file,) = prompts.prompts[128]
    assert prompts.context_tokens == 4096
    assert (file.path, file.name) == (tmp_path / "chat" / "weather at 7.txt", "weather-at-7")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"--prompts: prompts: expected prompt_<bucket>_<number>\.txt files in .*set, got none"),
        (("prompt_128.txt",), r"prompt_128\.txt: name: expected prompt_<bucket>_<number>\.txt, got 'prompt_128\.txt'; rename it"),
        (("prompt_0_1.txt",), r"name: expected prompt_<bucket>_<number>\.txt, got 'prompt_0_1\.txt'"),
    ],
)
def test_a_folder_that_tells_no_buckets_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_prompt_set(folder_with(tmp_path, *names), "--prompts")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt: []\n", r"set\.yaml:1: prompt: .*did you mean 'prompts'"),
        ("context_tokens: 9\n", r"set\.yaml: prompts: expected a list of \{bucket, file\}, got nothing"),
        ("prompts:\n  - {bucket: 128}\n", r"set\.yaml:2: file: expected it of every prompt"),
        ("prompts:\n  - {file: a.txt}\n", r"set\.yaml:2: bucket: expected it of every prompt"),
        ("prompts:\n  - {bucket: 0, file: a.txt}\n", r"set\.yaml:2: bucket: expected an integer >= 1, got 0"),
        ("prompts:\n  - {bucket: 8, file: none.txt}\n", r"set\.yaml:2: prompt file: expected a readable UTF-8 file"),
        ("prompts:\n  - {bucket: 8, file: empty.txt}\n", r"set\.yaml:2: prompt file: expected text, got an empty file"),
        ("prompts:\n  - {bucket: 8, file: a.txt}\n  - {bucket: 8, file: b.txt}\n", r"b\.txt: expected each text once, got that of a\.txt"),
    ],
)
def test_a_bad_manifest_is_refused_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    for name, content in (("a.txt", "same"), ("b.txt", "same"), ("empty.txt", " \n")):
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "set.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as refused:
        load_prompt_set(tmp_path / "set.yaml", "--prompts")
    assert "\n" not in str(refused.value)


def test_the_set_that_ships_has_three_texts_of_every_bucket_of_the_pack() -> None:
    prompts = load_prompt_set(own_prompt_set(), "default").prompts
    assert {bucket: len(files) for bucket, files in prompts.items()} == {128: 3, 512: 3, 2048: 3}


def test_a_sample_has_so_many_of_every_bucket_without_repeats_and_the_seed_decides_which(tmp_path: Path) -> None:
    prompts = load_prompt_set(ten_of_three(tmp_path), "--prompts")
    buckets = (128, 512, 2048)
    drawn = sample(prompts, buckets, 3, 0)
    assert drawn == sample(prompts, buckets, 3, 0)
    assert all(len(set(files)) == 3 and {file.bucket for file in files} == {bucket} for bucket, files in drawn.items())
    assert any(sample(prompts, buckets, 3, seed) != drawn for seed in range(1, 5))
    numbers = {bucket: [file.path.stem.rpartition("_")[2] for file in files] for bucket, files in drawn.items()}
    assert len({tuple(found) for found in numbers.values()}) > 1, "each bucket is drawn by itself"
    assert sample(prompts, buckets, 10, 7) == dict(prompts.prompts)


@given(st.integers(1, 10), st.integers(0, 2**31))
def test_every_sample_is_a_subset_in_the_sets_order(per_bucket: int, seed: int) -> None:
    files = tuple(PromptFile(128, Path(f"prompt_128_{number}.txt"), str(number)) for number in range(10))
    (drawn,) = sample(PromptSet(Path(), None, {128: files}), (128,), per_bucket, seed).values()
    assert [file for file in files if file in drawn] == list(drawn)
    assert len(drawn) == per_bucket


def test_a_bucket_with_too_few_files_or_one_that_nobody_asks_for_is_refused(tmp_path: Path) -> None:
    few = r"bucket 512: expected at least 2 prompt files \(--prompts-per-bucket\), got 1; add prompt_512_2\.txt"
    prompts = load_prompt_set(folder_with(tmp_path, "prompt_128_1.txt", "prompt_128_2.txt", "prompt_512_1.txt"), "--prompts")
    with pytest.raises(ConfigError, match=few):
        sample(prompts, (128, 512), 2, 0)
    with pytest.raises(ConfigError, match=r"bucket 2048: expected at least 1 prompt files .*, got 0; add prompt_2048_1"):
        sample(prompts, (128, 512, 2048), 1, 0)
    with pytest.raises(ConfigError, match=r"prompt_512_1\.txt: bucket: expected one of 128 \(tokens\), got 512"):
        sample(prompts, (128,), 1, 0)


def test_a_bucket_runs_what_the_context_leaves_beside_the_generated_tokens() -> None:
    assert prompt_tokens(128, 128, 2048) == 128
    assert prompt_tokens(1920, 128, 2048) == 1920
    assert prompt_tokens(2048, 128, 2048) == 1920
    assert prompt_tokens(2048, 128, None) == prompt_tokens(2048, 128, 4096) == 2048
    with pytest.raises(ConfigError, match="context_tokens: expected more than the 128 generated tokens, got 128"):
        prompt_tokens(2048, 128, 128)


def test_each_prompt_file_is_a_run_of_its_own_and_its_id_names_it(tmp_path: Path) -> None:
    files = load_prompt_set(folder_with(tmp_path, "prompt_128_1.txt", "prompt_128_2.txt"), "--prompts").prompts[128]
    configs = expand(load_preset("target_prompts_v6"), {}, files)
    assert len(configs) == 2 * len(expand(load_preset("target_prompts_v6"), {}))
    assert configs[0].run_id.startswith("run_0001_p128_g128@prompt-128-1_k")
    assert configs[1].run_id.startswith("run_0002_p128_g128@prompt-128-2_k")
    assert {config.prompt_file for config in configs} == set(files)


def test_a_plan_counts_the_text_and_not_where_it_lies_and_a_bucket_without_files_is_refused(tmp_path: Path, make_case: Any) -> None:
    def case(folder: str, text: str) -> Any:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "prompt_16_1.txt").write_text(text, encoding="utf-8")
        files = load_prompt_set(tmp_path / folder, "--prompts").prompts[16]
        return replace(make_case(), bucket=16, prompt_files=files)

    assert plan_key(case("here", "text")) == plan_key(case("there", "text")) != plan_key(case("there", "other"))
    assert plan_key(case("here", "text")) != plan_key(make_case())
    with pytest.raises(ConfigError, match="expected the sampled files of bucket 16, got none"):
        configs_of(replace(make_case(), bucket=16))


def test_another_prompt_command_is_another_measurement_only_where_prompts_are_files(tmp_path: Path, make_case: Any) -> None:
    plain = Engine("engine", ("engine",), tmp_path / "config.json", None)
    commanded = replace(plain, prompt_command=("a",))
    with_file = replace(make_case(), bucket=16, prompt_files=(PromptFile(16, tmp_path, "0"),))
    assert case_key(plain, make_case()) == case_key(commanded, make_case())
    assert case_key(plain, with_file) != case_key(commanded, with_file)


def test_the_template_fills_in_a_word_or_a_part_of_one_and_keeps_braces(tmp_path: Path) -> None:
    template = parse_prompt_command(f"run --file={{prompt_file}} '{{{{a}}}} b' {LEAST}", "--prompt-command", tmp_path)
    engine = Engine("engine", ("engine",), tmp_path / "config.json", None, prompt_command=template)
    config = BenchConfig("r", 16, 4, 2, "cpu", 3, 0, suite_values(KV_OFF, "test"), PromptFile(16, Path("/a b.txt"), "0"))
    argv = engine_argv(engine, config, Path("c.json"), Path("l.log"))
    assert argv == ("run", "--file=/a b.txt", "{a} b", "c.json", "/a b.txt", "16", "4", "l.log")


def test_the_example_of_the_refusal_is_itself_a_template() -> None:
    words = parse_prompt_command(EXAMPLE.removeprefix("--prompt-command ").strip("'"), "example", Path("/"))
    assert words[:2] == ("python3", "./adapter.py")


def test_a_word_with_a_slash_that_names_a_file_is_absolute_because_processes_run_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "adapter.py").write_text("", encoding="utf-8")
    words = parse_prompt_command(f"./adapter.py adapter.py ./none.py {LEAST}", "--prompt-command", tmp_path)
    assert words[:3] == (str(tmp_path / "adapter.py"), "adapter.py", "./none.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"run {LEAST} {{promt}}", r"--prompt-command: placeholder: expected a known one, got '\{promt\}'; did you mean 'prompt'"),
        *(
            (f"run {LEAST.replace(f'{{{name}}}', '')}", rf"--prompt-command: .* without \{{{name}\}}; docs/prompts\.md")
            for name in REQUIRED
        ),
        (f"run 'open {LEAST}", r"--prompt-command: expected words as a shell reads them.*No closing quotation"),
        (f"run {LEAST} {{prompt", r"--prompt-command: expected words as a shell reads them"),
        (f"run {LEAST} {{prompt:>8}}", r"asks for a format; write the name alone"),
        (f"run {LEAST} {{}}", r"expected a known one, got '\{\}'"),
    ],
)
def test_a_template_that_cannot_work_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        parse_prompt_command(text, "--prompt-command", tmp_path)
    assert "\n" not in str(refused.value)


def test_the_prompt_file_is_in_the_environment_of_its_processes_alone(tmp_path: Path, scripted: Any) -> None:
    engine = scripted().engine
    config = BenchConfig("r", 16, 4, 1, "cpu", 1, 0, suite_values(KV_OFF, "test"))
    files = RunFiles.of(tmp_path, "r")
    assert "H2O_BENCH_PROMPT_FILE" not in prepare(engine, config, files, {}, 1.0).env
    with_file = replace(config, prompt_file=PromptFile(16, tmp_path / "a.txt", "0"))
    assert prepare(engine, with_file, files, {}, 1.0).env["H2O_BENCH_PROMPT_FILE"] == str(tmp_path / "a.txt")


def test_the_manifest_of_a_case_lists_its_prompts(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted()
    files = load_prompt_set(folder_with(tmp_path, "prompt_16_1.txt", "prompt_16_2.txt"), "--prompts").prompts[16]
    command = parse_prompt_command(
        f"{sys.executable} -S -E {{llm_bench}} -m {{config}} -kv true -p {{prompt}} -n {{gen}} -fp {{log}} -a {{prompt_file}}",
        "--prompt-command",
        tmp_path,
    )
    case = measure_case(
        replace(engine.engine, prompt_command=command),
        replace(make_case(), bucket=16, prompt_files=files),
        tmp_path / "out",
        pairs=1,
        timeout_s=60.0,
        progress=lambda event: None,
    )
    assert case.complete
    assert [call["argv"][-1] for call in engine.calls()] == [str(file.path) for file in files for _ in range(2)]
    manifest = json.loads((case.folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["bucket"] == 16
    assert manifest["prompts"] == [{"name": file.name, "path": str(file.path), "sha256": file.sha256} for file in files]
