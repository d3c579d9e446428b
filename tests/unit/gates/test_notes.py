"""What is told beside a verdict: budgets nearly used up, gates without evidence, what is reported and never gated."""

from __future__ import annotations

from h2o_gate_plugin.gates.notes import notes_on

from .rows import NA, a_case, a_row, judged


def test_a_budget_that_is_nearly_used_up_is_told_and_a_broken_one_is_not() -> None:
    for wait_us, told in ((40_000.0, False), (40_001.0, True), (50_001.0, False)):
        case = a_case(a_row(h2o_lossless_async_wait_us=wait_us))
        notes = notes_on(case, (judged("async_wait_pass", case),))
        assert (notes == ("low headroom: async_wait_pass used 80% of its budget of 50000 us",)) is told


def test_gates_without_evidence_are_named_once() -> None:
    case = a_case(a_row(decode_tokens=None, prompt_kind=None))
    notes = notes_on(case, (judged("tokens_pass", case), judged("prompt_pass", case), judged("kv_exact_pass", case)))
    assert notes == ("unproven (--require-evidence makes it fail): tokens_pass, prompt_pass",)


def test_first_time_recall_is_reported_at_its_worst_row() -> None:
    silent = a_row(pair=2, recall_first_full=NA, recall_first_kv=NA)
    case = a_case(a_row(recall_first_full=0.9, recall_first_kv=0.1), a_row(recall_first_full=0.95, recall_first_kv=0.3), silent)
    (note,) = notes_on(case, ())
    assert note.endswith("pairs asked for the first time after eviction are recalled 0.10, with the full cache 0.90")
    worst_last = a_case(a_row(recall_first_full=0.95, recall_first_kv=0.3), a_row(recall_first_full=0.0, recall_first_kv=0.0))
    assert notes_on(worst_last, ())[0].endswith("are recalled 0.00, with the full cache 0.00")
    for half in ("recall_first_full", "recall_first_kv"):
        assert notes_on(a_case(a_row({half: 0.9})), ()) == ()
