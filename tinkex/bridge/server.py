"""`serve_bridge`: runs the bridge in a thread of this process."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from socket import socket
from types import TracebackType
from typing import Self

from starlette.types import ASGIApp

from tinkex.bridge.app import BridgeApp
from tinkex.bridge.data_folder import claim
from tinkex.bridge.routing import Routing
from tinkex_server.access.origin_check import OriginCheck
from tinkex_server.app.http_thread import HttpThread
from tinkex_server.app.listening import is_private, listen, url_of
from tinkex_server.state import CommonState


class _BridgeThread(HttpThread):
    """A thread that runs one bridge until `stop` is called."""

    def __init__(
        self,
        listener: socket,
        data_dir: Path,
        routing: Routing,
        key: str | None,
        *,
        access_log: bool,
    ) -> None:
        super().__init__("tinkex-bridge", listener, access_log=access_log)
        self._data_dir = data_dir
        self._routing = routing
        self._key = key
        self._is_local = is_private(listener)

    def _make_app(self) -> ASGIApp:
        self._app = BridgeApp(self._data_dir, self._routing, self._key)
        # pages of a browser can reach what listens on this machine alone
        return OriginCheck(self._app) if self._is_local else self._app

    def _states(self) -> Sequence[CommonState]:
        return self._app.states()

    def _answer_polls(self) -> None:
        self._app.stop()

    async def _close(self) -> None:
        await self._app.close()


class Bridge:
    """A running bridge, made by `serve_bridge`. Leaving it as a context manager stops it."""

    base_url: str
    data_dir: Path

    def __init__(
        self,
        listener: socket,
        data_dir: Path,
        routing: Routing,
        key: str | None,
        resources: ExitStack,
        *,
        access_log: bool,
    ) -> None:
        self.base_url = url_of(listener)
        self.data_dir = data_dir
        self._routing = routing
        self._resources = resources
        self._thread = _BridgeThread(listener, data_dir, routing, key, access_log=access_log)
        self._thread.start()
        self._thread.wait_until_started()

    def wait(self) -> None:
        """Returns when the bridge has stopped."""
        self._thread.wait()

    def close(self) -> None:
        """Stops the bridge, and ends its sessions on the servers behind it. A second call does
        nothing.
        """
        self._thread.stop()
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Bridge {self.base_url} to {self._routing.default.url}>"


def serve_bridge(
    routing: Routing,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    data_dir: Path | str | None = None,
    api_key: str | None = None,
    access_log: bool = False,
) -> Bridge:
    """Starts a bridge, and returns it when it answers requests. The servers behind it need not be
    there yet.

    Args:
        routing: the servers behind the bridge.
        host, port: the address to listen on. Port 0 takes a free port.
        data_dir: the folder for the record of requests; by default a temporary one, which is
            removed when the bridge stops.
        api_key: the key that is sent to the servers in place of the callers' keys; by default each
            caller's own key is sent.
        access_log: whether each request is logged, by the logger `uvicorn.access`.

    Raises:
        OSError: the bridge cannot listen on the address, or cannot write the data folder.
        StoreError: another bridge uses the data folder.
        ApiKeyRequired: other machines can reach the address, and `api_key` would let them all use
            the servers.
    """
    listener = listen(host, port, guarded=api_key is None)
    with ExitStack() as resources:
        resources.callback(listener.close)
        folder = data_dir or resources.enter_context(
            tempfile.TemporaryDirectory(prefix="tinkex-bridge-")
        )
        path = Path(folder).absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        resources.enter_context(closing(claim(path)))
        kept = resources.pop_all()
        return Bridge(listener, path, routing, api_key, kept, access_log=access_log)
