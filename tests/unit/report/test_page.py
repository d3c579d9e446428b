"""report.html: structure, text alternatives, escaping, nothing from outside. Values are tested where they are data."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from h2o_gate_plugin.gates.result import GATE_NAMES
from h2o_gate_plugin.report.matrix import failed_gates
from h2o_gate_plugin.report.model import Artifact, FailedProcess, Report
from h2o_gate_plugin.report.next_steps import failures_of, judge_again
from h2o_gate_plugin.report.page import page
from h2o_gate_plugin.report.png import bitmap_png

from .reports import FOLDER, LOG, LOSSY, OUT, QUEUE, RUN, TRACE, make_case, make_report

EVIL = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>"
VOID = {"meta", "wbr", "br", "img", "path", "rect", "circle", "image"}


class Elements(HTMLParser):
    """Every start tag with its attributes; raises for a tag that closes what is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def made(report: Report | None = None) -> str:
    return page(report or make_report(), OUT.parent)


def failing() -> Report:
    process = FailedProcess(f"candidate run_0001: {EVIL}", "exit code 3", ("bench", EVIL), 1.5, (EVIL,), LOG)
    broken = make_case(
        replace(LOSSY, status="FAIL", value=1.0, reason=EVIL, source=EVIL, confidence=EVIL, limit_origin=EVIL),
        id=EVIL,
        notes=(EVIL,),
        runtime_mode=EVIL,
        failures=(process,),
        measured_runs=(replace(RUN, run_id=EVIL, trace=None, trace_gap=EVIL),),
        artifacts=(Artifact(EVIL, OUT / EVIL),),
    )
    offline = {"online_sim": {"layers": [{"layer": EVIL, "part": "x", "lossless_ratio": 1.0}]}}
    return make_report(
        broken, engine={"name": EVIL}, pack="m3", host={"cpu": EVIL}, settings=((EVIL, EVIL, EVIL),), incomplete=EVIL, offline=offline
    )


@pytest.mark.parametrize("report", [make_report(), failing(), make_report(make_case(), make_case(id="m3/joint_store-1"))])
def test_every_tag_is_closed_and_every_id_is_there_once_and_where_it_is_named(report: Report) -> None:
    elements = Elements(made(report))
    ids = Counter(attributes["id"] for _, attributes in elements.found if "id" in attributes)
    assert set(ids.values()) == {1}
    named = [word for _, attributes in elements.found for word in (attributes.get("aria-labelledby") or "").split()]
    targets = [href[1:] for attributes in elements.named("a") if (href := attributes["href"] or "").startswith("#")]
    assert named
    assert targets
    assert set(named + targets) <= set(ids)


def test_the_verdict_comes_first_and_reads_without_colour() -> None:
    assert "✓</span> PASS</p>" in made(make_report(make_case(), overall_pass=True))
    text = made(failing())
    assert text.index("✗</span> FAIL</p>") < text.index("<table")
    assert "◐</span> NOT JUDGED</p>" in made(make_report(overall_pass=None, incomplete="interrupted"))


def test_outside_strings_cannot_become_markup() -> None:
    elements = Elements(made(failing()))
    assert elements.named("script") == elements.named("img") == []
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)


def test_the_page_stands_alone_and_its_links_are_relative() -> None:
    text = made(make_report(make_case(), make_case(id="m3/joint_store-1")))
    assert "://" not in text
    assert not re.search(r"url\(|@import|@font-face", text)
    elements = Elements(text)
    assert elements.named("link") == elements.named("script") == elements.named("iframe") == []
    hrefs = [href for attributes in elements.named("a") if not (href := attributes["href"] or "").startswith("#")]
    assert "cases/a%20b/measurement.json" in hrefs
    assert "../tests.html" in hrefs
    assert not any(href.startswith(("/", "file")) for href in hrefs)
    assert all((attributes["href"] or "").startswith("data:image/png;base64,") for attributes in elements.named("image"))


def test_the_page_serves_keyboard_screen_reader_and_small_screens() -> None:
    elements = Elements(made())
    assert elements.named("html")[0]["lang"] == "en"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in elements.named("meta")
    assert elements.named("a")[0] == {"class": "skip", "href": "#main"}
    assert all("scope" in attributes for attributes in elements.named("th"))
    assert len(elements.named("caption")) == len(elements.named("table"))
    assert len(elements.named("summary")) == len(elements.named("details"))
    regions = [attributes for attributes in elements.named("div") if attributes.get("class") == "scroll"]
    assert regions
    assert all(attributes["tabindex"] == "0" and attributes["role"] == "region" and attributes["aria-label"] for attributes in regions)


def test_every_picture_has_a_title_a_description_and_its_figures_as_a_table() -> None:
    text = made()
    figures = re.findall(r"<figure>.*?</figure>", text, flags=re.DOTALL)
    assert len(figures) == 6
    for figure in figures:
        assert re.search(r'<svg [^>]*role="img"[^>]*><title id="[^"]+">[^<]+</title><desc id="[^"]+">[^<]+</desc>', figure)
        assert "<details><summary>Figures</summary>" in figure
        assert "<caption>" in figure


def test_pictures_take_their_colours_from_the_page() -> None:
    for drawing in re.findall(r"<svg.*?</svg>", made(), flags=re.DOTALL):
        assert not re.search(r'(?:fill|stroke|style)="', drawing)


def test_a_picture_that_is_missing_is_a_line_and_no_axis() -> None:
    text = made(make_report(make_case(measured_runs=(replace(RUN, trace=None, trace_gap="bench wrote no trace"),))))
    assert "Resident KV over the decode, Kept tokens by layer and position, Divergence from the full cache: bench wrote no trace" in text
    assert text.count("<figure>") == 3


def test_layers_that_the_trace_leaves_out_say_so_in_the_picture() -> None:
    assert "not in the trace</text>" in made()
    kept = replace(TRACE, kept=TRACE.kept[:3])
    assert "not in the trace</text>" not in made(make_report(make_case(measured_runs=(replace(RUN, trace=kept),))))


def test_a_failure_is_told_with_the_commands_to_type_next() -> None:
    text = made(make_report(make_case(replace(LOSSY, status="FAIL", value=2.0), QUEUE)))
    for command in (
        f"less &#x27;run/{LOG.relative_to(OUT)}&#x27;",
        "pytest -m &#x27;m3 and lossy&#x27; -k m3/joint_full-1",
        "pytest -m m3 --h2o-from=run",
    ):
        assert command in text
    assert "Failed: lossy_pass (m3/joint_full-1)." in text
    assert "id='failures'" not in made()


def test_commands_carry_the_options_that_were_typed() -> None:
    typed = (
        ("--llm-bench", "/out/bench", "command line --llm-bench"),
        ("--max-decomp-us", "1", "command line --max-decomp-us"),
        ("--h2o-out", "/out/run", "command line --h2o-out"),
        ("--min-lossy", "4", "environment H2O_MIN_LOSSY"),
    )
    report = make_report(make_case(replace(LOSSY, status="FAIL", value=2.0), QUEUE), settings=typed)
    (failure,) = failures_of(report, report.cases[0], OUT.parent)
    assert failure.commands[1] == "pytest -m 'm3 and lossy' -k m3/joint_full-1 --llm-bench=bench --max-decomp-us=1"
    assert judge_again(report, OUT.parent) == "pytest -m m3 --h2o-from=run --max-decomp-us=1"


def test_kept_artifacts_are_judged_again_for_how_they_were_measured_is_not_known() -> None:
    report = make_report(make_case(replace(LOSSY, status="FAIL", value=2.0), QUEUE), kept_in=Path("/kept"))
    (failure,) = failures_of(report, report.cases[0], OUT.parent)
    assert failure.commands[1] == "pytest -m 'm3 and lossy' -k m3/joint_full-1 --h2o-from=/kept"


def test_a_case_of_a_typed_preset_is_judged_again_with_it() -> None:
    report = make_report(settings=(("--preset", "mini.yaml", "command line --preset"),))
    assert judge_again(report, OUT.parent) == "pytest -m m3 --h2o-from=run --preset=mini.yaml"


def test_a_gate_that_failed_in_many_cases_is_named_once_in_the_verdict() -> None:
    broken = replace(LOSSY, status="FAIL", value=2.0)
    cases = tuple(make_case(broken, QUEUE, id=f"final/c{number}") for number in range(3))
    assert failed_gates(make_report(*cases)) == ("lossy_pass (3 of 3 cases)",)
    assert failed_gates(make_report(*cases[:2], make_case())) == ("lossy_pass (final/c0, final/c1)",)
    every = make_case(*(replace(broken, name=name) for name in GATE_NAMES))
    assert failed_gates(make_report(every))[5] == f"{len(GATE_NAMES) - 5} gates more"


def test_only_the_pictures_of_the_first_case_that_failed_are_open() -> None:
    failed = make_case(replace(LOSSY, status="FAIL", value=2.0), QUEUE, id="m3/joint_store-1")
    for cases, opened in (((make_case(), failed, failed), "case-2"), ((make_case(), make_case()), "case-1")):
        found = [attributes for attributes in Elements(made(make_report(*cases))).named("details") if attributes.get("class") == "case"]
        assert [attributes["id"] for attributes in found if "open" in attributes] == [opened]


def test_gates_that_lack_evidence_for_one_reason_are_one_failure() -> None:
    gates = tuple(replace(gate, status="NOT_MEASURED", value=None, rows=(), reason="exit code 3") for gate in (LOSSY, QUEUE))
    text = made(make_report(make_case(*gates)))
    assert text.count("pytest -m m3 -k m3/joint_full-1") == 1
    assert text.count("<ul class='failures'><li>") == 1


def test_an_inconclusive_gate_that_is_let_through_is_not_drawn_as_a_failure() -> None:
    text = made(make_report(make_case(replace(LOSSY, status="INCONCLUSIVE", tolerated=True), QUEUE)))
    assert "INCONCLUSIVE (let through)" in text
    assert "<td class='bad'" not in text
    assert "<td class='bad'" in made(make_report(make_case(replace(LOSSY, status="INCONCLUSIVE"), QUEUE)))


def test_artifacts_elsewhere_are_linked_by_the_way_there() -> None:
    report = make_report(make_case(artifacts=(Artifact("measurement.json", Path("/kept/m.json")),)), artifacts=())
    assert "href='../../kept/m.json'" in made(report)
    assert FOLDER.is_relative_to(OUT)


def test_a_bitmap_has_its_pixels_from_the_left_and_a_transparent_ground() -> None:
    import struct
    import zlib

    data = bitmap_png([((0, 3), (9, 10)), ()], 10, (1, 2, 3))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + length
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (10, 2, 1, 3, 0, 0, 0)
    assert chunks[b"PLTE"] == bytes((0, 0, 0, 1, 2, 3))
    assert chunks[b"tRNS"] == b"\0"
    assert zlib.decompress(chunks[b"IDAT"]) == bytes((0, 0b11100000, 0b01000000, 0, 0, 0))
