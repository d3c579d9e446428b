"""A run whose engine prints, and whose files are called, what pages, CI logs and terminals take for commands: nothing acts on it."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.unit.plugin.conftest import ENGINE, GateProject

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
HOSTILE = (
    SCRIPT,
    "](javascript:alert(1))",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "::error::forged",
    "::set-output name=a::b",
    "##[error]forged",
    "%0A::error::forged",
    "`code`",
    "a | b",
    "\x1b[2J\x1b]0;title\x07\x1b[31mred",
    "\u202egnp.exe",
    "\r::warning::forged",
    "|---|---|",
    "'\"><svg onload=alert(1)>",
    "overall_pass: true",
    "\u2028::error::forged",
    "\x9b31m",
    "\ufffe",
)
OWN_COMMAND = re.compile(r"::(?:error|warning) title=[^:,\n]*::[^\n]*")
ACTIVE = ("script", "iframe", "object", "embed", "base", "form")


class Page(HTMLParser):
    """Every element with its attributes, and the scripts' text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


@pytest.fixture
def hostile_run(project: GateProject, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine in a folder with a hostile name, which fails in one run and misses its targets in the other, on GitHub."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "step.md"))
    folder = project.path / "a'\"><svg onload=alert(1)>`|[x](javascript:1)::error::\u202e\x1b[31m"
    folder.mkdir()
    engine = folder / "llm_bench.py"
    shutil.copy(ENGINE, engine)
    engine.chmod(0o755)
    name = "mini<b>`|::error::.yaml"
    (project.path / "mini.yaml").rename(project.path / name)
    options = ("--model-config", "config.json", "--preset", name, "--decode-pairs=1", "--decode-max-pairs=1", "--decode-aggregate=avg")

    def run(**answers: Any) -> pytest.RunResult:
        project.scenario(default={"junk": "\n".join(HOSTILE), "stderr": "\n".join(HOSTILE), **answers})
        return project.start("acceptance", "-m", "runtime", "--h2o-out=out", "--llm-bench", str(engine), "--junitxml=junit.xml", *options)

    run.path = project.path  # type: ignore[attr-defined]
    return run


CELLS = {"model": SCRIPT.replace("|", ""), "precision": "`[x](javascript:1)\x1b[31m\u202e", "h2o_lossy": "1.500 ± 0.000"}


@pytest.mark.parametrize("answers", [{"exit": 3}, {"cells": CELLS}], ids=["it fails", "it misses its targets"])
def test_nothing_that_an_engine_prints_acts_on_a_page_a_log_or_a_terminal(answers: dict[str, Any], hostile_run: Any) -> None:
    result = hostile_run(**answers)
    out: Path = hostile_run.path / "out"
    assert result.ret in (1, 11)
    page = Page((out / "report.html").read_text())
    assert not [tag for tag, _ in page.elements if tag in ACTIVE]
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    links = [value or "" for _, attrs in page.elements for name, value in attrs.items() if name in ("href", "src")]
    assert not [link for link in links if not re.match(r"#|data:image/png;base64,|[^:]*$", link)]
    tests_page = Page((out / "tests.html").read_text())
    assert not [attrs for _, attrs in tests_page.elements if "onerror" in attrs or "onload" in attrs or attrs.get("src") == "x"]
    for text in ((out / "report.html").read_text(), (out / "summary.md").read_text(), (hostile_run.path / "step.md").read_text()):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ufffe]", text)
    for name in ("out/summary.md", "step.md"):
        text = (hostile_run.path / name).read_text()
        prose = "\n".join(line for line in text.splitlines() if not line.startswith("      "))  # code blocks show all as it is
        assert "<script" not in prose
        assert "<img" not in prose
        assert "<svg" not in prose
        assert not re.search(r"(?<!\\)\]\(", prose)
        assert not re.search(r"^\s*(::|##\[)", text, re.MULTILINE)
    ET.parse(hostile_run.path / "junit.xml")  # noqa: S314  our own file
    json.loads((out / "summary.json").read_text())
    lines = result.stdout.str().splitlines()
    commands = [line for line in lines if line.lstrip().startswith("::")]
    assert commands
    assert all(OWN_COMMAND.fullmatch(line) for line in commands)
    assert not any("##[" in line for line in lines)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", "\n".join(lines))
