"""The words that name a run: a folder, an id of the history, ``latest``, ``latest~1``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from h2o_gate_plugin.errors import ConfigError, nearest
from h2o_gate_plugin.history.database import open_history
from h2o_gate_plugin.history.run import KeptRun, run_from_folder
from h2o_gate_plugin.report.model import SUMMARY_FILE

_LATEST = re.compile(r"latest(?:~([0-9]{1,6}))?")


def find_run(word: str, history: Path) -> KeptRun:
    """A folder with a summary.json is read as it lies there, with the commit that the history knows for it, if any.

    Raises ConfigError, which names the nearest run.
    """
    folder = Path(word)
    if (folder / SUMMARY_FILE).is_file():
        return _with_commit(run_from_folder(folder.absolute()), history)
    asked = _LATEST.fullmatch(word)
    if folder.is_dir() and asked is None:
        raise ConfigError(f"{word}: run: expected a folder with a {SUMMARY_FILE}, got one without; name the folder of a finished gate run")
    with open_history(history) as opened:
        names = opened.names()
        back = int(asked.group(1) or 0) if asked else 0
        if asked and back < len(names):
            word = names[-1 - back]
        found = opened.run(word)
    if found is not None:
        return found
    if asked:
        kept = "1 run" if len(names) == 1 else f"{len(names)} runs"
        raise ConfigError(f"{history}: {word}: expected more than {back} kept runs, got {kept}; name an earlier one by its folder")
    close = nearest(word, names)
    hint = close if close.startswith("did you mean") else f"the latest is {names[-1]}" if names else "none is kept yet"
    raise ConfigError(f"{history}: run: expected the folder or the id of a run, latest or latest~N, got {word!r}; {hint}")


def _with_commit(run: KeptRun, history: Path) -> KeptRun:
    """As the history knows it of the run that lies in this folder."""
    if not history.is_file():
        return run
    with open_history(history) as opened:
        known = opened.run_in(run.folder)
    return run if known is None else replace(run, id=known.id, revision=known.revision, version=known.version)
