"""`TokenizerFiles`: the files that make a tokenizer, and what they say of its special tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from attrs import frozen

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS, _MODEL_CONFIG = "special_tokens_map.json", "config.json"

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
"""The parts that a special token may play. tokenizer.json says which tokens are special, and of
none which part.
"""


@frozen
class TokenizerFiles:
    """A tokenizer.json, and what lies beside it: `read` gives the text of a file by its name, None
    where there is none.
    """

    tokenizer_json: str
    read: Callable[[str], str | None]

    def roles(self) -> Mapping[str, str | None]:
        """Returns the special token of each part, None where a file says that there is none; the
        rest is unknown.

        Raises `ValueError` for a broken file.
        """
        found: dict[str, str | None] = {}
        for name in (CONFIG, _SPECIAL_TOKENS):
            if "eos_token" not in found:
                found = {**_roles(self._fields(name)), **found}
        return found

    def end_id(self) -> int | None:
        """Returns the id that ends a text by the model's configuration, None where that names none
        or several.
        """
        end = self._fields(_MODEL_CONFIG).get("eos_token_id")
        return end if type(end) is int else None

    def _fields(self, name: str) -> Mapping[str, Any]:
        text = self.read(name)
        if text is None:
            return {}
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError(f"{name} holds no JSON object")
        return cast("dict[str, Any]", fields)


def _roles(fields: Mapping[str, Any]) -> dict[str, str | None]:
    return {role: _content(fields[role]) for role in ROLES if role in fields}


def _content(token: Any) -> str | None:
    """Returns the text of a token that is written as text, or with its properties."""
    if isinstance(token, dict):
        token = cast("dict[str, Any]", token).get("content")
    return token if isinstance(token, str) else None
