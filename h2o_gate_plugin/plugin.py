"""The pytest plugin: options, markers, fixtures and the report. The pytest11 entry point alone registers it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from h2o_gate_plugin.bench.engine import Engine
from h2o_gate_plugin.errors import H2oGateError, printable
from h2o_gate_plugin.gates.checks import GATES
from h2o_gate_plugin.gates.evidence import OfflineEvidence
from h2o_gate_plugin.gates.result import GateResult
from h2o_gate_plugin.options import GROUPS, OPTIONS, Settings, group_of, resolve
from h2o_gate_plugin.report.model import PAGE_FILE, short_path
from h2o_gate_plugin.session.cases import GateCase
from h2o_gate_plugin.session.gate_run import CASE_FIXTURE, JUDGED, GateRun, packs_named
from h2o_gate_plugin.session.judged import JudgedCase
from h2o_gate_plugin.session.report_writer import ReportWriter
from h2o_gate_plugin.session.shipped_tests import ShippedTests
from h2o_gate_plugin.session.summary import candidate_logs

TESTS_FILE = "tests.html"
"""pytest-html's page, beside our own."""
GATE_MARKERS = {gate.marker: gate.about for gate in GATES.values()} | {"overall": "every enabled gate of a case holds"}
"""In the order in which the tests of a case run."""
NEEDS_PAIRS = ("decode_drop", "overall")
NEEDS_PEAK = ("resident", "overall")
NEEDS_DUMP = ("online_lossless", "overall")


RUN = pytest.StashKey[GateRun]()


def pytest_addoption(parser: pytest.Parser) -> None:
    groups = {name: parser.getgroup(name, heading) for name, heading in GROUPS.items()}
    for option in OPTIONS:
        groups[group_of(option)].addoption(
            option.flag, dest=f"h2o_{option.name}", metavar=option.metavar, default=None, help=option.help.replace("%", "%%")
        )
        parser.addini(option.ini, f"{option.flag}; environment {', '.join(option.env)}", type="string", default=None)


def _settings(config: pytest.Config) -> Settings:
    typed = {option.name: getattr(config.option, f"h2o_{option.name}") for option in OPTIONS}
    ini = {option.ini: config.getini(option.ini) for option in OPTIONS}
    ini_dir = config.inipath.parent if config.inipath is not None else config.rootpath
    return resolve(typed, os.environ, ini, config.invocation_params.dir, ini_dir)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """First, so that pytest-html finds where a gate run's page goes."""
    try:
        settings = _settings(config)
        for pack in settings.pack_names:
            config.addinivalue_line("markers", f"{pack}: acceptance tests of the pack {pack} (h2o-gate)")
        for marker, text in GATE_MARKERS.items():
            config.addinivalue_line("markers", f"{marker}: gate tests: {text} (h2o-gate)")
        run = GateRun(config, settings)
        config.stash[RUN] = run
        if run.packs:
            run.check()
            run.interrupts.install()
    except H2oGateError as err:
        raise pytest.UsageError(str(err)) from err
    if run.packs:
        config.pluginmanager.register(ShippedTests(), "h2o_gate_shipped_tests")
    _place_tests_page(config, run)
    if not run.is_worker:
        config.pluginmanager.register(ReportWriter(run), "h2o_gate_report")


def pytest_unconfigure(config: pytest.Config) -> None:
    if RUN in config.stash:
        config.stash[RUN].close()


def _place_tests_page(config: pytest.Config, run: GateRun) -> None:
    """pytest-html's page lies beside ours unless --html says where; it may not be ours. Raises pytest.UsageError."""
    runs = packs_named(str(config.option.markexpr), run.settings.pack_names) and not config.option.collectonly
    if not runs or not hasattr(config.option, "htmlpath"):  # no pack, or no pytest-html
        return
    typed = config.option.htmlpath
    if typed is None:
        config.option.htmlpath = str(run.out_dir / TESTS_FILE)
        config.option.self_contained_html = True
    elif run.cwd / typed == run.out_dir / PAGE_FILE:
        raise pytest.UsageError(
            f"command line --html: {typed}: expected another file than the gate report's own page; drop it, or write --html={TESTS_FILE}"
        )


def pytest_report_header(config: pytest.Config) -> list[str]:
    run = config.stash[RUN]
    if not run.packs:
        return ["h2o-gate: no pack selected (-m runtime, m3, final or prompts), acceptance tests run only when their path is typed"]
    engine = run.session.engine
    named = f"engine {engine.name}" if engine is not None else f"kept artifacts of {run.settings.from_dir}"
    lines = [f"h2o-gate: pack {', '.join(run.packs)}; {named}; report in {short_path(run.out_dir, run.cwd)}"]
    chosen = [
        f"{flag}={value} ({origin.removesuffix(f' {flag}')})" for flag, value, origin in run.settings.as_table() if origin != "default"
    ]
    lines += [f"h2o-gate: {', '.join(chosen)}"] if chosen else []
    return [printable(line) for line in lines]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that asks for ``h2o_case`` runs once per case, marked with the case's pack."""
    if CASE_FIXTURE not in metafunc.fixturenames:
        return
    try:
        cases = metafunc.config.stash[RUN].cases
    except H2oGateError as err:
        raise pytest.UsageError(str(err)) from err
    parameters = [pytest.param(case, id=case.id, marks=getattr(pytest.mark, case.pack)) for case in cases]
    metafunc.parametrize(CASE_FIXTURE, parameters, indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the gate tests that were asked for, a case's gates together, and plan what has to be measured for them."""
    run = config.stash[RUN]
    others = [item for item in items if _case_of(item) is None]
    gate_tests = [(item, case) for item in items if (case := _case_of(item)) is not None]
    kept = [(item, case) for item, case in gate_tests if case.pack in run.packs]
    dropped = [item for item, case in gate_tests if (item, case) not in kept]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    if kept:
        order = {case.id: index for index, case in enumerate(run.cases)}
        kept.sort(key=lambda pair: (order[pair[1].id], _gate_order(pair[0])))
        try:
            cases = tuple({case.id: case for _, case in kept}.values())
            decode, online, resident = (_any_marked(kept, markers) for markers in (NEEDS_PAIRS, NEEDS_DUMP, NEEDS_PEAK))
            run.session.plan_for(cases, decode, online, resident)
        except H2oGateError as err:
            raise pytest.UsageError(str(err)) from err
    items[:] = [*others, *(item for item, _ in kept)]


def _case_of(item: pytest.Item) -> GateCase | None:
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get(CASE_FIXTURE) if callspec is not None else None
    return case if isinstance(case, GateCase) else None


def _gate_order(item: pytest.Item) -> int:
    """Tests without a gate marker come last."""
    found = [index for index, marker in enumerate(GATE_MARKERS) if item.get_closest_marker(marker) is not None]
    return found[0] if found else len(GATE_MARKERS)


def _any_marked(kept: Sequence[tuple[pytest.Item, GateCase]], markers: Sequence[str]) -> bool:
    """A test without a gate marker may ask for any gate."""
    return any(
        _gate_order(item) == len(GATE_MARKERS) or any(item.get_closest_marker(marker) is not None for marker in markers) for item, _ in kept
    )


@pytest.fixture(scope="session")
def h2o_settings(pytestconfig: pytest.Config) -> Settings:
    """Every option of the group h2o-gate, and where its value came from."""
    return pytestconfig.stash[RUN].settings


@pytest.fixture(scope="session")
def h2o_engine(pytestconfig: pytest.Config) -> Engine | None:
    """The engine that is measured; None when kept artifacts are gated."""
    try:
        return pytestconfig.stash[RUN].session.engine
    except H2oGateError as err:
        raise pytest.UsageError(str(err)) from err


@pytest.fixture
def h2o_case(request: pytest.FixtureRequest) -> JudgedCase:
    """One case of the packs, measured (once per session) and ready to be judged."""
    run = request.config.stash[RUN]
    case: GateCase = request.param
    evidence = run.session.evidence(case)
    measurement = run.session.known(case)
    logs = () if measurement is None else tuple(short_path(Path(log), run.cwd) for log in candidate_logs(measurement))

    def record(gates: Sequence[GateResult]) -> None:
        run.record(request.node, case.id, gates)

    engine = run.session.engine if measurement is None else measurement.engine
    name = engine.name if isinstance(engine, Engine) else engine
    return JudgedCase(evidence, run.session.limits(case, name), run.session.offline, logs, record)


@pytest.fixture(scope="session")
def h2o_offline(pytestconfig: pytest.Config) -> OfflineEvidence:
    """The offline evaluator's ratios over the session's KV dump."""
    return pytestconfig.stash[RUN].session.offline()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send what the test judged along with its report; from xdist's workers it travels as plain data."""
    report = yield
    if report.when == "call" and JUDGED in item.stash:
        report.h2o_gates = [[case_id, dataclasses.asdict(gate)] for case_id, gate in item.stash[JUDGED]]  # type: ignore[attr-defined]
    return report
