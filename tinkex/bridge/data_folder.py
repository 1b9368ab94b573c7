"""Keeps a second bridge from using the same data folder."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tinkex_server.store import StoreError

_PATIENCE = 2.0  # seconds, in which a bridge that is just ending releases the folder


def claim(folder: Path) -> sqlite3.Connection:
    """Claims a data folder for this process, until the returned connection is closed.

    Raises `StoreError` if another bridge uses the folder.
    """
    # closed by the thread that stops the bridge, which may be another one
    connection = sqlite3.connect(
        folder / "claim.db", timeout=_PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").close()
        connection.execute("BEGIN EXCLUSIVE").close()
    except sqlite3.OperationalError as error:
        connection.close()
        raise StoreError(
            f"{folder} is in use by another bridge; stop that one, or use another --data-dir"
        ) from error
    return connection
