"""Artifacts are whole or not there: what a failed, interrupted or killed writer leaves."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from h2o_gate_plugin.errors import FileError
from h2o_gate_plugin.files import write_atomic, written_whole

PACKAGE = Path(__file__).parents[2] / "h2o_gate_plugin"
WRITES = re.compile(r"\.write_text\(|\.write_bytes\(|\.to_csv\(|\.savefig\(|open\(\s*\"[wx]")
OWN_PROTOCOL = {
    "files.py": "the writer itself",
    "bench/process.py": "output of an engine as it comes; counts only with the record that is written after it",
    "runtime/llm_bench.py": "the engine's table, appended by the contract; counts only with its process's record",
    "kv/dump.py": "binaries first, under names that nothing lists; the meta file, which lists them, is renamed into place",
}
"""Modules that write and do not go through `files`, and why a reader never takes half of it for whole."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_as_a_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.json", "first")
    write_atomic(tmp_path / "a.json", "second")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "second"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("broken", [KeyboardInterrupt(), ValueError("no"), OSError(errno.ENOSPC, "No space left on device")])
def test_the_old_file_stays_when_the_new_one_cannot_be_made(tmp_path: Path, broken: BaseException) -> None:
    write_atomic(tmp_path / "a.csv", "old")
    expected = FileError if isinstance(broken, OSError) else type(broken)

    def write() -> None:
        with written_whole(tmp_path / "a.csv") as partial:
            partial.write_text("half", encoding="utf-8")
            raise broken

    with pytest.raises(expected) as raised:
        write()
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.csv"]
    if expected is FileError:
        assert str(raised.value) == (
            f"{tmp_path / 'a.csv'}: file: expected to be able to write it, got No space left on device; "
            "free space or choose another folder, what was written before is kept"
        )


def test_what_a_killed_writer_left_goes_with_the_next_write_and_a_living_ones_stays(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom h2o_gate_plugin.files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as partial:\n    partial.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.json")])
    assert killed.returncode == -9
    (left,) = names(tmp_path)
    assert left.endswith(".partial")
    with written_whole(tmp_path / "b.json") as partial:
        partial.write_text("whole", encoding="utf-8")
        write_atomic(tmp_path / "a.json", "whole")
        assert partial.exists()
    assert names(tmp_path) == ["a.json", "b.json"]


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    name = "é" * 125 + ".json"
    write_atomic(tmp_path / name, "whole")
    assert names(tmp_path) == [name]
    with pytest.raises(FileError, match="File name too long"):
        write_atomic(tmp_path / f"{name}{name}", "whole")


def test_a_link_is_followed_and_what_is_no_regular_file_is_written_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "real" / "a.json")
    write_atomic(tmp_path / "link.json", "whole")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real" / "a.json").read_text(encoding="utf-8") == "whole"
    write_atomic(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()


def test_a_file_name_that_is_no_text_comes_back_out_of_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_atomic(tmp_path / "a.json", json.dumps({"path": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"path": name}


def test_every_module_writes_its_files_by_this_one_or_says_why_not() -> None:
    """A `savefig`, `to_csv` or `open(…, "w")` is to be inside a `written_whole` block."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(PACKAGE))
        if WRITES.search(text) and name not in OWN_PROTOCOL:
            assert len(WRITES.findall(text)) == text.count("with written_whole("), f"{name}: writes past h2o_gate_plugin/files.py"
    assert all((PACKAGE / name).is_file() for name in OWN_PROTOCOL)
