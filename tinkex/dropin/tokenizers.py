"""Tokenizers of transformers, which programs for the official SDK expect of a client."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from tinkex.tokenizer import Tokenizer


def as_transformers(tokenizer: Tokenizer) -> Any:
    """Returns the same tokenizer as one of transformers; the tokenizer itself where that library is
    not installed.
    """
    if find_spec("transformers") is None:
        return tokenizer
    return tokenizer.to_transformers()
