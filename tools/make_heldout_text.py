"""Build the held-out text that llm_bench takes its prompts from: standard-library files the reference model never saw.

The files are those that ``tools/train_reference_model.py`` lists under ``held_out_files``; run it with the same interpreter
version as the training::

    python tools/make_heldout_text.py --training build/reference/training.json --out h2o_gate_plugin/models/reference/heldout.txt
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import sysconfig
from pathlib import Path

NOTICE = """\
# Held-out text: files of CPython {version}'s standard library that the reference model was not trained on.
# Copyright (c) 2001-2023 Python Software Foundation; All Rights Reserved. Licensed under the PSF License Agreement
# (https://docs.python.org/3/license.html). Each file starts with a comment line that names it; nothing else was changed,
# except that the last file may be cut short.
"""


def joined_text(root: Path, names: list[str], max_bytes: int) -> str:
    """Whole lines of the files in a fixed shuffled order (by hash of the name), at most ``max_bytes`` bytes of UTF-8."""
    lines: list[str] = []
    size = 0
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        for line in [f"# file: {name}", *(root / name).read_text(encoding="utf-8").splitlines()]:
            size += len(line.encode()) + 1
            if size > max_bytes:
                return "".join(f"{line}\n" for line in lines)
            lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training", type=Path, required=True, help="training.json of the reference model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-bytes", type=int, default=150_000)
    args = parser.parse_args()
    training = json.loads(args.training.read_text(encoding="utf-8"))
    version = sys.version.split()[0]
    if training["python"] != version:
        parser.error(f"{args.training}: python: expected the interpreter of the training, {training['python']}, got {version}")
    root = Path(sysconfig.get_path("stdlib"))
    text = NOTICE.format(version=version) + joined_text(root, training["held_out_files"], args.max_bytes)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding="utf-8")
    print(f"{args.out}: {len(text.encode())} bytes, sha256 {hashlib.sha256(text.encode()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
