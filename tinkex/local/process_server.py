"""The embedded server of this process, which `base_url="local"` asks for: started when it is first
needed, and gone with the process.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from attrs import frozen

from tinkex.claimed_folder import ClaimedFolder, claim_orphans
from tinkex.errors import ConfigError

_PREFIX, _PURPOSE = "tinkex-local-", "data of a server"
logger = logging.getLogger("tinkex")


@frozen
class _Started:
    base_url: str
    folder: ClaimedFolder
    watcher: subprocess.Popen[bytes] | None
    """Removes the folder when this process is gone, however it ends."""


_lock = threading.Lock()
_started: _Started | None = None


def local_url() -> str:
    """Where the process's own server is. The first call starts it, which takes a second; others
    wait meanwhile.

    Raises `ConfigError` when it cannot be started.
    """
    global _started
    with _lock:
        if _started is None:
            _started = _start()
        return _started.base_url


def _start() -> _Started:
    parent = Path(tempfile.gettempdir())
    for left in claim_orphans(parent, _PREFIX, _PURPOSE):
        left.remove()
    folder = ClaimedFolder.make(parent, _PREFIX, _PURPOSE)
    data = folder.path / "data"
    try:
        from tinkex.local import serve

        server = serve(data_dir=data)
    except Exception as error:
        folder.remove()
        raise ConfigError(
            "base_url 'local' asks for a server in this process, which could not be started: "
            f"{error}",
            advice="Or give the address of a server that runs; `tinkex serve` prints it.",
        ) from error
    logger.info(
        "serving %s in this process, which keeps its checkpoints until it ends", server.base_url
    )
    return _Started(server.base_url, folder, _watcher(folder.path))


def _watcher(folder: Path) -> subprocess.Popen[bytes] | None:
    """Starts a process that waits for the end of this one: a signal leaves no time to remove
    anything. None where there is no shell.
    """
    shell = shutil.which("sh") if sys.platform != "win32" else None
    if shell is None:
        return None
    return subprocess.Popen(
        [shell, "-c", 'read -r _; rm -rf -- "$0"', str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # or Ctrl-C would end it, too
    )


def _stop() -> None:
    """At exit no thread can be had any more to close the server in good order: its own end with the
    process, as does its engine.
    """
    if _started is not None:
        _started.folder.remove()
        if _started.watcher is not None:
            _started.watcher.communicate()


def _forget() -> None:
    """In the child of a fork, where the server's threads do not run: it is the parent's, and the
    child starts one of its own.
    """
    global _started, _lock
    if _started is not None:
        _started.folder.release_in_child()
        if (watcher := _started.watcher) is not None:
            assert watcher.stdin is not None
            watcher.stdin.close()
            watcher.returncode = 0  # it is not this process's to wait for
    _started, _lock = None, threading.Lock()


# here, and so before the portal's: exit handlers run in the opposite order, and open sessions have
# yet to say goodbye to the server
atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
