from __future__ import annotations

from pathlib import Path

import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.tokenizer import Tokenizer


def test_spans_cover_the_text_and_digits_stand_alone(tiny_folder: Path) -> None:
    text = "ABC == 417\n"
    encoded = Tokenizer(tiny_folder, 260).encode(text)
    assert len(encoded.ids) == len(encoded.spans) == len(text)
    assert [text[start:end] for start, end in encoded.spans if text[start:end].isdigit()] == ["4", "1", "7"]


def test_a_vocabulary_larger_than_the_embedding_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="expected at most 100 tokens"):
        Tokenizer(tiny_folder, 100)


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json: file"):
        Tokenizer(tmp_path, 260)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a tokenizers JSON file"):
        Tokenizer(tmp_path, 260)
