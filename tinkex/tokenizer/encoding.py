"""`Encoding`: the result of calling a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from attrs import fields_dict, frozen

Ids = TypeVar("Ids")


@frozen(eq=False)
class Encoding(Mapping[str, Ids], Generic[Ids]):
    """The token ids of one text, or of several.

    Attributes are also keys: `encoding.input_ids` and `encoding["input_ids"]` are the same.
    """

    input_ids: Ids
    attention_mask: Ids
    """A 1 for each token, because texts are not padded."""

    def __getitem__(self, key: str) -> Ids:
        if key not in fields_dict(Encoding):
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(fields_dict(Encoding))

    def __len__(self) -> int:
        return len(fields_dict(Encoding))
