"""Every command in the documents is known to the program it names; the cheap ones run.

Commands that measure are not run here: their options, markers, targets and files are checked. Tests that run what a user types:
tests/unit/plugin/test_documents_run.py, test_ci_document.py, test_own_cases_document.py.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from h2o_gate_plugin import cli
from h2o_gate_plugin.bench.pack import PACKS
from h2o_gate_plugin.gates.checks import GATES

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md", *(ROOT / "h2o_gate_plugin").rglob("*.md")]
)
PROGRAMS = ("make", "pytest", "h2o-gate", "llm_bench", "python", "python3", "pip", "pipx", "uvx")
NOT_OURS = {
    "dask": "needs machines of a cluster",
    "source": "the shell's own",
    "eval": "the shell's own",
    "set": "the shell's own; tests/unit/plugin/test_ci_document.py runs the script",
    "bash": "the seed's script, which the line translates",
}
"""First words that are checked no further, and why."""
OF_ONE_S_OWN = {"kv": "docs/own-cases.md makes this pack"}
"""Markers that only a page's own example has."""
WRONG = (
    "pytest -m m3 --max-decmop-us=3",
    "pytest -m m33",
    "make m4",
    "h2o-gate swep --dry-run",
    "h2o-gate where --jsn",
    "h2o-gate sweep --preste …",
    "python benchmarks/none.py",
    "python benchmarks/codecs.py --no-such",
    "pip install 'pytest-h2o-gate[plot]'",
    "nonesuch x",
)
RUN = {"h2o-gate where", "h2o-gate where --json", "h2o-gate schema", "h2o-gate --version"}


@dataclass(frozen=True)
class Command:
    page: str
    text: str
    is_prose: bool = False
    """In running text a command is often named by its first words."""

    @property
    def words(self) -> list[str]:
        """Without the shell's redirection, comments and what an ellipsis stands for."""
        text = re.sub(r"\s[>|]\s.*", "", self.text)
        words = shlex.split(text, comments=True)
        while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", words[0]):
            words.pop(0)
        return [word for word in words if word not in ("…", "...")]

    @property
    def is_cut(self) -> bool:
        return self.is_prose or "…" in self.text or "..." in self.text


def blocks(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```([\w-]*)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands_of(page: Path) -> list[Command]:
    """Lines after `$` in console blocks, lines of shell blocks, and `run:` of workflows; then code in the running text."""
    text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
    found: list[str] = []
    for language, block in blocks(text):
        lines = block.replace("\\\n", " ").splitlines()
        if language == "console":
            found += [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        elif language in ("", "sh", "bash"):
            found += [line for line in lines if line.split(" ")[0] in PROGRAMS]
        elif language == "yaml":
            found += [line.partition("run: ")[2] for line in lines if re.match(r"\s*(- )?run: ", line)]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    named = [code for code in re.findall(r"`([^`\n]+)`", prose) if re.match(rf"({'|'.join(PROGRAMS)}) \S", code)]
    return [Command(name, line) for line in dict.fromkeys(found)] + [Command(name, line, is_prose=True) for line in dict.fromkeys(named)]


COMMANDS = [command for page in PAGES for command in commands_of(page)]


def test_commands_are_found_on_the_pages_that_have_them() -> None:
    assert {"README.md", "docs/ci.md", "docs/own-cases.md", "docs/prompts.md"} <= {command.page for command in COMMANDS}
    assert len(COMMANDS) > 60


def test_a_typing_error_would_be_found(pytestconfig: pytest.Config) -> None:
    for line in WRONG:
        assert faults(Command("page", line), pytestconfig), line


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.text}")
def test_every_command_is_one_that_its_program_takes(command: Command, pytestconfig: pytest.Config) -> None:
    assert faults(command, pytestconfig) == []


@pytest.mark.parametrize("text", sorted(RUN))
def test_cheap_commands_run(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(shlex.split(text)[1:])
    except SystemExit as done:
        code = done.code  # type: ignore[assignment]
    assert code == 0
    assert capsys.readouterr().out


def faults(command: Command, config: pytest.Config) -> list[str]:
    words = command.words
    if not words or words[0] in NOT_OURS:
        return []
    program, rest = words[0], words[1:]
    if program in ("pipx", "uvx"):
        rest = rest[rest.index("h2o-gate") + 1 :]
        program = "h2o-gate"
    checks = {"make": _make, "h2o-gate": _h2o_gate, "pip": _pip, "python": _python, "python3": _python, "llm_bench": _llm_bench}
    if program == "pytest":
        return _pytest(rest, config)
    if program not in checks:
        return [f"{program}: no program that is known here"]
    return checks[program](command, rest)


def _make(command: Command, words: list[str]) -> list[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {name for line in re.findall(r"^([a-z0-9 -]+):(?!=)", makefile, flags=re.MULTILINE) for name in line.split()}
    variables = set(re.findall(r"^([A-Z_]+) *[?:]?=", makefile, flags=re.MULTILINE))
    return [word for word in words if word.partition("=")[0] not in (variables if "=" in word else targets)]


def _h2o_gate(command: Command, words: list[str]) -> list[str]:
    """A line that is cut short is checked up to the subcommand, and its options by name."""
    parser = cli._parser()
    if not command.is_cut:
        try:
            parser.parse_args(words)
        except SystemExit as done:
            return [f"ends with {done.code}"] if done.code else []
        return []
    subcommands = next(action.choices for action in parser._actions if isinstance(action.choices, dict))
    if words[0] not in subcommands:
        return [words[0]]
    known = subcommands[words[0]]._option_string_actions
    return [word for word in words[1:] if word.startswith("-") and word.partition("=")[0] not in known]


def _pytest(words: list[str], config: pytest.Config) -> list[str]:
    """The parser of this very session, which has the plugin's options."""
    options, unknown = config._parser.parse_known_and_unknown_args(words)
    markers = {line.partition(":")[0].partition("(")[0] for line in config.getini("markers")}
    known = {*PACKS, *(gate.marker for gate in GATES.values()), *markers, *OF_ONE_S_OWN, "PACK", "NAME"}
    named = set(re.findall(r"\w+", options.markexpr or "")) - {"and", "or", "not"}
    return [word for word in unknown if word.startswith("-")] + sorted(named - known)


def _pip(command: Command, words: list[str]) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {extra for word in words for names in re.findall(r"\[([\w,-]+)\]", word) for extra in names.split(",")}
    return sorted(extras - set(project["optional-dependencies"]))


def _python(command: Command, words: list[str]) -> list[str]:
    """Of a script that there is, every option stands in its text; the seed's scripts are named, and are not here."""
    if words[0] == "-m":
        return [] if importlib.util.find_spec(words[1]) else [words[1]]
    file = ROOT / words[0]
    if words[0].startswith("exp/h2o_v5/"):
        return []
    if not file.is_file():
        return [words[0]]
    text = file.read_text(encoding="utf-8")
    return [word for word in words[1:] if word.startswith("--") and f'"{word.partition("=")[0]}"' not in text]


def _llm_bench(command: Command, words: list[str]) -> list[str]:
    text = (ROOT / "h2o_gate_plugin" / "runtime" / "arguments.py").read_text(encoding="utf-8")
    return [word for word in words if word.startswith("-") and f'"{word}"' not in text]


def test_the_site_s_navigation_has_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"^ +- (?:.*: )?([\w./-]+\.md)$", text, flags=re.MULTILINE))
    assert {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").glob("*.md")} <= named
