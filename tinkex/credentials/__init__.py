"""The stored API keys of `~/.tinker/credentials.json`, in the format of the official SDK.

The file says where the key is that programs use: in the file itself, or in the keyring of the
operating system.
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
_KEYRING = "keyring"  # a field of the file that tinkex alone knows


@frozen
class Credentials:
    """The contents of the file: the stored keys, and the id of the default key.

    Each entry of `keys` has the fields `key`, `name` and `type`, and optionally `note` and
    `details`.
    """

    default: str | None = None
    """The id of the key that a client uses if no other key is configured."""
    keys: Mapping[str, Mapping[str, Any]] = field(factory=dict[str, Mapping[str, Any]], repr=False)
    in_keyring: Mapping[str, str] | None = None
    """The `id` and `name` of the key that a client uses if the system's keyring keeps it. Then the
    file has no default.
    """
    _others: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    """Other fields of the file, which are kept when it is written."""

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
        """Returns a copy with a key added or replaced, which becomes the default."""
        entry = {"type": "manual", "key": key, "name": name, "note": note, "details": details}
        kept = {field: value for field, value in entry.items() if value is not None}
        return evolve(self, default=key_id, keys={**self.keys, key_id: kept}, in_keyring=None)

    def with_key_in_keyring(self, key_id: str, name: str) -> Credentials:
        """Returns a copy whose default key is one of the system's keyring."""
        without = self.without_key(key_id)
        return evolve(without, default=None, in_keyring={"id": key_id, "name": name})

    def without_key(self, key_id: str) -> Credentials:
        """Returns a copy without a key. If the key was the default, the copy has no default."""
        keys = {other: entry for other, entry in self.keys.items() if other != key_id}
        kept = self.in_keyring if self.in_keyring and self.in_keyring["id"] != key_id else None
        default = None if self.default == key_id else self.default
        return evolve(self, default=default, keys=keys, in_keyring=kept)


def default_path() -> Path | None:
    """Returns the path of the file, or None if the user has no home directory."""
    try:
        return Path.home() / ".tinker" / "credentials.json"
    except RuntimeError:
        return None


def load(path: Path | None = None) -> Credentials:
    """Reads the file. The result is empty if the file does not exist.

    Raises:
        ConfigError: the file cannot be read, or has another format.
    """
    path = path or default_path()
    if path is None or not path.exists():
        return Credentials()
    try:
        return _parse(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            # The message of the original error is left out, because it may contain a key.
            f"{path} is not a file of stored keys: {type(error).__name__}",
            advice="Repair or remove the file, or set TINKER_API_KEY, which takes precedence.",
        ) from None


def save(credentials: Credentials, path: Path | None = None) -> Path:
    """Writes the file atomically, readable by its owner only, and returns its path.

    Raises:
        ConfigError: the user has no home directory, and no path is given.
    """
    path = path or default_path()
    if path is None:
        raise ConfigError(
            "there is no home directory to store keys in", advice="Set HOME or TINKER_API_KEY."
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content: dict[str, Any] = {
        **credentials._others,  # pyright: ignore[reportPrivateUsage]
        "version": _VERSION,
        "default": credentials.default,
        "keys": credentials.keys,
    }
    if credentials.in_keyring is not None:
        content[_KEYRING] = dict(credentials.in_keyring)
    # mkstemp creates a file that only its owner can read.
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
        raise ValueError("unknown version")
    keys: dict[str, dict[str, Any]] = {
        key_id: dict(entry) for key_id, entry in content["keys"].items()
    }
    if not all(isinstance(entry["key"], str) for entry in keys.values()):
        raise TypeError("a key is not a string")
    known = ("version", "default", "keys", _KEYRING)
    others = {name: value for name, value in content.items() if name not in known}
    kept = content.get(_KEYRING)
    in_keyring = {name: str(kept[name]) for name in ("id", "name")} if kept else None
    return Credentials(content.get("default"), keys, in_keyring, others)
