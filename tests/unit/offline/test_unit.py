"""One unit of a dump: what `measure_unit` takes and gives can travel, and a codec with state sees K and V chunk after chunk."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from h2o_gate_plugin.kv.dump import read_dump
from h2o_gate_plugin.kv.planes import U16, Part, Shape
from h2o_gate_plugin.kv_options import KvDtype
from h2o_gate_plugin.offline.coding import PlaneModes, codec_for
from h2o_gate_plugin.offline.evaluator import evaluate
from h2o_gate_plugin.offline.selection import Unit, select, units
from h2o_gate_plugin.offline.settings import CodecMode, EntryMode, EvaluatorSettings
from h2o_gate_plugin.offline.unit import measure_unit

GROUPED = EvaluatorSettings(entry_mode="chunked_grouped", online_chunk_seq=50, online_framing_bytes=8)


def units_of(folder: Path, settings: EvaluatorSettings) -> tuple[Unit, ...]:
    return units(select(read_dump(folder).entries, settings), settings)


@pytest.mark.parametrize("codec_mode", ["legacy", "adaptive_v22", "kv_fast", "kv_max"])
def test_the_measuring_function_and_its_result_survive_pickling(dump_dir: Path, codec_mode: CodecMode) -> None:
    settings = EvaluatorSettings(codec_mode=codec_mode)
    measure = partial(measure_unit, settings=settings, codec=codec_for(settings))
    unit = units_of(dump_dir, settings)[0]
    assert pickle.loads(pickle.dumps(measure))(unit) == pickle.loads(pickle.dumps(measure(unit)))  # noqa: S301  our own bytes


def test_a_unit_is_measured_the_same_whatever_was_measured_before(dump_dir: Path) -> None:
    settings = EvaluatorSettings(entry_mode="aggregate")
    measure = partial(measure_unit, settings=settings, codec=codec_for(settings))
    listed = units_of(dump_dir, settings)
    assert [measure(unit) for unit in listed] == [measure(unit) for unit in reversed(listed)][::-1]


@dataclass
class Coder:
    """K as its difference from the sequence's last K, V as its difference from K: both need what came before."""

    last: U16 | None = None
    seen: list[int] = field(default_factory=list)

    def encode(self, keys: U16, values: U16) -> tuple[bytes, bytes]:
        payloads = (keys - self._base(keys.shape)).tobytes(), (values - keys).tobytes()
        self._next(keys)
        return payloads

    def decode(self, k_payload: bytes, v_payload: bytes, shape: Shape) -> tuple[U16, U16]:
        keys: U16 = np.frombuffer(k_payload, dtype=np.uint16).reshape(shape) + self._base(shape)
        self._next(keys)
        return keys, np.frombuffer(v_payload, dtype=np.uint16).reshape(shape) + keys

    def _base(self, shape: tuple[int, ...]) -> U16:
        return np.zeros(shape[1:], dtype=np.uint16) if self.last is None else self.last

    def _next(self, keys: U16) -> None:
        self.last = keys[-1]
        self.seen.append(len(keys))


@dataclass
class RememberingCodec:
    """Keeps the coders that it gave out."""

    name: str = "remembering"
    given: list[Coder] = field(default_factory=list)

    def encoder(self, dtype: KvDtype) -> Coder:
        self.given.append(Coder())
        return self.given[-1]

    def decoder(self) -> Coder:
        return self.encoder("fp16")

    def plane_modes(self, payload: bytes, n_seq: int, part: Part) -> PlaneModes:
        return (), ()

    def stored_planes(self, payload: bytes, n_seq: int, part: Part) -> None:
        return None


def test_a_codec_with_state_gets_one_encoder_and_one_decoder_per_sequence_and_the_chunks_in_order(dump_dir: Path) -> None:
    codec = RememberingCodec()
    result = evaluate(dump_dir, GROUPED, codec=codec)
    assert result.skip_reasons == {}
    assert result.compressed_bytes == result.raw_bytes + result.framing_bytes
    assert [coder.seen for coder in codec.given] == [[50, 50, 14]] * 8  # 4 groups of 114 tokens, an encoder and a decoder each


@pytest.mark.parametrize("mode", ["per_meta", "aggregate", "chunked", "chunked_grouped"])
@pytest.mark.parametrize("codec_mode", ["kv_fast", "kv_max"])
def test_our_own_codecs_are_measured_in_every_entry_mode(dump_dir: Path, codec_mode: CodecMode, mode: EntryMode) -> None:
    settings = EvaluatorSettings(entry_mode=mode, online_chunk_seq=50, codec_mode=codec_mode)
    result = evaluate(dump_dir, settings)
    assert result.skip_reasons == {}
    assert all(row.bound_ratio is None and not row.above_bound for row in result.layers)
    assert result.raw_bytes == evaluate(dump_dir, replace(settings, codec_mode="adaptive_v22")).raw_bytes
