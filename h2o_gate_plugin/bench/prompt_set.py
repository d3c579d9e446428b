"""A set of prompt files by bucket, and a stratified sample of it.

A set is a folder with ``prompt_<bucket>_<number>.txt``, or a YAML or JSON manifest::

    context_tokens: 4096        # optional: prompt and generated tokens together, instead of the preset's
    prompts:
      - {bucket: 128, file: chat/weather.txt}     # relative to the manifest, and below its folder

A bucket is a prompt length in tokens; its files hold at least so many, and more where the continuation is to be scored.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from h2o_gate_plugin.bench.document import Node, load_document
from h2o_gate_plugin.bench.preset import PromptFile, presets_folder
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.outside_file import inside, read_bytes

_FILE_NAME = re.compile(r"prompt_([1-9][0-9]{0,6})_([0-9]{1,6})\.txt")


@dataclass(frozen=True)
class PromptSet:
    """``prompts``: bucket → its files, in order. ``context_tokens``: None where the set does not say."""

    path: Path
    context_tokens: int | None
    prompts: Mapping[int, tuple[PromptFile, ...]]


def own_prompt_set() -> Path:
    """The set that ships."""
    return presets_folder() / "prompts"


def load_prompt_set(path: Path, place: str) -> PromptSet:
    """Read a folder or a manifest; ``place`` names the option in errors.

    Raises ConfigError: nothing there, a file that cannot be read or is empty, a name that tells no bucket, a file twice.
    """
    if path.is_dir():
        return PromptSet(path, None, _by_bucket(path, _of_folder(path, place)))
    if not path.is_file():
        raise ConfigError(f"{place}: prompts: expected a folder or a manifest, got {str(path)!r}; check the path")
    fields = load_document(path).fields("prompt manifest", ("context_tokens", "prompts"))
    if "prompts" not in fields:
        raise ConfigError(f"{path}: prompts: expected a list of {{bucket, file}}, got nothing; add the key")
    context = fields["context_tokens"].integer("context_tokens", 2) if "context_tokens" in fields else None
    return PromptSet(path, context, _by_bucket(path, [_listed(entry, path) for entry in fields["prompts"].items()]))


def sample(prompts: PromptSet, buckets: tuple[int, ...], per_bucket: int, seed: int) -> dict[int, tuple[PromptFile, ...]]:
    """``per_bucket`` files of every bucket, drawn without replacement, each bucket by itself: equal seeds, equal files.

    In the set's order. Raises ConfigError for a bucket with fewer files, and for files of a bucket that is not asked for.
    """
    other = sorted(set(prompts.prompts) - set(buckets))
    known = ", ".join(map(str, buckets))
    if other:
        file = prompts.prompts[other[0]][0].path
        raise ConfigError(f"{file}: bucket: expected one of {known} (tokens), got {other[0]}; rename it or take it out of the set")
    chosen: dict[int, tuple[PromptFile, ...]] = {}
    for bucket in buckets:
        files = prompts.prompts.get(bucket, ())
        if len(files) < per_bucket:
            raise ConfigError(
                f"{prompts.path}: bucket {bucket}: expected at least {per_bucket} prompt files (--prompts-per-bucket), got {len(files)}; "
                f"add prompt_{bucket}_{len(files) + 1}.txt or ask for fewer"
            )
        drawn = random.Random(f"{seed}/{bucket}").sample(range(len(files)), per_bucket)  # noqa: S311 (no secret)
        chosen[bucket] = tuple(files[index] for index in sorted(drawn))
    return chosen


def prompt_tokens(bucket: int, gen: int, context_tokens: int | None) -> int:
    """-p of a bucket: the bucket, or what the context leaves beside ``gen`` generated tokens. Raises ConfigError when that is nothing."""
    if context_tokens is None or bucket + gen <= context_tokens:
        return bucket
    if context_tokens <= gen:
        raise ConfigError(f"context_tokens: expected more than the {gen} generated tokens, got {context_tokens}; raise it or lower gens")
    return context_tokens - gen


def _of_folder(folder: Path, place: str) -> list[PromptFile]:
    """Files that are not called ``prompt_…`` are none of ours."""
    numbered: list[tuple[int, int, Path]] = []
    for path in sorted(folder.glob("prompt_*")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise ConfigError(f"{path}: name: expected prompt_<bucket>_<number>.txt, got {path.name!r}; rename it")
        numbered.append((int(match[1]), int(match[2]), path))
    if not numbered:
        raise ConfigError(f"{place}: prompts: expected prompt_<bucket>_<number>.txt files in {folder}, got none; check the path")
    return [_prompt_file(bucket, path, str(path)) for bucket, _, path in sorted(numbered)]


def _listed(entry: Node, manifest: Path) -> PromptFile:
    fields = entry.fields("prompt", ("bucket", "file"))
    for key in ("bucket", "file"):
        if key not in fields:
            raise ConfigError(f"{entry.place}: {key}: expected it of every prompt, got nothing; add the key")
    name, place = fields["file"].text("file"), fields["file"].place
    try:
        path = inside(manifest.parent, name)
    except ValueError as err:
        raise ConfigError(f"{place}: prompt file: expected one in the manifest's folder, got {err}; move one of them") from err
    return _prompt_file(fields["bucket"].integer("bucket", 1), path, place)


def _prompt_file(bucket: int, path: Path, place: str) -> PromptFile:
    try:
        data = read_bytes(path)
        empty = not data.decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{place}: prompt file: expected a readable UTF-8 file, got {err}; check it") from err
    if empty:
        raise ConfigError(f"{place}: prompt file: expected text, got an empty file; write the prompt into it")
    return PromptFile(bucket, path.absolute(), hashlib.sha256(data).hexdigest())


def _by_bucket(source: Path, files: list[PromptFile]) -> dict[int, tuple[PromptFile, ...]]:
    """Equal text twice would count one prompt double."""
    seen: dict[str, PromptFile] = {}
    for file in files:
        if file.sha256 in seen:
            raise ConfigError(f"{source}: {file.path.name}: expected each text once, got that of {seen[file.sha256].path.name}; remove one")
        seen[file.sha256] = file
    return {bucket: tuple(file for file in files if file.bucket == bucket) for bucket in sorted({file.bucket for file in files})}
