"""docs/frame-format.md and the code say the same: offsets, sizes, limits, codecs."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from h2o_gate_plugin.kv import gear_v22, zstd_frames
from h2o_gate_plugin.kv.codec import every_codec
from h2o_gate_plugin.kv.frame import HEADER_BYTES, LAYOUTS, FrameLayout
from h2o_gate_plugin.kv.planes import MAX_TENSOR_ELEMENTS

PAGE = (Path(__file__).parents[3] / "docs" / "frame-format.md").read_text(encoding="utf-8")
Row = tuple[str, str, str]


def section(heading: str) -> str:
    """From the heading to the next one of any level."""
    _, _, rest = PAGE.partition(f"{heading}\n")
    assert rest, f"docs/frame-format.md: expected the heading {heading!r}, got none"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(heading: str) -> list[Row]:
    """(offset, bytes, field) of the section's table."""
    lines = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \|", section(heading), re.MULTILINE)
    return [(offset, n_bytes, field) for offset, n_bytes, field in lines if offset != "offset"]


def rows_of(fields: tuple[tuple[str, str], ...]) -> list[Row]:
    """The same, of (name, struct code) pairs."""
    found, offset = list[Row](), 0
    for name, code in fields:
        n_bytes = struct.calcsize(f"<{code}")
        found.append((str(offset), str(n_bytes), name))
        offset += n_bytes
    return found


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: f"version-{layout.version}")
def test_the_page_has_every_version_s_header_field_by_field(layout: FrameLayout) -> None:
    heading = f"## Header, version {layout.version}"
    assert rows(heading) == rows_of((*layout.fields, ("header checksum", "I")))
    text = section(heading)
    assert text.strip().startswith(f"{layout.header_bytes} bytes, then the payload.")
    assert layout.checksum_name in text
    assert all(f"{code} {name}" in text for code, name in layout.dtypes.items())


def test_the_page_says_which_version_is_written() -> None:
    written = max(LAYOUTS)
    assert LAYOUTS[written].header_bytes == HEADER_BYTES
    assert f"Version {written} is written." in section("## Versions")


def test_the_page_has_the_plane_header_of_gear_field_by_field() -> None:
    plane = [row for row in rows("### Codec 1: `fp16_gear_predictive_v3`") if row[2] not in ("modes", "residuals")]
    codes = gear_v22._HEADER.format.removeprefix("<")
    names = [field for _, _, field in plane]
    assert plane == rows_of(tuple(zip(names, codes, strict=True)))
    assert f"| {gear_v22._HEADER.size} | n_block | modes |" in PAGE


def test_the_page_has_a_section_for_every_registered_codec() -> None:
    for codec in every_codec():
        assert "Not written by this release" not in section(f"### Codec {codec.codec_id}: `{codec.name}`")


def test_the_page_names_the_limits_that_a_reader_checks() -> None:
    text = section("## What a reader refuses, and when")
    assert f"more than {MAX_TENSOR_ELEMENTS} elements" in text
    assert f"more than {zstd_frames._MAX_EXPANSION} times its own length" in text
