"""A pytest plugin for one fault: in this process, what the offline evaluator encodes lacks the low byte of every word."""

from __future__ import annotations

import numpy as np

from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.planes import U16, Part

from .planting import replace

encode = GearV22.encode


def high_bytes_only(self: GearV22, tensor: U16, part: Part) -> bytes:
    return encode(self, tensor & np.uint16(0xFF00), part)


replace(GearV22, "encode", high_bytes_only)
