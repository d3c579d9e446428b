"""Reports for the tests of the renderers: a case with two gates, a traced run with four pairs, and what is laid over them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from h2o_gate_plugin.bench.table import BenchRow, Measure
from h2o_gate_plugin.bench.trace import InstanceTrace, KvBytes
from h2o_gate_plugin.gates.result import GateResult
from h2o_gate_plugin.gates.verdict import combine, overall_pass
from h2o_gate_plugin.report.model import Artifact, CaseReport, Report, RunReport, SpeedPair, SpeedPairs

OUT = Path("/out/run")
FOLDER = OUT / "cases" / "a b"
LOG = FOLDER / "logs" / "run_0001-candidate-1.log"
LOSSY = GateResult("lossy_pass", "PASS", 3.75, 3.0, "ratio", ">=", "worst row", "h2o_lossy", (f"prompt 512 gen 128 ({LOG.name}:3)",))
QUEUE = GateResult("runtime_queue_peak_pass", "PASS", 2.0, 8.0, "blocks", "<=", "worst row", "h2o_lossless_queue_peak")
ROW = BenchRow(str(LOG), 3, {}, 512, 2, Measure(2000.0, 5.0), Measure(200.0, 1.0), {"h2o_lossy": Measure(3.204, 0.0)})
TRACE = InstanceTrace(
    prompt_tokens=512,
    gen_tokens=2,
    agrees=True,
    range_layers=(1, 3),
    decode=KvBytes((512, 513, 514), (3 << 20, 4 << 20, 5 << 20), (3 << 20, 2 << 20, 2 << 20), (2 << 20,) * 3, (2 << 20, 1 << 20, 1 << 20)),
    end=KvBytes((514,), (5 << 20,), (2 << 20,), (2 << 20,), (1 << 19,)),
    kept=(((0, 514),), ((0, 4), (500, 514)), ((0, 4), (500, 514)), None),
    kl_by_position={"kv": (0.5, None), "random": (1.0, 2.0)},
)
PAIRS = (SpeedPair(1, 200.0, 190.0), SpeedPair(2, 200.0, 210.0), SpeedPair(3, 200.0, 200.0), SpeedPair(4, 200.0, 204.0))
SPEEDS = SpeedPairs(PAIRS, drop=-0.01, least=-0.04, most=0.03, limit=0.05)
RUN = RunReport("run_0001_p512_g2", 512, 2, SPEEDS, TRACE, None, (Artifact("config", FOLDER / "configs" / "c.json"),))


def make_case(*gates: GateResult, **changes: Any) -> CaseReport:
    gates = gates or (LOSSY, QUEUE)
    case = CaseReport(
        "m3/joint_full-1", "joint_full", 1, "m3", "full", overall_pass(gates), gates, (ROW,), (), (), FOLDER, (str(LOG),), (RUN,),
        (Artifact("measurement.json", FOLDER / "measurement.json"),),
    )  # fmt: skip
    return replace(case, **changes)


def make_report(*cases: CaseReport, **changes: Any) -> Report:
    cases = cases or (make_case(),)
    report = Report(
        overall_pass=combine((case.overall_pass for case in cases), complete=True),
        incomplete=None,
        pack="m3",
        engine={"name": "embedded"},
        host={"cpu": "a"},
        cases=cases,
        offline={},
        settings=(("--min-lossy", "3", "default"),),
        out_dir=OUT,
        kept_in=OUT,
        started_utc="2026-01-01T00:00:00Z",
        seconds=61.0,
        artifacts=(Artifact("summary.json", OUT / "summary.json"), Artifact("tests, by pytest-html", OUT.parent / "tests.html")),
    )
    return replace(report, **changes)
