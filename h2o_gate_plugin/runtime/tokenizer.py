"""The model folder's tokenizer.json, through the ``tokenizers`` library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as TokenizerFile

from h2o_gate_plugin.errors import ConfigError


@dataclass(frozen=True)
class Encoding:
    """Token ids, and for each the characters [start, end) of the text that it covers."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


class Tokenizer:
    """Text to token ids; no special tokens are added."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """Raises ConfigError when tokenizer.json does not load or has more tokens than the model's embedding."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ConfigError(f"{path}: file: expected the model's tokenizer.json, got no such file")
        self._file = _load(path)
        if self._file.get_vocab_size() > vocab_size:
            raise ConfigError(f"{path}: vocabulary: expected at most {vocab_size} tokens (vocab_size), got {self._file.get_vocab_size()}")
        self._path, self._vocab_size = path, vocab_size

    def encode(self, text: str) -> Encoding:
        """Raises ConfigError when the file's rules cannot do it, or give an id that the model's embedding does not have."""
        try:
            encoded = self._file.encode(text, add_special_tokens=False)
        except Exception as err:  # as in `_load`
            raise ConfigError(f"{self._path}: tokens: expected rules that encode any text, got {err}; export the tokenizer again") from err
        largest = max(encoded.ids, default=0)
        if largest >= self._vocab_size:  # ids may have gaps; the kernels look rows up without a check
            raise ConfigError(f"{self._path}: tokens: expected ids below {self._vocab_size} (vocab_size), got {largest}")
        return Encoding(tuple(encoded.ids), tuple(encoded.offsets))


def _load(path: Path) -> TokenizerFile:
    try:
        return TokenizerFile.from_file(str(path))
    except Exception as err:  # the library raises bare Exception for every broken file
        raise ConfigError(f"{path}: file: expected a tokenizers JSON file, got {err}; export the tokenizer again") from err
