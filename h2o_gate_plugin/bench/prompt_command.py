"""--prompt-command: how an external engine is run on a prompt file, as an argv template without a shell.

``python3 ./adapter.py --llm-bench {llm_bench} -m {config} --prompt-file {prompt_file} -p {prompt} -n {gen} -fp {log}``: the words are
split as a shell would, but no shell runs them, and each placeholder stands for one word or a part of it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from string import Formatter

from h2o_gate_plugin.errors import ConfigError, nearest

REQUIRED = ("config", "prompt_file", "prompt", "gen", "log")
"""The row that comes back must be of this config, this text and these lengths, in this file."""
OPTIONAL = ("llm_bench", "repeat", "threads", "backend", "attention_option")
EXAMPLE = (
    "--prompt-command 'python3 ./adapter.py --llm-bench {llm_bench} -m {config} --prompt-file {prompt_file} -p {prompt} -n {gen} "
    "-rep {repeat} -t {threads} -a {backend} -fp {log}'"
)


def parse_prompt_command(text: str, place: str, folder: Path) -> tuple[str, ...]:
    """The words of the template. A word with a ``/`` that names a file seen from ``folder`` becomes absolute: processes run elsewhere.

    ``{{`` and ``}}`` are braces. Raises ConfigError: quotes that do not close, an unknown placeholder, a required one that is missing.
    """
    try:
        words = shlex.split(text)
        named = [name for word in words for name in _placeholders(word)]
    except ValueError as err:
        raise ConfigError(f"{place}: expected words as a shell reads them, with {{placeholders}}, got {text!r}: {err}") from err
    for name in named:
        if name not in REQUIRED + OPTIONAL:
            raise ConfigError(f"{place}: placeholder: expected a known one, got {'{' + name + '}'!r}; {nearest(name, REQUIRED + OPTIONAL)}")
    missing = [f"{{{name}}}" for name in REQUIRED if name not in named]
    if missing:
        raise ConfigError(f"{place}: expected every one of {_braced(REQUIRED)}, got {text!r} without {', '.join(missing)}; docs/prompts.md")
    return tuple(_absolute(word, folder) for word in words)


def filled(template: tuple[str, ...], values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(word.format_map(values) for word in template)


def _placeholders(word: str) -> list[str]:
    """Raises ValueError for braces that do not pair, and for anything but a name between them."""
    found = []
    for _, name, form, conversion in Formatter().parse(word):
        if name is None:
            continue
        if form or conversion:
            raise ValueError(f"{word!r} asks for a format; write the name alone")
        found.append(name)
    return found


def _absolute(word: str, folder: Path) -> str:
    if "/" not in word or "{" in word:
        return word
    try:
        path = folder / Path(word).expanduser()
        return str(path.absolute()) if path.is_file() else word
    except (OSError, RuntimeError, ValueError):  # too long for a path, or of nobody's home: a word as any other
        return word


def _braced(names: tuple[str, ...]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
