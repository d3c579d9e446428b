"""The model card tells of the files that ship, not of some other training."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import pytest

import h2o_gate_plugin

FOLDER = Path(h2o_gate_plugin.__file__).parent / "models" / "reference"
CARD = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
TRAINING = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "heldout.txt"])
def test_the_card_has_the_sha256_of_each_file(name: str) -> None:
    digest = hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()
    assert f"| {name} | {digest} |" in CARD


@pytest.mark.parametrize("length", [512, 1024, 2048])
def test_the_cards_figures_are_those_of_the_training(length: int) -> None:
    loss, recall = TRAINING[f"loss_{length}"], TRAINING[f"recall_{length}"]
    assert f"| {length:,} | {loss:.3f} | {math.exp(loss):.2f} | {recall:.3f} |" in CARD


def test_the_card_names_corpus_steps_tokens_and_parameters() -> None:
    assert TRAINING["corpus_sha256"] in CARD
    for key in ("steps", "tokens", "parameters"):
        assert f"{TRAINING[key]:,}" in CARD


def test_the_held_out_text_comes_only_from_files_held_out() -> None:
    named = re.findall(r"^# file: (.+)$", (FOLDER / "heldout.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert named
    assert set(named) <= set(TRAINING["held_out_files"])
