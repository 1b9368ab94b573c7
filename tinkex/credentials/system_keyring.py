"""The keyring of the operating system, which the package keyring reaches if it is installed: the
Keychain of macOS, the Credential Locker of Windows, the Secret Service of a Linux desktop.

PYTHON_KEYRING_BACKEND chooses another one; `keyring.backends.fail.Keyring` stands for none.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tinkex.errors import ConfigError

_SERVICE = "tinkex"


def write(key_id: str, key: str) -> bool:
    """Stores a key. Returns False, and stores nothing, if there is no keyring that takes it."""
    keyring = _package()
    if keyring is None:
        return False
    try:
        keyring.set_password(_SERVICE, key_id, key)
    except keyring.errors.KeyringError:
        return False
    return True


def read(key_id: str) -> str:
    """Returns a key that was stored.

    Raises:
        ConfigError: the keyring cannot be read, or no longer has the key.
    """
    keyring = _package()
    if keyring is None:
        raise _unreadable(key_id, "the package keyring is not installed", "Install tinkex[keyring]")
    try:
        key = keyring.get_password(_SERVICE, key_id)
    except keyring.errors.KeyringError as error:
        raise _unreadable(key_id, str(error) or type(error).__name__, "Unlock it") from error
    if key is None:
        raise _unreadable(key_id, "it has no such key", "Log in again by `tinkex auth login`")
    return key


def delete(key_id: str) -> None:
    """Deletes a key. Does nothing if the keyring does not have it.

    Raises:
        ConfigError: the keyring cannot be changed.
    """
    keyring = _package()
    if keyring is None:
        raise _unreadable(key_id, "the package keyring is not installed", "Install tinkex[keyring]")
    try:
        if keyring.get_password(_SERVICE, key_id) is not None:
            keyring.delete_password(_SERVICE, key_id)
    except keyring.errors.KeyringError as error:
        raise _unreadable(key_id, str(error) or type(error).__name__, "Unlock it") from error


def _package() -> Any:
    """Returns the package keyring, or None if it is not installed."""
    try:
        import_module("keyring.errors")
        return import_module("keyring")
    except ModuleNotFoundError:
        return None


def _unreadable(key_id: str, why: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"key {key_id} is in the system's keyring, which cannot give it: {why}",
        advice=f"{remedy}, or set TINKER_API_KEY, which takes precedence.",
    )
