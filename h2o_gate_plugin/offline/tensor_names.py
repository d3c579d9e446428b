"""Which layer's K or V a tensor is, by its name: the stem of a .npy file or the name of a tensor in a safetensors file."""

from __future__ import annotations

import re
from typing import NamedTuple

from h2o_gate_plugin.kv.planes import Part

PATTERNS: tuple[tuple[str, str], ...] = (
    (r"(?:.*[._])?layers?[._](?P<layer>\d{1,6})[._](?:.*[._])?(?P<part>k|v|keys?|values?)(?:_cache|_states)?", "layer_0_k, layers.0.key"),
    (r"(?:.*[._])?(?P<part>k|v|keys?|values?)(?:_cache|_states)?[._](?P<layer>\d{1,6})", "k_0, keys_0, key_cache.0"),
    (r"(?:past_key_values|past|present)[._](?P<layer>\d{1,6})[._](?P<part>keys?|values?)", "past_key_values.0.key"),
)
"""Whole names, upper or lower case, with ``.`` or ``_`` between their words; an example of each."""

EXAMPLES = ", ".join(example for _, example in PATTERNS)

_COMPILED = tuple(re.compile(pattern, re.IGNORECASE) for pattern, _ in PATTERNS)
_DTYPE_END = re.compile(r"[._](?P<dtype>fp16|bf16)$", re.IGNORECASE)


class TensorName(NamedTuple):
    """``dtype``: what the name says of 16-bit words (``…_bf16``), None where it says nothing."""

    layer: int
    part: Part
    dtype: str | None


def parse_tensor_name(name: str) -> TensorName | None:
    """None for a name that no pattern knows: a weight, a position table."""
    end = _DTYPE_END.search(name)
    core = name[: end.start()] if end else name
    for pattern in _COMPILED:
        match = pattern.fullmatch(core)
        if match:
            part: Part = "k" if match["part"][0] in "kK" else "v"
            return TensorName(int(match["layer"]), part, end["dtype"].lower() if end else None)
    return None
