"""Runs first in each interpreter that a test starts, since its folder is on PYTHONPATH.

The process of an engine has a fork of the tests' forking process do its work, if that runs: it
hands on its standard input, output and error, and ends as the fork does. If it is killed, so is the
fork. Every other interpreter goes on as usual, with the next module of this name.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec


def _hand_on(place: str) -> None:
    import json
    import socket
    from pathlib import Path

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(place)
        except OSError:  # it does not run
            return
        ended, theirs = os.pipe()
        request = {"folder": str(Path.cwd()), "environment": dict(os.environ)}
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2, theirs])
        connection.recv(16)  # the fork's process id
        for descriptor in (0, 1, theirs):
            os.close(descriptor)
        code = int(os.read(ended, 16) or 1)
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


if "FORKS_OF_TESTS" in os.environ and sys.orig_argv[-1] == "tinkex_server.engine.process.worker":
    _hand_on(os.environ["FORKS_OF_TESTS"])
_here = os.path.dirname(__file__)  # noqa: PTH120  pathlib takes longer to import than this to run
_next = PathFinder.find_spec("sitecustomize", sys.path[sys.path.index(_here) + 1 :])
if _next is not None and _next.loader is not None:
    _next.loader.exec_module(module_from_spec(_next))
