"""The names of other formats of data for the fields and roles of a row, and what they mean here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_FIELDS = {
    **dict.fromkeys(("instruction", "question", "query", "input"), "prompt"),
    **dict.fromkeys(("output", "response", "answer", "target"), "completion"),
    **dict.fromkeys(("conversations", "conversation", "dialogue"), "messages"),
    **dict.fromkeys(("content", "document"), "text"),
}
_ROLES = {
    **dict.fromkeys(("human", "person", "client"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
}
_KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def renaming(fields: Iterable[str]) -> str:
    """Returns advice on how to rename the fields of a row, or "" for fields of no known format."""
    meant: dict[str, str] = {}  # the first field that means each of ours
    for field in fields:
        if field in _FIELDS:
            meant.setdefault(_FIELDS[field], field)
    pairs = " and ".join(f"{theirs!r} to {ours!r}" for ours, theirs in meant.items())
    each = ", with a 'role' and a 'content' in each" if "messages" in meant else ""
    return f"Rename {pairs}{each}. " if pairs else ""


def role_meant(role: str) -> str | None:
    """Returns the role that another name or a misspelling stands for; None for all others, which a
    chat template may know.
    """
    lower = role.strip().lower()
    if role in _KNOWN_ROLES:
        return None
    if lower in _KNOWN_ROLES:
        return lower
    near = difflib.get_close_matches(lower, _KNOWN_ROLES, n=1, cutoff=0.8)
    return _ROLES.get(lower) or (near[0] if near else None)
