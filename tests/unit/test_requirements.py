"""The locked dependencies agree with pyproject.toml, with each other, and name no index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
LOCKS = {
    "runtime": (),
    "dev": ("dev", "plots", "completion"),
    "dask": ("dask",),
    "all": ("dev", "plots", "completion", "docs", "compare", "dask", "mutation", "fuzz", "audit"),
}
HASHED = ("runtime", "dev", "dask")
NOT_LOCKED = ("train", "codecs")
"""Extras of single scripts, which `.ci/run` and the Makefile do not install."""


def text_of(lock: str) -> str:
    return (ROOT / "requirements" / f"{lock}.txt").read_text()


def pins(lock: str) -> dict[str, list[Requirement]]:
    """Name → its pins; there are several where versions differ by Python."""
    found: dict[str, list[Requirement]] = {}
    for line in text_of(lock).splitlines():
        if line and not line.startswith((" ", "#")):
            pin = Requirement(line.removesuffix("\\").strip())
            found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def asked_for(extras: tuple[str, ...]) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in OPTIONAL[extra])]
    return [wanted for line in lines if (wanted := Requirement(line)).name != PROJECT["name"]]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_dependency_is_locked_at_a_version_that_pyproject_allows(lock: str) -> None:
    locked = pins(lock)
    for wanted in asked_for(LOCKS[lock]):
        assert canonicalize_name(wanted.name) in locked, f"{lock}: {wanted}: not locked; make lock"
        for pin in locked[canonicalize_name(wanted.name)]:
            (version,) = [each.version for each in pin.specifier]
            assert wanted.specifier.contains(version, prereleases=True), f"{lock}: {wanted}: locked at {version}; make lock"


def test_every_extra_is_locked_or_named_as_one_that_is_not() -> None:
    assert set(OPTIONAL) == {*LOCKS["all"], *NOT_LOCKED}


@pytest.mark.parametrize("lock", HASHED)
def test_the_files_lock_the_same_versions(lock: str) -> None:
    everything = pins("all")
    for name, locked in pins(lock).items():
        assert {str(pin.specifier) for pin in locked} <= {str(pin.specifier) for pin in everything[name]}


@pytest.mark.parametrize("lock", HASHED)
def test_every_pin_has_hashes(lock: str) -> None:
    blocks = re.split(r"\n(?=\S)", text_of(lock).strip())
    assert len(blocks) > 20
    for block in blocks:
        assert "--hash=sha256:" in block, block.splitlines()[0]


@pytest.mark.parametrize("lock", LOCKS)
def test_no_file_names_an_index_or_an_address(lock: str) -> None:
    assert not re.search(r"://|--index|--find-links|--trusted-host|@ ", text_of(lock))


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("lock", LOCKS)
def test_each_name_has_one_version_on_each_python(lock: str, version: str) -> None:
    environment = {"python_version": version, "python_full_version": f"{version}.7", "extra": "", "implementation_name": "cpython"}
    environment |= {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"}
    for name, locked in pins(lock).items():
        chosen = [pin for pin in locked if pin.marker is None or pin.marker.evaluate(environment)]
        assert len(chosen) < 2, name
