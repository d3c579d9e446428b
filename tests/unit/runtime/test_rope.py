from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.rope import LinearScaling, Llama3Scaling, Rope, read_rope, rope_frequencies

PATH = Path("model/config.json")
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA3_READ = Llama3Scaling(32.0, 1.0, 4.0, 8192)


def test_plain_frequencies_are_powers_of_theta() -> None:
    np.testing.assert_allclose(rope_frequencies(Rope(100.0), 4), [1.0, 0.1], rtol=1e-6)


def test_linear_scaling_divides_every_frequency() -> None:
    np.testing.assert_allclose(rope_frequencies(Rope(100.0, LinearScaling(4.0)), 4), [0.25, 0.025], rtol=1e-6)


def test_llama3_scaling_leaves_short_wavelengths_divides_long_ones_and_ramps_between() -> None:
    plain = rope_frequencies(Rope(500000.0), 64).astype(np.float64)
    scaled = rope_frequencies(Rope(500000.0, LLAMA3_READ), 64)
    assert scaled.dtype == np.float32
    wavelengths = 2 * math.pi / plain
    short, long = wavelengths < 8192 / 4, wavelengths > 8192 / 1
    ramp = ~short & ~long
    assert min(short.sum(), long.sum(), ramp.sum()) >= 3
    np.testing.assert_allclose(scaled[short], plain[short], rtol=1e-6)
    np.testing.assert_allclose(scaled[long], plain[long] / 32, rtol=1e-6)
    smooth = (8192 / wavelengths[ramp] - 1) / 3
    np.testing.assert_allclose(scaled[ramp], (1 - smooth) * plain[ramp] / 32 + smooth * plain[ramp], rtol=1e-5)


@pytest.mark.parametrize(
    ("raw", "rope"),
    [
        ({"rope_theta": 1e6}, Rope(1e6)),
        ({"rope_theta": 10000, "rope_scaling": None, "rope_parameters": {}}, Rope(1e4)),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "default"}}, Rope(1e4)),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4}}, Rope(1e4, LinearScaling(4.0))),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 4.0}}, Rope(1e4, LinearScaling(4.0))),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, Rope(5e5, LLAMA3_READ)),
        ({"rope_parameters": {"rope_theta": 777.0}}, Rope(777.0)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 1.0}}, Rope(777.0)),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}, Rope(5e5, LLAMA3_READ)),
        ({"rope_theta": 5e5, "rope_parameters": LLAMA3}, Rope(5e5, LLAMA3_READ)),
        ({"rope_theta": 5e5, "rope_parameters": LLAMA3 | {"rope_theta": 5e5}, "rope_scaling": LLAMA3}, Rope(5e5, LLAMA3_READ)),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 5e5}, "original_max_position_embeddings": 8192}, Rope(5e5, LLAMA3_READ)),
    ],
)
def test_both_styles_of_config_are_read(raw: dict[str, Any], rope: Rope) -> None:
    assert read_rope(raw, PATH) == rope


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("word", ["rope_type", "type"])
@pytest.mark.parametrize("kind", ["yarn", "dynamic", "longrope", "mrope", 3])
def test_another_rope_type_is_refused_by_name(key: str, word: str, kind: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{key}\.{word}: expected default, linear, llama3, got {kind!r}; this engine knows no other"):
        read_rope({"rope_theta": 1e4, key: {word: kind, "factor": 2.0}}, PATH)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": None}, r"rope_scaling\.factor: expected a number > 0, got None"),
        ({"factor": "8"}, r"rope_scaling\.factor: expected a number > 0, got '8'"),
        ({"low_freq_factor": 0}, r"rope_scaling\.low_freq_factor: expected a number > 0, got 0"),
        ({"high_freq_factor": 1.0}, r"rope_scaling\.high_freq_factor: expected more than low_freq_factor \(1\), got 1"),
        ({"original_max_position_embeddings": None}, r"rope_scaling\.original_max_position_embeddings: expected an integer >= 1, got None"),
        ({"original_max_position_embeddings": 8192.0}, r"original_max_position_embeddings: expected an integer >= 1, got 8192\.0"),
        ({"attention_factor": 1.2}, r"rope_scaling\.attention_factor: expected no such key for rope type llama3, got 1\.2"),
        ({"type": "linear"}, r"rope_scaling\.type: expected 'llama3' as in rope_type, got 'linear'; remove"),
        ({"partial_rotary_factor": 0.5}, r"rope_scaling\.partial_rotary_factor: expected 1\.0 or absent .*, got 0\.5"),
        ({"rope_theta": 7.0}, r"config\.json: rope_theta: expected 7 as in rope_scaling, got 10000\.0; remove"),
    ],
)
def test_a_wrong_number_or_a_key_that_is_not_read_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_rope({"rope_theta": 1e4, "rope_scaling": LLAMA3 | changes}, PATH)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, r"config\.json: rope_theta: expected a number > 0, got None; 10000\.0 is what"),
        ({"rope_theta": -1.0}, r"config\.json: rope_theta: expected a number > 0, got -1\.0"),
        ({"rope_parameters": {"rope_type": "default"}}, r"config\.json: rope_theta: expected a number > 0, got None"),
        ({"rope_theta": 1e4, "rope_scaling": "linear"}, r"rope_scaling: expected an object or null, got 'linear'"),
        (
            {"rope_theta": 1e4, "rope_scaling": {"factor": 8.0}},
            r"rope_scaling\.factor: expected no such key for rope type default, got 8\.0",
        ),
        (
            {"rope_theta": 1e4, "rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            r"rope_parameters\.full_attention: expected no such",
        ),
        ({"rope_theta": 1e4, "partial_rotary_factor": 0.5}, r"config\.json: partial_rotary_factor: expected 1\.0 or absent .*, got 0\.5"),
        (
            {"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
            r"config\.json: rope_scaling: expected the same as rope_parameters, got .*linear.*; remove the wrong one",
        ),
        (
            {"rope_theta": 1e4, "rope_scaling": LLAMA3, "original_max_position_embeddings": 4096},
            r"config\.json: original_max_position_embeddings: expected 8192 as in rope_scaling, got 4096; remove",
        ),
    ],
)
def test_missing_and_contradicting_keys_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_rope(raw, PATH)
