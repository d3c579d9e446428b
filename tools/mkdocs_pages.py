"""mkdocs hook: README is the index, and what a page links to in the repository is part of the site: no link leads out of it."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()((?!https?:|#|mailto:)[^)#\s]+)")
INDEX = "README.md"


def on_config(config: Any) -> Any:
    """The navigation without pages that this tree has not."""
    config.nav = [entry for entry in (_present(entry) for entry in config.nav) if entry is not None]
    return config


def on_files(files: Files, config: Any) -> Files:
    """README and what it links to, one after the other, under their own paths; docs/ lies at the top of the site."""
    waiting = [ROOT / INDEX, ROOT / "benchmarks" / INDEX, *(ROOT / "docs").glob("*.md")]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file() or not path.is_relative_to(ROOT):
            continue
        seen.add(path)
        if path.suffix == ".md":
            waiting += [(path.parent / link).resolve() for _, link in LINK.findall(path.read_text(encoding="utf-8"))]
        if not path.is_relative_to(ROOT / "docs"):
            files.append(_file(path, config))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as they are in the repository, turned into those of the site."""
    here = ROOT / page.file.src_uri if page.file.generated_by else ROOT / "docs" / page.file.src_uri
    here = ROOT / INDEX if page.file.src_uri == "index.md" else here

    def moved(found: re.Match[str]) -> str:
        target = (here.parent / found[2]).resolve()
        if not target.is_relative_to(ROOT):
            return found[0]
        return found[1] + os.path.relpath(_uri(target), PurePosixPath(page.file.src_uri).parent)

    return LINK.sub(moved, markdown)


def _present(entry: Any) -> Any:
    if isinstance(entry, str):
        return entry if entry == "index.md" or (ROOT / "docs" / entry).is_file() or (ROOT / entry).is_file() else None
    ((title, below),) = entry.items()
    if isinstance(below, list):
        return {title: [kept for kept in map(_present, below) if kept is not None]}
    return entry if _present(below) is not None else None


def _uri(path: Path) -> str:
    if path == ROOT / INDEX:
        return "index.md"
    base = ROOT / "docs" if path.is_relative_to(ROOT / "docs") else ROOT
    return path.relative_to(base).as_posix()


def _file(path: Path, config: Any) -> File:
    if path.suffix == ".md":
        return File.generated(config, _uri(path), content=path.read_text(encoding="utf-8"))
    return File.generated(config, _uri(path), abs_src_path=str(path))
