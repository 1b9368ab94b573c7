"""Tools that the commands which run until Ctrl-C share."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path
from types import FrameType

INTERRUPTED = 130
"""The exit status of a command that was interrupted."""
_GARBAGE = 50_000  # objects; more than a few hundred concurrent requests allocate


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Handles SIGTERM like Ctrl-C."""
    raise KeyboardInterrupt


def collect_rarely() -> None:
    """Makes the garbage collector run rarely.

    It took a tenth of the time and found almost nothing, because requests leave no cycles behind.
    """
    gc.freeze()  # The imported modules are never collected.
    gc.set_threshold(_GARBAGE)


def os_error(error: OSError, host: str, port: int) -> str:
    """Returns what a server could not use: a file, which the error names, or else the address."""
    reason = error.strerror or error
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; choose another with --port, or 0 for a free one"
    if error.filename is None:
        return f"cannot listen on {host}, port {port}: {reason}; choose others by --host and --port"
    return f"cannot use {error.filename}: {reason}; choose another data folder by --data-dir"


def user_data_folder() -> Path:
    """Returns the folder for what tinkex keeps for the user who runs it."""
    base = os.environ.get("XDG_DATA_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".local" / "share") / "tinkex"
