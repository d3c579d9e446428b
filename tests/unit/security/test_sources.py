"""What the package's own sources never do: run a shell, unpickle, evaluate text, load YAML or arrays unsafely, open a connection."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "h2o_gate_plugin"
SOURCES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN_MODULES = (
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "commands",
    "socket",
    "ssl",
    "http",
    "urllib.request",
    "requests",
    "httpx",
    "ftplib",
    "smtplib",
    "telnetlib",
    "xmlrpc",
    "ctypes.util",
)
FORBIDDEN_CALLS = (
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "os.execv",
    "os.spawnl",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "np.load",
    "numpy.load",
    "tempfile.mktemp",
    "pd.read_pickle",
    "torch.load",
)
FORBIDDEN_ARGUMENTS = ("shell", "allow_pickle")


def offences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in names:
                if any(name == module or name.startswith(f"{module}.") for module in FORBIDDEN_MODULES):
                    yield node.lineno, f"import {name}"
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) in FORBIDDEN_CALLS:
                yield node.lineno, ast.unparse(node.func)
            for keyword in node.keywords:
                if keyword.arg in FORBIDDEN_ARGUMENTS:
                    yield node.lineno, f"{keyword.arg}="


def test_the_package_has_sources_to_look_at() -> None:
    assert len(SOURCES) > 100


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from urllib.request import urlopen",
        "subprocess.run('ls', shell=True)",
        "os.system('ls')",
        "eval('1')",
        "yaml.load(text)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_an_offence_is_seen(source: str) -> None:
    assert list(offences(ast.parse(source)))


def test_no_source_of_the_package_offends() -> None:
    found = [f"{path.relative_to(PACKAGE)}:{line}: {what}" for path in SOURCES for line, what in offences(ast.parse(path.read_text()))]
    assert found == []
