"""`~/.tinker/credentials.json`: the stored keys, in the official file's format, and which of them
is used by default.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from tinkex.errors import ConfigError

_VERSION = 1


@frozen
class Credentials:
    """The keys by their ids, each as the file has it: `key`, `name`, `type`, and maybe `note` and
    `details`.
    """

    default: str | None = None
    """The id of the key that is used where none is given."""
    keys: Mapping[str, Mapping[str, Any]] = field(factory=dict[str, Mapping[str, Any]], repr=False)
    _others: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    """Fields that other programs keep in the file."""

    @property
    def default_key(self) -> str | None:
        entry = self.keys.get(self.default) if self.default else None
        return entry["key"] if entry else None

    def with_key(
        self,
        key_id: str,
        key: str,
        name: str,
        *,
        note: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Credentials:
        """With one key more, or another under this id, which is the default from now on."""
        entry = {"type": "manual", "key": key, "name": name, "note": note, "details": details}
        kept = {field: value for field, value in entry.items() if value is not None}
        return evolve(self, default=key_id, keys={**self.keys, key_id: kept})

    def without_key(self, key_id: str) -> Credentials:
        """Without a key; there is no default then if it was that."""
        keys = {other: entry for other, entry in self.keys.items() if other != key_id}
        return evolve(self, default=None if self.default == key_id else self.default, keys=keys)


def default_path() -> Path | None:
    """Where the file is; None for a user without a home."""
    try:
        return Path.home() / ".tinker" / "credentials.json"
    except RuntimeError:
        return None


def load(path: Path | None = None) -> Credentials:
    """What is stored; nothing where there is no file.

    Raises:
        ConfigError: the file is of another format, or cannot be read.
    """
    path = path or default_path()
    if path is None or not path.exists():
        return Credentials()
    try:
        return _parse(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            # whose own words may hold a key
            f"{path} is not a file of stored keys: {type(error).__name__}",
            advice="Repair or remove it, or set TINKER_API_KEY and it is not read.",
        ) from None


def save(credentials: Credentials, path: Path | None = None) -> Path:
    """Writes the file at once, whole, for its owner's eyes only."""
    path = path or default_path()
    if path is None:
        raise ConfigError(
            "there is no home folder to store keys in", advice="Set HOME, or use TINKER_API_KEY."
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {
        **credentials._others,  # pyright: ignore[reportPrivateUsage]
        "version": _VERSION,
        "default": credentials.default,
        "keys": credentials.keys,
    }
    # readable by its owner alone
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _parse(content: Any) -> Credentials:
    if content["version"] != _VERSION:
        raise ValueError("another version")
    keys: dict[str, dict[str, Any]] = {
        key_id: dict(entry) for key_id, entry in content["keys"].items()
    }
    if not all(isinstance(entry["key"], str) for entry in keys.values()):
        raise TypeError("a key that is no text")
    others = {
        name: value for name, value in content.items() if name not in ("version", "default", "keys")
    }
    return Credentials(content.get("default"), keys, others)
