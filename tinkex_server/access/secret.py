"""The server's secret, kept in its data folder: what it signed before a restart holds after it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

_BYTES = 32


def load_secret(data_dir: Path) -> bytes:
    """The folder's secret, made if need be. Nobody but its owner can read the file."""
    file = data_dir / "secret"
    if not file.exists():
        new = data_dir / f".secret-{secrets.token_hex(8)}"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(secrets.token_bytes(_BYTES))
        new.replace(file)
    return file.read_bytes()


def signature(secret: bytes, purpose: str, message: bytes) -> bytes:
    """A signature for one purpose says nothing for another."""
    key = hmac.digest(secret, purpose.encode(), hashlib.sha256)
    return hmac.digest(key, message, hashlib.sha256)
