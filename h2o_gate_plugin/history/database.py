# ruff: noqa: S608  the SQL is made of names that stand in this file
"""The history of gate runs: one SQLite file. Two sessions may write at once; readers need no right to write."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from h2o_gate_plugin.bench.baselines import Origin, SpeedKey
from h2o_gate_plugin.bench.revision import Revision
from h2o_gate_plugin.bench.run_folder import RUNS_FOLDER
from h2o_gate_plugin.declared import as_declared
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.history.run import KeptGate, KeptRow, KeptRun
from h2o_gate_plugin.outside_file import parsed_json

HISTORY_FILE = "history.sqlite"
DEFAULT_HISTORY = RUNS_FOLDER
LOCK_TIMEOUT_S = 10.0
APPLICATION_ID = 0x48324F47
"""``H2OG`` in SQLite's header: no other program's file."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE, started_utc TEXT NOT NULL, seconds REAL NOT NULL, folder TEXT NOT NULL,
        pack TEXT NOT NULL, overall_pass INTEGER, incomplete TEXT, engine TEXT NOT NULL, engine_sha256 TEXT, config_sha256 TEXT,
        host TEXT, cpu TEXT, git_commit TEXT, git_changed INTEGER, version TEXT, settings TEXT NOT NULL);
    CREATE TABLE cases (
        number INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, case_id TEXT NOT NULL, plan TEXT, PRIMARY KEY (number, case_id));
    CREATE TABLE gates (
        number INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, case_id TEXT NOT NULL, gate TEXT NOT NULL, criterion TEXT,
        status TEXT NOT NULL, value REAL, limit_value REAL, unit TEXT NOT NULL, direction TEXT, limit_origin TEXT NOT NULL);
    CREATE INDEX gates_of_run ON gates (number);
    CREATE TABLE rows (
        number INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, plan TEXT NOT NULL, role TEXT NOT NULL, run_id TEXT NOT NULL,
        pair INTEGER, prompt_tokens INTEGER, gen_tokens INTEGER, backend TEXT NOT NULL, threads TEXT NOT NULL, numbers TEXT NOT NULL);
    CREATE INDEX rows_of_run ON rows (number, role);
    """,
)
"""The n-th brings a file of schema version n - 1 to n (PRAGMA user_version); one that was released is never changed.

``number`` counts runs as they were recorded. ``criterion`` NULL: the gate itself. ``settings`` and ``numbers`` are JSON.
"""
_RUN_COLUMNS = (
    "run", "started_utc", "seconds", "folder", "pack", "overall_pass", "incomplete", "engine", "engine_sha256", "config_sha256", "host",
    "cpu", "git_commit", "git_changed", "version", "settings",
)  # fmt: skip
_GATE_COLUMNS = ("case_id", "gate", "criterion", "status", "value", "limit_value", "unit", "direction", "limit_origin")
_ROW_COLUMNS = ("plan", "role", "run_id", "pair", "prompt_tokens", "gen_tokens", "backend", "threads", "numbers")


@dataclass(frozen=True)
class KeptBaselines:
    """The baseline speeds (tok/s) of one run."""

    run: str
    speeds: Mapping[SpeedKey, tuple[float, ...]]


def history_file(folder: Path | None, cwd: Path) -> Path:
    """``folder``: what --h2o-history says; None = nothing."""
    return (folder or cwd / DEFAULT_HISTORY) / HISTORY_FILE


def add_run(path: Path, run: KeptRun, in_place_of: Sequence[str] = ()) -> str:
    """Record ``run``, all of it or nothing, and return its id: its own, or with ``-2``, ``-3``, … where that is taken.

    Interrupted runs of the same folder that were started at ``in_place_of`` (UTC) go: ``run`` went on with them and has what they had.

    Raises ConfigError for a file that is no history or a newer one's, OSError and sqlite3.Error for a disk that does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as connection:
        _version(connection, path)  # before anything is changed in a file that may be another program's
        _use_wal(connection)
        connection.execute("BEGIN IMMEDIATE")  # from here on the only writer; closed without COMMIT, nothing has happened
        _migrate(connection, path)
        for started_utc in in_place_of:
            _forget(connection, _storable(str(run.folder)), started_utc)
        name = _free_name(connection, run.id)
        number = connection.execute(_insert("runs", _RUN_COLUMNS), tuple(map(_storable, _run_values(run, name)))).lastrowid
        connection.executemany(_insert("cases", ("number", "case_id", "plan")), [(number, *case) for case in run.plans.items()])
        connection.executemany(_insert("gates", ("number", *_GATE_COLUMNS)), [(number, *_gate_values(gate)) for gate in run.gates])
        connection.executemany(_insert("rows", ("number", *_ROW_COLUMNS)), [(number, *_row_values(row)) for row in run.rows])
        connection.execute("COMMIT")
    return name


def _forget(connection: sqlite3.Connection, folder: object, started_utc: str) -> None:
    query = "SELECT number FROM runs WHERE folder = ? AND started_utc = ? AND incomplete IS NOT NULL"
    for (number,) in connection.execute(query, (folder, started_utc)).fetchall():
        for table in ("rows", "gates", "cases", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))


def _use_wal(connection: sqlite3.Connection) -> None:
    """Readers and a writer then go side by side."""
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError:
        return  # another session is about to do it; or the disk cannot, and the rollback journal is as safe


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection, path)
    for script in MIGRATIONS[version:]:
        for statement in script.split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """0 for an empty file. Raises ConfigError for a newer schema and for another program's file."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise ConfigError(f"{path}: history: expected a history of gate runs, got another program's SQLite file; move it away")
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise ConfigError(
            f"{path}: history: expected schema version {len(MIGRATIONS)} or older, got {version}, of a newer h2o-gate; "
            "install that one, or name another folder by --h2o-history"
        )
    return version


def _free_name(connection: sqlite3.Connection, wanted: str) -> str:
    taken = {name for (name,) in connection.execute("SELECT run FROM runs WHERE run = ? OR run LIKE ? || '-%'", (wanted, wanted))}
    return next(name for count in range(1, len(taken) + 2) if (name := wanted if count == 1 else f"{wanted}-{count}") not in taken)


def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _storable(value: object) -> object:
    """Text that SQLite takes: a file name that is no text is spelled."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _run_values(run: KeptRun, name: str) -> tuple[object, ...]:
    return (
        name, run.started_utc, run.seconds, str(run.folder), run.pack, run.overall_pass, run.incomplete, run.engine,
        run.origin.engine_sha256, run.origin.config_sha256, run.origin.host, run.cpu, run.revision.commit, run.revision.changed,
        run.version, json.dumps(dict(run.settings)),
    )  # fmt: skip


def _gate_values(gate: KeptGate) -> tuple[object, ...]:
    return (
        gate.case, gate.gate, gate.criterion, gate.status, gate.value, gate.limit, gate.unit, gate.direction, gate.limit_origin,
    )  # fmt: skip


def _row_values(row: KeptRow) -> tuple[object, ...]:
    lengths = (row.prompt_tokens, row.gen_tokens)
    return row.plan, row.role, row.run_id, row.pair, *lengths, row.backend, row.threads, json.dumps(dict(row.numbers))


class History:
    """An open history, for reading. Everything it returns is in the order in which the runs were started."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def names(self) -> tuple[str, ...]:
        return tuple(name for (name,) in self._connection.execute("SELECT run FROM runs ORDER BY started_utc, number"))

    def run(self, name: str) -> KeptRun | None:
        """With its gates, without its rows."""
        return next(iter(self._runs("WHERE run = ?", name)), None)

    def run_in(self, folder: Path) -> KeptRun | None:
        """The latest that was written there."""
        return next(reversed(self._runs("WHERE folder = ?", str(_storable(str(folder))))), None)

    def runs(self) -> tuple[KeptRun, ...]:
        """All, with their gates, without their rows."""
        return self._runs("")

    def _runs(self, where: str, *arguments: str) -> tuple[KeptRun, ...]:
        chosen = f"WHERE number IN (SELECT number FROM runs {where}) ORDER BY rowid"
        gates: dict[int, list[KeptGate]] = defaultdict(list)
        plans: dict[int, dict[str, str | None]] = defaultdict(dict)
        for number, *values in self._connection.execute(f"SELECT number, {', '.join(_GATE_COLUMNS)} FROM gates {chosen}", arguments):
            gates[number].append(KeptGate(*values))
        for number, case, plan in self._connection.execute(f"SELECT number, case_id, plan FROM cases {chosen}", arguments):
            plans[number][case] = plan
        query = f"SELECT number, {', '.join(_RUN_COLUMNS)} FROM runs {where} ORDER BY started_utc, number"
        heads = self._connection.execute(query, arguments)
        with _of_our_own():
            return tuple(_run(values, plans[number], tuple(gates[number])) for number, *values in heads)

    def rows(self, role: str) -> Mapping[str, tuple[KeptRow, ...]]:
        """Run → its rows of this role ("candidate" or "baseline")."""
        found: dict[str, list[KeptRow]] = defaultdict(list)
        columns = ", ".join(f"rows.{name}" for name in _ROW_COLUMNS)
        query = f"SELECT run, {columns} FROM rows JOIN runs USING (number) WHERE role = ? ORDER BY rows.rowid"
        with _of_our_own():
            for name, plan, of, run_id, pair, prompt, gen, backend, threads, numbers in self._connection.execute(query, (role,)):
                row = KeptRow(plan, of, run_id, pair, prompt, gen, backend, threads, parsed_json(numbers))
                found[name].append(as_declared(row))
        return {name: tuple(rows) for name, rows in found.items()}

    def baselines(self, origin: Origin, last: int) -> tuple[KeptBaselines, ...]:
        """Of the latest runs of that host, engine and model that measured any, latest first."""
        query = (
            "SELECT run, prompt_tokens, gen_tokens, backend, threads, json_extract(numbers, '$.decode_tps') AS tps "
            "FROM rows JOIN runs USING (number) WHERE role = 'baseline' AND tps > 0 AND host = ? AND engine_sha256 = ? "
            "AND config_sha256 IS ? ORDER BY started_utc DESC, number DESC, rows.rowid"
        )
        found: dict[str, dict[SpeedKey, list[float]]] = {}
        for run, *key, tps in self._connection.execute(query, (origin.host, origin.engine_sha256, origin.config_sha256)):
            if run not in found and len(found) == last:
                break
            found.setdefault(run, defaultdict(list))[tuple(key)].append(tps)
        return tuple(KeptBaselines(run, {key: tuple(speeds) for key, speeds in by_key.items()}) for run, by_key in found.items())


@contextmanager
def _of_our_own() -> Iterator[None]:
    """SQLite keeps a text in a column of numbers. Raises sqlite3.DataError, which `open_history` tells, for what no gate run wrote."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise sqlite3.DataError(f"a row that no gate run wrote: {err!s:.200}") from err


@contextmanager
def open_history(path: Path) -> Iterator[History]:
    """Raises ConfigError: no such file, not a history, damaged, or a newer one's."""
    if not path.is_file():
        raise ConfigError(
            f"{path}: history: expected a history of gate runs, got no such file; run a pack first, or name its folder by --h2o-history"
        )
    try:
        with closing(_reader(path)) as connection:
            if _version(connection, path) == 0:
                raise ConfigError(f"{path}: history: expected a history of gate runs, got an empty file; run a pack first")
            yield History(connection)
    except (sqlite3.Error, UnicodeError) as err:  # sqlite3 quotes a damaged schema in its message, and cannot when that is no UTF-8
        raise ConfigError(f"{path}: history: expected a readable SQLite file, got {err!r}; move it away, the next run starts anew") from err


def _reader(path: Path) -> sqlite3.Connection:
    """In a folder where WAL's side files cannot be made, on a read-only disk say, the file is read as it is."""
    uri = path.absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=LOCK_TIMEOUT_S)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.DatabaseError as err:
        connection.close()
        if isinstance(err, sqlite3.OperationalError) and not os.access(path.parent, os.W_OK):
            return sqlite3.connect(f"{uri}?immutable=1", uri=True)
        raise
    return connection


def _run(values: list[object], plans: Mapping[str, str | None], gates: tuple[KeptGate, ...]) -> KeptRun:
    found = dict(zip(_RUN_COLUMNS, values, strict=True))
    overall, changed, settings = found["overall_pass"], found["git_changed"], parsed_json(str(found["settings"]))
    fields = {name: found[name] for name in ("started_utc", "seconds", "pack", "incomplete", "engine", "cpu", "version")}
    run = KeptRun(
        id=str(found["run"]),
        folder=Path(str(found["folder"])),
        overall_pass=None if overall is None else bool(overall),
        origin=Origin(*(found[name] for name in ("host", "engine_sha256", "config_sha256"))),  # type: ignore[arg-type]
        revision=Revision(found["git_commit"], None if changed is None else bool(changed)),  # type: ignore[arg-type]
        settings={flag: (value, origin) for flag, (value, origin) in settings.items()},
        plans=plans,
        gates=gates,
        **fields,  # type: ignore[arg-type]
    )
    return as_declared(run)
