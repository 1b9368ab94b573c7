"""`TokenizerFiles`: the files of a tokenizer, and the special tokens that they name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from attrs import frozen

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS, _MODEL_CONFIG = "special_tokens_map.json", "config.json"

TEMPLATE = "chat_template.jinja"
_BESIDE = (CONFIG, _SPECIAL_TOKENS, _MODEL_CONFIG, TEMPLATE)
"""The files beside tokenizer.json of which transformers makes a tokenizer."""

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
"""The roles of special tokens. tokenizer.json marks tokens as special, but does not say in which
role.
"""


@frozen
class TokenizerFiles:
    """The contents of a tokenizer.json, and access to the files beside it."""

    tokenizer_json: str
    read: Callable[[str], str | None]
    """A function that returns the text of a file by its name, or None if there is no such file."""

    def roles(self) -> Mapping[str, str | None]:
        """Returns the special token of each role, or None for a role that a file leaves empty.

        Roles that no file mentions are missing from the result. Raises `ValueError` for a malformed
        file.
        """
        found: dict[str, str | None] = {}
        for name in (CONFIG, _SPECIAL_TOKENS):
            if "eos_token" not in found:
                found = {**_roles(self._fields(name)), **found}
        return found

    def end_id(self) -> int | None:
        """Returns the end-of-text id of the model's configuration, or None if it does not name
        exactly one.
        """
        end = self._fields(_MODEL_CONFIG).get("eos_token_id")
        return end if type(end) is int else None

    def beside(self) -> Mapping[str, str]:
        """Returns the texts of the files beside tokenizer.json of which transformers makes a
        tokenizer, by their names.
        """
        texts = {name: self.read(name) for name in _BESIDE}
        return {name: text for name, text in texts.items() if text is not None}

    def _fields(self, name: str) -> Mapping[str, Any]:
        text = self.read(name)
        if text is None:
            return {}
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError(f"{name} is not a JSON object")
        return cast("dict[str, Any]", fields)


def chat_template(beside: Mapping[str, str]) -> str | None:
    """Returns the chat template in the files beside tokenizer.json, or None.

    A file of its own goes before the one in tokenizer_config.json, which may be a list of named
    templates: then it is the one named "default".
    """
    if TEMPLATE in beside:
        return beside[TEMPLATE]
    found: Any = json.loads(beside.get(CONFIG, "{}")).get("chat_template")
    if isinstance(found, list):
        named = cast("list[dict[str, str]]", found)
        return next((each["template"] for each in named if each["name"] == "default"), None)
    return found if isinstance(found, str) else None


def _roles(fields: Mapping[str, Any]) -> dict[str, str | None]:
    return {role: _content(fields[role]) for role in ROLES if role in fields}


def _content(token: Any) -> str | None:
    """Returns the text of a token, which is a string or an object with the token's properties."""
    if isinstance(token, dict):
        token = cast("dict[str, Any]", token).get("content")
    return token if isinstance(token, str) else None
