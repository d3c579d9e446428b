"""A YAML or JSON file in which every value knows its file and line, for error lines that point at the place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from h2o_gate_plugin.errors import ConfigError, nearest
from h2o_gate_plugin.outside_file import MIB, nesting, parsed_json, read_text

LARGEST_BYTES = MIB
"""PyYAML reads some 100 KiB a second; a preset is 1 KiB."""
MOST_DIGITS = 40
MOST_NESTED = 64
LARGEST_INTEGER = 2**31 - 1
"""Of tokens, repeats, threads: what llm_bench holds them in."""
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Node:
    """``value``: a plain scalar, a tuple of nodes, or a dict of nodes. ``place`` is ``file:line``."""

    place: str
    value: Any

    def fields(self, thing: str, legal: tuple[str, ...]) -> Mapping[str, Node]:
        """The entries of a mapping. Raises ConfigError when it is none, or for a key that is not legal (nearest one named)."""
        if not isinstance(self.value, dict):
            raise ConfigError(f"{self.place}: {thing}: expected a mapping of key: value, got {self.plain()!r}; see presets/ for examples")
        for key, (key_place, _) in self.value.items():
            if key not in legal:
                raise ConfigError(f"{key_place}: {key}: expected a known key of {thing}, got {key!r}; {nearest(key, legal)}")
        return {key: node for key, (_, node) in self.value.items()}

    def items(self) -> tuple[Node, ...]:
        """The items of a list; a scalar is a list of one."""
        return self.value if isinstance(self.value, tuple) else (self,)

    def text(self, thing: str) -> str:
        if not isinstance(self.value, str) or not self.value.strip():
            raise ConfigError(f"{self.place}: {thing}: expected text, got {self.plain()!r}; write a word or a sentence")
        return self.value

    def integer(self, thing: str, low: int) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not low <= self.value <= LARGEST_INTEGER:
            expected = f"an integer >= {low}{_upper_end(self.value)}"
            raise ConfigError(f"{self.place}: {thing}: expected {expected}, got {self.plain()!r}; write a whole number")
        return self.value

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, tuple):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: node.plain() for key, (_, node) in self.value.items()}
        return self.value


def _upper_end(value: object) -> str:
    """Told where it matters: nobody who writes 0 wants to read it."""
    return f" and <= {LARGEST_INTEGER}" if isinstance(value, int) and value > LARGEST_INTEGER else ""


def load_document(path: Path) -> Node:
    """Read the file (JSON by its suffix, else YAML). Raises ConfigError: unreadable, not parseable, a key twice, an alias."""
    try:
        text = read_text(path, LARGEST_BYTES)
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: file: expected a readable UTF-8 file, got {err}; check the path") from err
    is_json = path.suffix == ".json"
    try:
        if is_json:
            parsed_json(text)
            text = text.replace("\t", " ")  # JSON indents with tabs, YAML cannot; inside JSON strings a raw tab is illegal
        if nesting(text) > MOST_NESTED:  # the scanner looks at every open bracket for each token
            raise RecursionError
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except json.JSONDecodeError as err:
        raise ConfigError(f"{path}:{err.lineno}: file: expected JSON, got {err.msg}; repair the file") from err
    except ValueError as err:
        raise ConfigError(f"{path}: file: expected JSON, got {err}; repair the file") from err
    except yaml.YAMLError as err:
        raise ConfigError(f"{path}:{_error_line(err)}: file: expected YAML, got {_problem(err)}; repair the file") from err
    except RecursionError as err:
        raise _too_deep(path) from err
    if root is None:
        raise ConfigError(f"{path}: file: expected a mapping of key: value, got an empty file; see presets/ for examples")
    try:
        return _Reader(path, is_json).read(root)
    except RecursionError as err:
        raise _too_deep(path) from err


def _too_deep(path: Path) -> ConfigError:
    return ConfigError(f"{path}: file: expected at most a few levels of nesting, got too many; repair the file")


class _Reader:
    """Invariant: no collection node is read twice, so an alias cannot loop or blow up."""

    def __init__(self, path: Path, is_json: bool) -> None:
        self._path = path
        self._is_json = is_json
        self._seen: set[int] = set()
        self._scalars = yaml.SafeLoader("")

    def read(self, node: yaml.Node) -> Node:
        place = self._place(node)
        if isinstance(node, yaml.ScalarNode):
            return Node(place, self._scalar(node, place))
        if id(node) in self._seen:
            raise ConfigError(f"{place}: alias: expected plain values, got a YAML alias to a collection; write it out")
        self._seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            return Node(place, tuple(self.read(item) for item in node.value))
        fields: dict[str, tuple[str, Node]] = {}
        for key_node, value_node in node.value:
            key_place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{key_place}: key: expected a word, got a collection; repair the file")
            key = str(key_node.value)
            if key in fields:
                raise ConfigError(f"{key_place}: {key}: expected each key once, got it twice; remove one")
            fields[key] = (key_place, self.read(value_node))
        return Node(place, fields)

    def _place(self, node: yaml.Node) -> str:
        return f"{self._path}:{node.start_mark.line + 1}"

    def _scalar(self, node: yaml.ScalarNode, place: str) -> Any:
        """PyYAML's constructors raise what they come upon (KeyError for ``!!bool x``), and make an integer of any size."""
        try:
            value = self._value(node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError) as err:
            raise ConfigError(f"{place}: value: expected a plain YAML scalar, got {node.value[:80]!r}; quote it if it is text") from err
        if isinstance(value, str) and _SURROGATE.search(value):
            raise ConfigError(f"{place}: value: expected text, got half a character in {value[:80]!r}; repair the file")
        return value

    def _value(self, node: yaml.ScalarNode) -> Any:
        if self._is_json and node.style == '"':
            return node.value
        if node.tag in _NUMBER_TAGS and len(node.value) > MOST_DIGITS:
            raise ValueError("more digits than a number here can need")
        return json.loads(node.value) if self._is_json else self._scalars.construct_object(node)


def _error_line(err: yaml.YAMLError) -> int:
    mark = getattr(err, "problem_mark", None)
    return 1 if mark is None else int(mark.line) + 1


def _problem(err: yaml.YAMLError) -> str:
    return str(getattr(err, "problem", None) or err).splitlines()[0]
