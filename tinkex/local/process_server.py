"""The embedded server of this process, for `base_url="local"`. It starts at the first request, and
ends with the process.
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
    """The process that removes the folder when this process has ended, in whatever way."""


_lock = threading.Lock()
_started: _Started | None = None


def local_url() -> str:
    """Returns the base URL of this process's server, and starts the server at the first call.

    The start takes seconds, for which other calls wait. Raises `ConfigError` when it fails.
    """
    global _started
    with _lock:
        if _started is None:
            _started = _start()
        return _started.base_url


def _start() -> _Started:
    parent = Path(tempfile.gettempdir())
    for orphan in claim_orphans(parent, _PREFIX, _PURPOSE):
        orphan.remove()
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
            advice="Or give the URL of a running server; `tinkex serve` prints it.",
        ) from error
    logger.info(
        "serving %s in this process; its checkpoints are removed when the process ends",
        server.base_url,
    )
    return _Started(server.base_url, folder, _start_watcher(folder.path))


def _start_watcher(folder: Path) -> subprocess.Popen[bytes] | None:
    """Starts a process that removes the folder when this one ends; None without a shell.

    A process that is killed by a signal cannot remove anything itself.
    """
    shell = shutil.which("sh") if sys.platform != "win32" else None
    if shell is None:
        return None
    return subprocess.Popen(
        [shell, "-c", 'read -r _; rm -rf -- "$0"', str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that Ctrl-C does not end it
    )


def _remove_folder() -> None:
    """Removes the folder at exit.

    The server itself is not closed, since no threads can be started at exit. Its threads and its
    engine end with the process.
    """
    if _started is not None:
        _started.folder.remove()
        if _started.watcher is not None:
            _started.watcher.communicate()


def _forget_in_child() -> None:
    """Forgets the parent's server in the child of a fork, where that server's threads do not run.

    The child starts a server of its own when it needs one.
    """
    global _started, _lock
    if _started is not None:
        _started.folder.release_in_child()
        if (watcher := _started.watcher) is not None:
            assert watcher.stdin is not None
            watcher.stdin.close()
            watcher.returncode = 0  # the watcher is no child of this process
    _started, _lock = None, threading.Lock()


# registered at import, before the portal's handler: exit handlers run in reverse order, and the
# portal's still finishes open sessions on this server
atexit.register(_remove_folder)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
