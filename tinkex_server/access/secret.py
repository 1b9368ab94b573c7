"""The server's secret. It is kept in the data folder, so that what the server signed before a
restart is still valid after it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

_BYTES = 32


def load_secret(data_dir: Path) -> bytes:
    """Returns the secret of a data folder, which is created if there is none.

    Only the owner of the file can read it.
    """
    file = data_dir / "secret"
    if not file.exists():
        new = data_dir / f".secret-{secrets.token_hex(8)}"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(secrets.token_bytes(_BYTES))
        new.replace(file)
    return file.read_bytes()


def signature(secret: bytes, purpose: str, message: bytes) -> bytes:
    """Returns the signature of a message. It is not valid for any other purpose."""
    key = hmac.digest(secret, purpose.encode(), hashlib.sha256)
    return hmac.digest(key, message, hashlib.sha256)
