"""One pytest session's state: settings, cases, measurements, and what the tests judged."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.begun import run_facts
from h2o_gate_plugin.bench.pack import PACKS
from h2o_gate_plugin.bench.progress_event import ProgressEvent
from h2o_gate_plugin.bench.run_folder import run_folder
from h2o_gate_plugin.bench.run_plan import plans_key
from h2o_gate_plugin.gates.result import GateResult
from h2o_gate_plugin.interrupts import Interrupts
from h2o_gate_plugin.options import Settings
from h2o_gate_plugin.progress import PROGRESS_FILE, PlainLines, Position, append_event, event_object
from h2o_gate_plugin.report.model import short_path
from h2o_gate_plugin.report.plain_text import encodable, printable, without_commands
from h2o_gate_plugin.session.cases import (
    GateCase,
    load_cases,
    refuse_changed_packs,
    refuse_foreign_packs,
    refuse_gates_that_cannot_fail,
    refuse_unused_prompts,
)
from h2o_gate_plugin.session.measuring import AcceptanceSession, chosen_engine
from h2o_gate_plugin.session.run_folder import RunFolder

CASE_FIXTURE = "h2o_case"
OUT_FLAG = "--h2o-out"
JUDGED = pytest.StashKey[list[tuple[str, GateResult]]]()
"""On a test: the cases and gates that it judged."""


class GateRun:
    """``packs``: those named by -m; all when gate tests were typed by their path; else none. A worker of xdist has a run of its own."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.cwd = config.invocation_params.dir
        self.settings = settings
        self.is_worker = hasattr(config, "workerinput")
        self.packs = self._choose_packs()
        self.started = datetime.now(UTC)
        self.start_clock_s = time.monotonic()
        place = None if settings.out_dir is None else settings.origins["out_dir"]
        self._folder = RunFolder(self._choose_out_dir(), place)
        self.interrupts = Interrupts()
        self._lines = PlainLines(self._write_uncaptured)
        self.followed = False
        """Whether somebody follows the progress file and shows what is in it."""
        self._cases: tuple[GateCase, ...] | None = None
        self._session: AcceptanceSession | None = None

    def _choose_packs(self) -> tuple[str, ...]:
        if self.is_worker:
            return tuple(self.config.workerinput["h2o_packs"])  # type: ignore[attr-defined]
        named = packs_named(str(self.config.option.markexpr), self.settings.pack_names)
        return named or (self.settings.pack_names if _gate_tests_typed(self.config) else ())

    def _choose_out_dir(self) -> Path:
        if self.is_worker:
            return Path(self.config.workerinput["h2o_out_dir"])  # type: ignore[attr-defined]
        if self.settings.out_dir is not None:
            return self.settings.out_dir
        return run_folder(self.cwd, "+".join(self.packs) or "packs", self.started)

    @property
    def out_dir(self) -> Path:
        return self._folder.path

    @property
    def earlier_parts(self) -> tuple[str, ...]:
        """When the earlier parts of a run that goes on here were started (UTC)."""
        return self._folder.parts

    @property
    def resume_command(self) -> str:
        """What goes on with this run: the words that were typed, with its folder."""
        words = [str(word) for word in self.config.invocation_params.args]
        typed = [word for before, word in zip(["", *words], words, strict=False) if before != OUT_FLAG and word != OUT_FLAG]
        kept = (word for word in typed if not word.startswith(f"{OUT_FLAG}="))
        return shlex.join(["pytest", *kept, f"{OUT_FLAG}={short_path(self.out_dir, self.cwd)}"])

    def close(self) -> None:
        """The folder is free for other runs, gone where nothing was run; signals do what they did before."""
        self._folder.release()
        self.interrupts.uninstall()

    def check(self) -> None:
        """Everything that can be refused before a test runs. Raises H2oGateError."""
        refuse_changed_packs(self.settings, self.packs)
        refuse_foreign_packs(self.settings, self.packs)
        if not self.is_worker:
            self._folder.refuse_finished()
        chosen = [case for case in self.cases if case.pack in self.packs]
        refuse_gates_that_cannot_fail(self.settings, chosen)
        refuse_unused_prompts(self.settings, chosen)
        _ = self.session.decode_baseline  # from another host, it is refused
        if not self.is_worker and not self.config.option.collectonly:
            self._folder.claim(self._facts(chosen), self.started)
            self.session.out_dir = self.out_dir

    def _facts(self, chosen: Sequence[GateCase]) -> dict[str, Any]:
        """What must be the same for this run to go on; where kept artifacts are judged nothing is measured, and nothing goes on."""
        if (engine := self.session.engine) is None:
            return {"packs": list(self.packs), "from": str(self.settings.from_dir)}
        return {
            "packs": list(self.packs),
            "plan_sha256": plans_key(case.plan for case in chosen if case.plan is not None),
            **run_facts(engine),
        }

    @property
    def cases(self) -> tuple[GateCase, ...]:
        if self._cases is None:
            self._cases = load_cases(self.settings)
        return self._cases

    @property
    def session(self) -> AcceptanceSession:
        if self._session is None:
            self._session = AcceptanceSession(self.settings, chosen_engine(self.settings), self.out_dir, self.tell)
        return self._session

    def tell(self, position: Position, event: ProgressEvent) -> None:
        """Append to the progress file; show it when this process owns the terminal and nobody follows the file."""
        document = event_object(position, event)
        with suppress(OSError):  # a disk that is full stops what is measured, by name, and not what is told of it
            append_event(self.out_dir / PROGRESS_FILE, document)
        if not self.is_worker and not self.followed:
            self._lines.tell(document)

    def _write_uncaptured(self, line: str) -> None:
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        with nullcontext() if capture is None else capture.global_and_fixture_disabled():
            self.write(line)

    def write(self, line: str) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self.config.option.verbose >= 0:
            reporter.ensure_newline()
            if reporter._tw.width_of_current_line:  # dots that xdist wrote, of which ensure_newline does not know
                reporter._tw.line()
            encoding = getattr(reporter._tw._file, "encoding", None) or "utf-8"
            reporter.write_line(without_commands(encodable(printable(line), encoding)))
            reporter.flush()

    def record(self, item: pytest.Item, case_id: str, gates: Sequence[GateResult]) -> None:
        """Remember with the test what it judged; junit gets it as properties."""
        item.stash.setdefault(JUDGED, []).extend((case_id, gate) for gate in gates)
        if ("h2o_case", case_id) not in item.user_properties:
            item.user_properties.append(("h2o_case", case_id))
        for gate in gates:
            for name in ("status", "value", "limit", "margin", "unit", "limit_origin"):
                value = getattr(gate, name)
                item.user_properties.append((f"{gate.name}.{name}", "" if value is None else value))


def packs_named(markexpr: str, packs: Sequence[str] = PACKS) -> tuple[str, ...]:
    """`m3 and lossy` names m3; `not m3` names nothing."""
    named = re.sub(r"\bnot\s+\w+", "", markexpr)
    return tuple(pack for pack in packs if re.search(rf"\b{pack}\b", named))


def _gate_tests_typed(config: pytest.Config) -> bool:
    """Whether gate tests were typed by their file or their own folder; `pytest tests` is no wish for an hour of measuring."""
    words = (str(argument).partition("::")[0] for argument in config.invocation_params.args)
    paths = [config.invocation_params.dir / word for word in words if word and not word.startswith("-")]
    files = [file for path in paths for file in (sorted(path.glob("*.py")) if path.is_dir() else [path])]
    sources = (file.read_text(encoding="utf-8", errors="replace") for file in files if file.suffix == ".py" and file.is_file())
    return any(CASE_FIXTURE in source for source in sources)
