"""Cut the prompt set that ships from the held-out text: for each bucket a few files of real text that do not overlap.

A file starts at a line at the left margin and stays within one source file of the held-out text. It holds the bucket's tokens and those
scored after them, and half as many again (counted in the reference model's tokens), so that a tokenizer with a larger vocabulary finds
enough in it::

    python tools/make_prompt_set.py --out presets/prompts
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from h2o_gate_plugin.runtime.prompts import HELD_OUT_TEXT
from h2o_gate_plugin.runtime.tokenizer import Tokenizer

BUCKETS = (2048, 512, 128)
"""Tokens; the longest first, while there is room."""
CONTINUATION_TOKENS = 129
"""What quality reads after the prompt."""
SLACK = 1.5
FILE_MARK = "# file: "
STARTS = ("def ", "class ", "import ", "from ")


def cut(text: str, tokenizer: Tokenizer, per_bucket: int, seed: int) -> dict[str, str]:
    """File name → text; the same seed cuts the same files."""
    lines = text.splitlines()
    tokens = [len(tokenizer.encode(f"{line}\n").ids) for line in lines]
    free = [not line.startswith(FILE_MARK) for line in lines]
    starts = [index for index, line in enumerate(lines) if line.startswith(STARTS)]
    rng = random.Random(seed)
    cuts: dict[str, str] = {}
    for bucket in BUCKETS:
        wanted = int((bucket + CONTINUATION_TOKENS) * SLACK)
        found = 0
        for start in rng.sample(starts, len(starts)):
            stop, held = start, 0
            while stop < len(lines) and free[stop] and held < wanted:
                held += tokens[stop]
                stop += 1
            if held >= wanted and found < per_bucket:
                free[start:stop] = [False] * (stop - start)
                found += 1
                cuts[f"prompt_{bucket}_{found}.txt"] = "".join(f"{line}\n" for line in lines[start:stop])
        if found < per_bucket:
            raise SystemExit(f"bucket {bucket}: expected room for {per_bucket} files, got {found}; ask for fewer")
    return cuts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-bucket", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = HELD_OUT_TEXT.parent
    vocab_size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    tokenizer = Tokenizer(folder, vocab_size)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in sorted(cut(HELD_OUT_TEXT.read_text(encoding="utf-8"), tokenizer, args.per_bucket, args.seed).items()):
        (args.out / name).write_text(text, encoding="utf-8")
        print(f"{args.out / name}: {len(text.encode())} bytes, {len(tokenizer.encode(text).ids)} tokens of the reference model")
    return 0


if __name__ == "__main__":
    sys.exit(main())
