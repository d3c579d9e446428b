"""The pack prompts: sampled prompt files by bucket, told to an external engine by a template, each bucket judged by itself."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.prompt_set import load_prompt_set, sample
from h2o_gate_plugin.exit_codes import ExitCode

from .conftest import ENGINE, REPOSITORY, GateProject

BUCKETS = (128, 512, 2048)
GATE = "prompts and lossy"
"""One gate that needs neither baselines nor a dump keeps these runs short."""
COMMAND = (
    f"{shlex.quote(sys.executable)} -S -E {{llm_bench}} -m {{config}} -kv true -p {{prompt}} -n {{gen}} -rep {{repeat}} -fp {{log}} "
    "-a {prompt_file}"
)
"""The scripted engine writes its argv down; -a carries the prompt file there."""


def prompt_set(project: GateProject, per_bucket: int = 3) -> None:
    folder = project.path / "set"
    folder.mkdir()
    for bucket in BUCKETS:
        for number in range(1, per_bucket + 1):
            (folder / f"prompt_{bucket}_{number}.txt").write_text(f"text {number} of bucket {bucket}", encoding="utf-8")


def run_pack(project: GateProject, *args: str, command: str | None = COMMAND, marker: str = GATE, out: str = "out") -> pytest.RunResult:
    engine = ("--llm-bench", str(ENGINE), "--model-config", "config.json", "--decode-pairs=1", "--decode-max-pairs=1")
    template = () if command is None else ("--prompt-command", command)
    return project.start("acceptance", "-m", marker, *engine, *template, "--prompts=set", f"--h2o-out={out}", *args)


def gates_of(project: GateProject, out: str = "out") -> dict[str, dict[str, Any]]:
    """Case → gate → its object in summary.json."""
    return {case["id"]: {gate["name"]: gate for gate in case["gates"]} for case in project.summary(out)["cases"]}


def files_run(project: GateProject) -> list[str]:
    return [Path(call["argv"][-1]).name for call in project.calls()]


def test_every_bucket_is_a_case_of_its_own_and_runs_its_sampled_prompts(project: GateProject) -> None:
    prompt_set(project)
    result = run_pack(project)
    assert result.ret == 0, result.stdout.str()
    gates = gates_of(project)
    assert list(gates) == ["prompts/b128-1", "prompts/b512-1", "prompts/b2048-1"]
    assert {gate["lossy_pass"]["status"] for gate in gates.values()} == {"PASS"}
    assert [(call["prompt"], call["gen"]) for call in project.calls()] == [(128, 128)] * 2 + [(512, 128)] * 2 + [(1904, 128)] * 2
    assert Counter(name.split("_")[1] for name in files_run(project)) == {"128": 2, "512": 2, "2048": 2}
    notes = {note["case"]: note["note"] for note in project.summary()["notes"] if note["note"].startswith("bucket")}
    assert re.fullmatch(
        r"bucket 2048 runs -p 1904 on prompt_2048_\d\.txt \(sha256 \w{8}\), prompt_2048_\d\.txt \(sha256 \w{8}\)", notes["prompts/b2048-1"]
    )
    result.stdout.fnmatch_lines(["*prompts/b128-1: run_0001 prompt-128-? 128 candidate 1/1*"])


def test_the_seed_and_the_number_choose_the_sample(project: GateProject) -> None:
    prompt_set(project)
    prompts = load_prompt_set(project.path / "set", "set")
    drawn = {
        (count, seed): [file.path.name for files in sample(prompts, BUCKETS, count, seed).values() for file in files]
        for count, seed in ((1, 3), (1, 0), (2, 0))
    }
    assert len({tuple(names) for names in drawn.values()}) == 3
    run_pack(project, "--prompts-per-bucket=1", "--prompts-seed=3")
    assert files_run(project) == drawn[1, 3]


def test_a_manifest_says_how_long_the_engines_context_is(project: GateProject) -> None:
    prompt_set(project, per_bucket=1)
    listed = [{"bucket": bucket, "file": f"set/prompt_{bucket}_1.txt"} for bucket in BUCKETS]
    (project.path / "set.json").write_text(json.dumps({"context_tokens": 4096, "prompts": listed}), encoding="utf-8")
    assert run_pack(project, "--prompts=set.json", "--prompts-per-bucket=1").ret == 0
    assert [call["prompt"] for call in project.calls()] == list(BUCKETS)


def test_a_prompt_on_which_decode_is_slow_fails_its_own_bucket_alone(project: GateProject) -> None:
    prompt_set(project)
    project.scenario(rules=[{"when": {"kv": "on", "prompt": 512, "call": 2}, "decode": "150.00 ± 1.00"}])
    result = run_pack(project, "--decode-aggregate=avg", marker="prompts and decode_drop")
    assert result.ret == 1
    gates = {case: (gate["decode_pass"]["status"], round(gate["decode_pass"]["value"], 9)) for case, gate in gates_of(project).items()}
    assert gates == {"prompts/b128-1": ("PASS", 0.0), "prompts/b512-1": ("FAIL", 0.25), "prompts/b2048-1": ("PASS", 0.0)}
    assert len(project.calls()) == 2 * 2 * len(BUCKETS)
    result.stdout.fnmatch_lines(["decode_pass: prompts/b512-1*prompt-512-*candidate-1.log*"])


def test_the_worst_prompt_of_a_bucket_decides(project: GateProject) -> None:
    prompt_set(project)
    project.scenario(rules=[{"when": {"kv": "on", "prompt": 512, "call": 2}, "cells": {"h2o_lossy": "2.500 ± 0.000"}}])
    assert run_pack(project).ret == 1
    values = {case: (gate["lossy_pass"]["status"], gate["lossy_pass"]["value"]) for case, gate in gates_of(project).items()}
    assert values == {"prompts/b128-1": ("PASS", 3.2), "prompts/b512-1": ("FAIL", 2.5), "prompts/b2048-1": ("PASS", 3.2)}


@pytest.mark.parametrize(
    "cells",
    [
        {"h2o_lossy": "1.000 ± 0.000", "h2o_evict_us": "0.00 ± 0.00"},
        dict.fromkeys(("h2o_keep", "h2o_lossy"), "n/a"),
    ],
    ids=["prints-1.000", "prints-n/a"],
)
def test_a_bucket_in_which_h2o_never_switched_on_is_not_measured_and_no_ratio_of_one(project: GateProject, cells: dict[str, str]) -> None:
    prompt_set(project)
    project.scenario(rules=[{"when": {"kv": "on", "prompt": 128}, "cells": cells}])
    result = run_pack(project)
    assert result.ret == 1
    statuses = {case: (gate["lossy_pass"]["status"], gate["lossy_pass"]["value"]) for case, gate in gates_of(project).items()}
    assert statuses == {"prompts/b128-1": ("NOT_MEASURED", None), "prompts/b512-1": ("PASS", 3.2), "prompts/b2048-1": ("PASS", 3.2)}
    result.stdout.fnmatch_lines(["*prompts/b128-1*NOT MEASURED*H2O never switched on*"])


def test_kept_results_are_found_again_by_the_texts_that_were_run(project: GateProject) -> None:
    prompt_set(project)
    run_pack(project)
    started = len(project.calls())
    (project.path / "set").rename(project.path / "moved")
    again = project.start("acceptance", "-m", GATE, "--h2o-from=out", "--prompts=moved", "--h2o-out=again")
    assert again.ret == 0, again.stdout.str()
    other = project.start("acceptance", "-m", GATE, "--h2o-from=out", "--prompts=moved", "--prompts-per-bucket=3", "--h2o-out=other")
    assert other.ret == ExitCode.NOTHING_MEASURED
    other.stdout.fnmatch_lines(["*NOT MEASURED*expected a kept measurement of this case*"])
    assert len(project.calls()) == started


@pytest.mark.parametrize(
    ("args", "command", "words"),
    [
        ((), None, ("--llm-bench", "prompts/b128-1", "expected --prompt-command", "{prompt_file}", "docs/prompts.md")),
        ((), "run {config}", ("--prompt-command", "{prompt_file}, {prompt}, {gen}, {log}")),
        ((), COMMAND + " {thread}", ("--prompt-command", "{thread}", "did you mean 'threads'")),
        (("--prompts=none",), COMMAND, ("--prompts", "'none'")),
        (("--prompts-per-bucket=4",), COMMAND, ("bucket 128", "at least 4", "got 3")),
        (("--prompts-per-bucket=0",), COMMAND, ("--prompts-per-bucket", "'0'")),
        (("--prompts-seed=-1",), COMMAND, ("--prompts-seed", "'-1'")),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line_before_anything_runs(
    project: GateProject, args: tuple[str, ...], command: str | None, words: tuple[str, ...]
) -> None:
    prompt_set(project)
    result = run_pack(project, *args, command=command)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (error,) = [line for line in result.errlines if line.strip()]
    assert [word for word in words if word not in error] == []
    assert project.calls() == []


def test_an_empty_bucket_is_refused(project: GateProject) -> None:
    prompt_set(project)
    for file in (project.path / "set").glob("prompt_512_*"):
        file.unlink()
    result = run_pack(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "bucket 512: expected at least 2 prompt files" in result.stderr.str()


@pytest.mark.parametrize("option", ["--prompts=set", "--prompts-per-bucket=1", "--prompts-seed=3"])
def test_a_prompt_set_for_a_pack_that_reads_none_is_refused(project: GateProject, option: str) -> None:
    prompt_set(project)
    result = project.run("acceptance", "-m", "runtime and lossy", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "only the pack prompts reads prompt files" in result.stderr.str()


def test_the_embedded_engine_needs_no_prompt_command(project: GateProject) -> None:
    result = project.start("acceptance", "-m", GATE, "--prompt-command", COMMAND)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "the embedded engine needs none" in result.stderr.str()


def test_the_adapter_of_the_documentation_runs_the_engine_once_per_prompt(project: GateProject) -> None:
    page = (REPOSITORY / "docs" / "prompts.md").read_text(encoding="utf-8")
    (adapter,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (project.path / "adapter.py").write_text(adapter, encoding="utf-8")
    (example,) = re.findall(r"--prompt-command '([^']*)'", page)
    prompt_set(project)
    result = run_pack(project, "--prompts-per-bucket=1", command=example.replace("python3", shlex.quote(sys.executable)))
    assert result.ret == 0, result.stdout.str()
    asked = []
    for call in project.calls():
        config = json.loads(Path(call["argv"][call["argv"].index("-m") + 1]).read_text(encoding="utf-8"))
        asked.append((call["prompt"], Path(config["prompt_file"]).name.split("_")[1]))
    assert asked == [(128, "128"), (512, "512"), (1904, "2048")]
