"""The SQLite file: what goes in comes out, two writers at once, and files that are no history."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from h2o_gate_plugin.bench.baselines import Origin
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.history.database import HISTORY_FILE, MIGRATIONS, add_run, open_history
from h2o_gate_plugin.history.run import KeptGate

from .conftest import HERE, gate, make_run, row

Keep = Callable[..., Path]


def test_a_run_comes_out_as_it_went_in(kept: Keep) -> None:
    run = make_run(
        1,
        gate(),
        gate("quality_pass", None, None, "NOT_MEASURED"),
        gate("quality_pass", 0.1, 0.4, criterion="KL", unit="nats"),
        rows=(row(decode_tps=200.0, h2o_lossy=3.2),),
        overall=False,
        incomplete="the run was interrupted",
        settings={"--decode-pairs": ("4", "default")},
    )
    with open_history(kept(run) / HISTORY_FILE) as history:
        found = history.run(run.id)
        assert found == replace(run, rows=())
        assert history.rows("candidate") == {run.id: run.rows}
        assert history.run("another") is None


def test_runs_come_out_in_the_order_of_their_start_whatever_order_they_ended_in(kept: Keep) -> None:
    with open_history(kept(make_run(2), make_run(1), make_run(3)) / HISTORY_FILE) as history:
        assert [name[11:13] for name in history.names()] == ["01", "02", "03"]
        assert [run.id for run in history.runs()] == list(history.names())


def test_a_second_run_of_the_same_second_gets_a_name_of_its_own(tmp_path: Path) -> None:
    run = make_run(1)
    assert [add_run(tmp_path / HISTORY_FILE, run) for _ in range(3)] == [run.id, f"{run.id}-2", f"{run.id}-3"]


def _write_five(path: Path, first: int) -> None:
    for number in range(first, first + 5):
        add_run(path, make_run(number, gate(), rows=(row(decode_tps=200.0),)))


def test_sessions_that_end_at_once_all_keep_their_runs(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    writers = [multiprocessing.get_context("spawn").Process(target=_write_five, args=(path, first)) for first in (0, 10, 20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with open_history(path) as history:
        assert len(history.names()) == 15
        assert all(len(run.gates) == 1 for run in history.runs())


def test_a_reader_sees_whole_runs_while_another_writes(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    add_run(path, make_run(1, gate()))
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE runs SET pack = 'half'")
    with open_history(path) as history:
        assert [run.pack for run in history.runs()] == ["m3"]
    writer.close()


def test_a_run_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    add_run(path, make_run(1))
    broken = replace(make_run(2), gates=(KeptGate(*(None,) * 9),))  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        add_run(path, broken)
    with open_history(path) as history:
        assert len(history.names()) == 1


def test_a_full_disk_leaves_what_was_kept_before(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    add_run(path, make_run(1, gate()))
    many = make_run(2, rows=tuple(row(pair=pair, decode_tps=1.0) for pair in range(2000)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, limits[1]))
    try:
        with pytest.raises(sqlite3.OperationalError):
            add_run(path, many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with open_history(path) as history:
        assert len(history.names()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_history_in_a_folder_that_may_not_be_written_is_read_all_the_same(tmp_path: Path) -> None:
    add_run(tmp_path / HISTORY_FILE, make_run(1, gate()))
    tmp_path.chmod(0o500)
    try:
        with open_history(tmp_path / HISTORY_FILE) as history:
            assert len(history.names()) == 1
        with pytest.raises(sqlite3.OperationalError):
            add_run(tmp_path / HISTORY_FILE, make_run(2))
    finally:
        tmp_path.chmod(0o700)


def test_a_newer_schema_is_refused_in_one_line_by_reader_and_writer(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    add_run(path, make_run(1))
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    message = r"history\.sqlite: history: expected schema version 1 or older, got 2, of a newer h2o-gate; install that one"
    with pytest.raises(ConfigError, match=message):
        add_run(path, make_run(2))
    with pytest.raises(ConfigError, match=message), open_history(path):
        pass


def test_files_that_are_no_history_are_refused_in_one_line(tmp_path: Path) -> None:
    foreign, junk, empty = (tmp_path / name for name in ("foreign", "junk", "empty"))
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE birds (name TEXT)")
        connection.execute("PRAGMA user_version = 1")
    junk.write_text("this is not SQLite" * 100, encoding="utf-8")
    empty.touch()
    for path, message in (
        (foreign, "another program's SQLite file; move it away"),
        (junk, "expected a readable SQLite file, got DatabaseError"),
        (empty, "got an empty file; run a pack first"),
        (tmp_path / "none", "got no such file; run a pack first, or name its folder by --h2o-history"),
    ):
        with pytest.raises(ConfigError, match=message), open_history(path) as history:
            history.names()
    with pytest.raises(ConfigError, match="another program's SQLite file"):
        add_run(foreign, make_run(1))
    with sqlite3.connect(foreign) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)  # nothing was changed in it


def test_baselines_are_those_of_the_latest_runs_of_one_host_engine_and_model(kept: Keep) -> None:
    def run(number: int, tps: float, origin: Origin = HERE) -> object:
        rows = (row("baseline", decode_tps=tps), row("baseline", 2, decode_tps=tps + 1), row(decode_tps=999.0))
        return make_run(number, rows=rows, origin=origin)

    others = (Origin("another", "e" * 64, "c" * 64), Origin("hosthosthost", "f" * 64, "c" * 64), Origin("hosthosthost", "e" * 64, None))
    runs = [run(1, 100.0), run(2, 200.0), run(3, 300.0), *(run(4 + index, 1.0, origin) for index, origin in enumerate(others))]
    with open_history(kept(*runs, make_run(9, rows=(row(decode_tps=5.0),))) / HISTORY_FILE) as history:
        found = history.baselines(HERE, last=2)
    assert [each.run[11:13] for each in found] == ["03", "02"]
    assert found[0].speeds == {(512, 128, "CPU", "1"): (300.0, 301.0)}
