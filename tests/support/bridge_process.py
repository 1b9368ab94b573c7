"""A bridge in a process of its own, which can be killed and started again at the same place."""

from __future__ import annotations

import multiprocessing
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from attrs import define

from tinkex.bridge.routing import Routing, Target
from tinkex.bridge.server import serve_bridge

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.support.counting_engine", "tests.support.bridge_process"])


@define
class BridgeProcess:
    """A bridge to one server."""

    port: int
    data_dir: Path
    target: Target
    child: ForkServerProcess | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        ready, theirs = _FORKS.Pipe(duplex=False)
        self.child = _FORKS.Process(
            target=_serve, args=(self.port, self.data_dir, self.target, theirs), daemon=True
        )
        self.child.start()
        theirs.close()
        with ready:
            ready.recv()

    def kill(self) -> None:
        """Kills the bridge by SIGKILL."""
        if self.child is not None:
            self.child.kill()
            self.child.join()
            self.child.close()
            self.child = None


@contextmanager
def bridge_process(data_dir: Path, target: Target) -> Iterator[BridgeProcess]:
    """Starts a bridge in a process of its own, and kills it at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        bridge = BridgeProcess(free.getsockname()[1], data_dir, target)
    try:
        bridge.start()
        yield bridge
    finally:
        bridge.kill()


def _serve(port: int, data_dir: Path, target: Target, ready: Connection) -> None:
    """Bridges until it is killed."""
    with serve_bridge(Routing(target), port=port, data_dir=data_dir):
        ready.send(None)
        ready.close()
        threading.Event().wait()
