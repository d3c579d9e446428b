"""The planted faults cover the catalogue of known defects, and docs/faults.md shows every one of them."""

from __future__ import annotations

import re
from pathlib import Path

from h2o_gate_plugin.gates.result import GATE_NAMES

from ..faults.catalogue import CONTROLS, FAULTS
from ..faults.faulty_llm_bench import NO_FAULT, PLANTS
from ..faults.gate_runs import REFUSED, SETTINGS

REPOSITORY = Path(__file__).parents[2]
DEFECTS = {f"D{number}" for number in range(1, 30)} | {f"X{number}" for number in range(1, 9)}


def test_every_known_defect_has_a_planted_fault() -> None:
    planted = {known for fault in FAULTS for known in fault.ids}
    assert planted >= DEFECTS, f"without a fault: {sorted(DEFECTS - planted)}"


def test_every_fault_has_a_name_of_its_own_a_line_a_gate_and_a_control() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
    for fault in FAULTS:
        assert fault.planted.endswith("."), fault.name
        assert fault.expected, fault.name
        assert set(fault.expected) <= {*GATE_NAMES, REFUSED}, fault.name
        assert fault.control in CONTROLS, fault.name


def test_every_gate_is_turned_red_by_a_fault() -> None:
    red = {name for fault in FAULTS for name in fault.expected}
    assert not set(GATE_NAMES) - red


def test_every_plant_of_the_engine_is_used() -> None:
    used = {fault.name for fault in FAULTS} | {"baseline_on_loaded_machine", NO_FAULT}
    assert set(PLANTS) <= used


def test_the_document_shows_every_fault_with_its_ids_and_gates() -> None:
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in _document().splitlines() if line.startswith("| ")}
    for fault in FAULTS:
        assert fault.name in rows, f"docs/faults.md lacks {fault.name}: make faults-table"
        for words in (", ".join(fault.ids), fault.planted, *(name for name in fault.expected)):
            assert words in rows[fault.name], f"docs/faults.md: {fault.name}: expected {words!r}: make faults-table"


def test_the_document_shows_no_fault_that_is_gone() -> None:
    shown = re.findall(r"^\| (\w+) \| [DXY]\d", _document(), flags=re.MULTILINE)
    assert set(shown) == {fault.name for fault in FAULTS}


def test_no_module_of_the_package_knows_of_the_faults() -> None:
    sources = [*(REPOSITORY / "h2o_gate_plugin").rglob("*.py"), *SETTINGS.glob("*.yaml")]
    assert not [path for path in sources if "faulty_llm_bench" in path.read_text(encoding="utf-8")]


def _document() -> str:
    return (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8")
