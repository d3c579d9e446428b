"""Encoding of token groups on worker threads behind a bounded queue, or at once with no threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.codec import Codec, Part
from h2o_gate_plugin.kv.frame import pack, unpack
from h2o_gate_plugin.kv.layer import PARTS
from h2o_gate_plugin.kv.ledger import ResidentLedger
from h2o_gate_plugin.kv.words import U16
from h2o_gate_plugin.kv_options import KvDtype


@dataclass(frozen=True)
class EncodeJob:
    """A copy of one group: ``words`` u16 [n_tokens, n_kv_head, head_dim] for K and V. ``update``: 1, 2, … per layer; 0: final flush."""

    group: int
    layer: int
    start: int
    words: Mapping[Part, U16]
    dtype: KvDtype
    verify: bool
    keep_frames: bool
    update: int

    @property
    def n_tokens(self) -> int:
        return len(self.words["k"])

    @property
    def raw_bytes(self) -> int:
        return sum(words.nbytes for words in self.words.values())


@dataclass(frozen=True)
class EncodeOutcome:
    """``frames`` is empty unless the job keeps them. ``reason``: why the group is not compressed and exact, None when it is.

    Reasons: ``encode``, ``decode`` (CodecError there), ``mismatch`` (decoded bytes differ), ``expanded`` (frames no smaller than raw).
    Times are wall-clock microseconds: a codec that waits is as slow as one that computes.
    """

    job: EncodeJob
    frames: Mapping[Part, bytes]
    comp_bytes: int
    comp_us: float
    decomp_us: float
    reason: str | None
    detail: str = ""


def encode_group(job: EncodeJob, codec: Codec, ledger: ResidentLedger) -> EncodeOutcome:
    """Encode K and V, and compare what comes back bit for bit where the job asks for it. Only CodecError becomes a reason."""
    started = perf_counter()
    frames: dict[Part, bytes] = {}
    try:
        for part in PARTS:
            frames[part] = pack(codec, job.words[part], job.layer, part, job.start, job.dtype)
    except CodecError as err:
        return EncodeOutcome(job, {}, 0, _microseconds_since(started), 0.0, "encode", str(err))
    comp_us = _microseconds_since(started)
    comp_bytes = sum(len(frame) for frame in frames.values())
    ledger.add(job.layer, comp_bytes)
    started = perf_counter()
    reason, detail = _verify(job, frames, codec, ledger) if job.verify else (None, "")
    decomp_us = _microseconds_since(started) if job.verify else 0.0
    if reason is None and comp_bytes >= job.raw_bytes:
        reason = "expanded"
    kept = frames if job.keep_frames and reason is None else {}
    if not kept:
        ledger.remove(job.layer, comp_bytes)
    return EncodeOutcome(job, kept, comp_bytes, comp_us, decomp_us, reason, detail)


def _verify(job: EncodeJob, frames: Mapping[Part, bytes], codec: Codec, ledger: ResidentLedger) -> tuple[str | None, str]:
    for part in PARTS:
        try:
            decoded = unpack(frames[part], codec).tensor
        except CodecError as err:
            return "decode", str(err)
        ledger.add(job.layer, decoded.nbytes)
        same = np.array_equal(decoded, job.words[part])
        ledger.remove(job.layer, decoded.nbytes)
        if not same:
            return "mismatch", f"{part} differs after decoding"
    return None, ""


def _microseconds_since(started: float) -> float:
    return (perf_counter() - started) * 1e6


class EncodeQueue:
    """At most ``max_queue`` groups wait or are in work. Threads start with the first job and end in `close`.

    A job's copies, and the frames it keeps, are on the ledger until its outcome is collected; the frames stay there after it.
    """

    def __init__(self, codec: Codec, threads: int, max_queue: int, ledger: ResidentLedger) -> None:
        self._codec, self._threads, self._max_queue, self._ledger = codec, threads, max_queue, ledger
        self._executor: ThreadPoolExecutor | None = None
        self._jobs: deque[tuple[EncodeJob, Future[EncodeOutcome]]] = deque()
        self.peak_depth = 0
        self.wait_us = 0.0

    @property
    def depth(self) -> int:
        """Groups that wait or are in work."""
        return sum(not future.done() for _, future in self._jobs)

    @property
    def async_peak_depth(self) -> int:
        """The peak where threads do the work, else 0: then nothing ever waits."""
        return self.peak_depth if self._threads else 0

    @property
    def threads(self) -> int:
        return self._threads

    @property
    def full(self) -> bool:
        return self.depth >= self._max_queue

    def submit(self, job: EncodeJob) -> None:
        """Queue a job, or encode it here and now when there are no threads. Ask `full` first."""
        self._ledger.add(job.layer, job.raw_bytes)
        self.peak_depth = max(self.peak_depth, self.depth + 1)  # before it starts: it may be done in no time
        if self._threads:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="kv-encode")
            self._jobs.append((job, self._executor.submit(encode_group, job, self._codec, self._ledger)))
        else:
            done: Future[EncodeOutcome] = Future()
            done.set_result(encode_group(job, self._codec, self._ledger))
            self._jobs.append((job, done))

    def collect(self) -> Iterator[EncodeOutcome]:
        """The finished jobs, in the order of submission. An exception that is no CodecError is raised when its job is reached."""
        for _ in range(len(self._jobs)):
            job, future = self._jobs.popleft()
            if future.done():
                try:
                    yield future.result()
                finally:  # the copies live until the caller is done with them
                    self._ledger.remove(job.layer, job.raw_bytes)
            else:
                self._jobs.append((job, future))

    def wait_until_below(self, depth: int) -> None:
        """Wait until fewer than ``depth`` groups wait or are in work; the time counts in ``wait_us``."""
        if self.depth < depth:
            return
        started = perf_counter()
        while self.depth >= depth:
            wait([future for _, future in self._jobs if not future.done()], return_when=FIRST_COMPLETED)
        self.wait_us += (perf_counter() - started) * 1e6

    def close(self) -> None:
        """Drop what waits, let the groups in work end, and join the threads; the next job starts new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
