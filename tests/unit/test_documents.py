"""The documents name what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from h2o_gate_plugin.bench_columns import EVIDENCE_COLUMNS
from h2o_gate_plugin.gates.result import GATE_NAMES
from h2o_gate_plugin.options import CASE_BUDGETS, OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "h2o_gate_plugin" / "models").rglob("*.md")])


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flag)
def test_the_options_page_has_every_option_with_its_ini_key_and_environment_names(option: object) -> None:
    line = next(line for line in (ROOT / "docs" / "options.md").read_text(encoding="utf-8").splitlines() if f"`{option.flag}=" in line)  # type: ignore[attr-defined]
    for name in (option.ini, *option.env):  # type: ignore[attr-defined]
        assert f"`{name}`" in line


def test_the_options_page_has_no_option_that_is_gone() -> None:
    named = set(re.findall(r"^\| `(--[a-z0-9-]+)=", (ROOT / "docs" / "options.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {option.flag for option in OPTIONS}


def test_the_options_page_has_every_case_budget() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert all(f"`{budget.env}`" in page for budget in CASE_BUDGETS)


def test_the_gates_page_explains_every_gate() -> None:
    page = (ROOT / "docs" / "gates.md").read_text(encoding="utf-8")
    assert all(f"**{name}**" in page for name in (*GATE_NAMES, "overall_pass"))


def test_the_contract_page_has_every_evidence_column() -> None:
    page = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    assert all(column.name in page for column in EVIDENCE_COLUMNS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []
