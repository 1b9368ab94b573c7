"""Tokenizers by name: the shipped one, a folder or file on disk, or one of the Hugging Face hub."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from tokenizers import Tokenizer as _Tokenizer

from tinkex.errors import TinkexError

SHIPPED = {"tinkex/tiny": Path(__file__).parent / "tiny" / "tokenizer.json"}
"""The tokenizers inside this package, by the name of their model."""


class TokenizerError(TinkexError):
    """A tokenizer cannot be had; the message says where it was looked for."""

    fault = "user"


@frozen
class Tokenizer:
    """Text to token ids and back. Shared by all who ask for the same name, and safe from any thread."""

    name: str
    _tokenizer: _Tokenizer

    def encode(self, text: str, *, add_special_tokens: bool = False) -> NDArray[np.int64]:
        """Token ids `(N,)`."""
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids, dtype=np.int64)

    def decode(self, tokens: Sequence[int] | NDArray[np.integer], *, skip_special_tokens: bool = True) -> str:
        return self._tokenizer.decode(np.asarray(tokens).tolist(), skip_special_tokens=skip_special_tokens)

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size()


_loading = threading.Lock()


def get_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of `name`: `tinkex/tiny`, a folder with a tokenizer.json, such a file itself, or a hub id.

    Raises:
        TokenizerError: it is in none of these places.

    Example:
        >>> get_tokenizer("tinkex/tiny").decode([104, 105])
        'hi'
    """
    with _loading:  # concurrent callers for one name wait for one load
        return _load(name)


@lru_cache(maxsize=16)
def _load(name: str) -> Tokenizer:
    path = SHIPPED.get(name, Path(name))
    if path.is_dir():
        path = path / "tokenizer.json"
    if path.is_file():
        return Tokenizer(name, _Tokenizer.from_file(str(path)))
    try:
        return Tokenizer(name, _Tokenizer.from_pretrained(name))
    except Exception as error:
        raise TokenizerError(
            f"no tokenizer for {name!r}: not shipped, no such folder or file, and the hub says: {error}",
            advice="Give a folder that holds a tokenizer.json, or the model's id on the hub (HF_TOKEN for a gated one).",
        ) from error
