"""Limits that no runtime could break are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.reach import refuse_unreachable
from h2o_gate_plugin.kv_options import suite_values

VALUES = suite_values({"kv_lossless_max_queue": 16}, "test")
BREAKABLE = {
    "min_lossy": (1.0, 1.01), "min_online_lossless": (0.9, 0.91), "min_resident": (0.0, 0.1), "min_joint_resident": (0.0, 0.1),
    "min_coverage": (0.0, 0.01), "min_top1": (0.0, 0.01), "min_recall": (0.0, 0.01),
    "min_recall_lead": (-1.0, -0.99), "min_decode_cache_reads": (0.0, 1.0),
    "max_decode_drop": (1.0, 0.99), "max_queue_peak": (16.0, 15.0), "max_missing_tokens": (128.0, 127.0),
    "max_decomp_us": (900e6, 899e6), "max_async_wait_us": (900e6, 899e6),
}  # fmt: skip


def refuse(**limits: float | None) -> None:
    refuse_unreachable("m3/joint_full-1", replace(Limits(origins={"min_lossy": "pack m3"}), **limits), VALUES, 128, 900.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BREAKABLE)
def test_a_limit_at_the_end_of_what_its_metric_can_reach_is_refused_and_one_inside_is_not(name: str) -> None:
    beyond, inside = BREAKABLE[name]
    refuse(**{name: inside})
    side, why = "<" if name.startswith("max") else ">", "[a-z][^;]+[a-z0-9]"
    line = rf"m3/joint_full-1: {name}: expected a limit {side} \S+ so that the gate can fail, got \S+: {why}; set another limit, or off$"
    with pytest.raises(ConfigError, match=line):
        refuse(**{name: beyond})


def test_the_line_says_where_the_limit_came_from_and_a_gate_that_is_off_is_no_matter() -> None:
    with pytest.raises(ConfigError, match=r"^pack m3: "):
        refuse(min_lossy=0.5)
    refuse(min_lossy=None, max_queue_peak=None)


def test_the_defaults_can_all_fail() -> None:
    refuse()
