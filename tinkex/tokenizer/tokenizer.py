"""`Tokenizer`: text to token ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend


@frozen
class Tokenizer:
    """Text to token ids and back. Shared by all who ask for the same name, and safe from any thread."""

    name: str
    _backend: Backend

    @classmethod
    def over(cls, name: str, backend: Backend) -> Self:
        """Cuts and pads nothing, whatever its file says of that: each text becomes all of its tokens and no others."""
        backend.no_truncation()
        backend.no_padding()
        return cls(name, backend)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> NDArray[np.int64]:
        """Token ids `(N,)`."""
        return _ids(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    encode_text = encode  # as it is called elsewhere

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = False) -> list[NDArray[np.int64]]:
        """What `encode` makes of each, on all processors."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [_ids(encoding.ids) for encoding in encodings]

    def decode(self, tokens: Sequence[int] | NDArray[np.integer], *, skip_special_tokens: bool = True) -> str:
        return self._backend.decode(np.asarray(tokens).tolist(), skip_special_tokens=skip_special_tokens)

    @property
    def vocab_size(self) -> int:
        return self._backend.get_vocab_size()


def _ids(ids: Sequence[int]) -> NDArray[np.int64]:
    return np.asarray(ids, dtype=np.int64)
