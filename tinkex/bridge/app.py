"""`BridgeApp`: the ASGI application of the bridge, which keeps the holders of keys apart."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Sequence
from pathlib import Path

from attrs import define
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tinkex.bridge import (
    archives,
    checkpoints,
    custom_losses,
    models,
    sampling,
    server_routes,
    streams,
    training,
    weights,
)
from tinkex.bridge.resume import begin_to_resume
from tinkex.bridge.routing import Routing
from tinkex.bridge.state import BridgeState, open_state
from tinkex_server.access.authentication import check_signature, is_signed
from tinkex_server.access.secret import load_secret
from tinkex_server.access.signed_urls import BadSignature
from tinkex_server.app.api import Api
from tinkex_server.errors import Reason, Refused
from tinkex_server.routes import (
    audit,
    checkpoint_search,
    futures,
    runs,
    server,
    session_search,
    sessions,
    traces,
    usage,
)
from tinkex_server.routes import (
    checkpoints as common_checkpoints,
)
from tinkex_server.wire.refusals import refusal_response
from tinkex_server.wire.scope import header

logger = logging.getLogger("tinkex.bridge")

_MOST_KEYS = 256
_OWN = (
    *(server_routes, models, training, weights, sampling, streams),
    *(custom_losses, checkpoints, archives),
)
_COMMON = (
    *(server, sessions, session_search, traces, futures, runs),
    *(checkpoint_search, common_checkpoints, audit, usage),
)


def _routes() -> Sequence[Route]:
    """Returns the routes of the bridge, and those of the embedded server that it has no own for."""
    own = [route for module in _OWN for route in module.ROUTES]
    taken = {(route.path, method) for route in own for method in route.methods or ()}
    common = [
        route
        for module in _COMMON
        for route in module.ROUTES
        if not any((route.path, method) in taken for method in route.methods or ())
    ]
    return [*own, *common]


@define(eq=False)
class _Tenant:
    """The holder of one key."""

    state: BridgeState
    api: ASGIApp
    resuming: asyncio.Task[None]

    async def close(self) -> None:
        """Ends what belongs to the holder of the key."""
        self.resuming.cancel()
        await self.state.close()


class BridgeApp:
    """An application that has a state of its own for each key: what was made with one key is known
    to no other. To be used on one event loop.
    """

    def __init__(self, data_dir: Path, routing: Routing, key: str | None) -> None:
        """Makes the application.

        Args:
            data_dir: the folder that the states are kept in.
            routing: the servers behind the bridge.
            key: the key that is sent to the servers in place of the callers' keys. None: each
                caller's own key is sent.
        """
        self._data_dir = data_dir
        self._routing = routing
        self._key = key
        self._secret = load_secret(data_dir)
        self._routes = _routes()
        self._tenants: dict[str, _Tenant] = {}  # by key, in memory alone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            app = self._signed(scope) if is_signed(scope) else self._tenant(scope).api
        except Refused as refusal:
            app = refusal_response(refusal)
        await app(scope, receive, send)

    def _tenant(self, scope: Scope) -> _Tenant:
        """Returns the tenant whose key a request carries."""
        key = self._key if self._key is not None else _key_of(scope)
        if key not in self._tenants:
            if len(self._tenants) >= _MOST_KEYS:
                raise Refused(
                    Reason.UNAVAILABLE, f"the bridge has been sent {_MOST_KEYS} different keys"
                )
            folder = self._data_dir / self._folder_name(key)
            state = open_state(folder, self._routing, key or None)
            self._tenants[key] = _Tenant(state, Api(self._routes, state), begin_to_resume(state))
        return self._tenants[key]

    def _folder_name(self, key: str) -> str:
        """Returns the name of the folder of a key, from which the key cannot be found out."""
        return hmac.digest(self._secret, key.encode(), hashlib.sha256).hex()[:32]

    def _signed(self, scope: Scope) -> ASGIApp:
        """Returns the application of the tenant who signed a URL. Raises `Refused`."""
        text = "ask for a new URL"
        for tenant in self._tenants.values():
            try:
                check_signature(scope, tenant.state.signer)
            except BadSignature as error:
                text = str(error)
            else:
                return tenant.api
        raise Refused(Reason.FORBIDDEN, text)

    def states(self) -> Sequence[BridgeState]:
        """Returns the states of the keys that were sent."""
        return [tenant.state for tenant in self._tenants.values()]

    def stop(self) -> None:
        """Answers all polls at once."""
        for state in self.states():
            state.futures.stop()

    async def close(self) -> None:
        """Ends the sessions on the servers behind the bridge, and closes the states."""
        outcomes = await asyncio.gather(
            *(tenant.close() for tenant in self._tenants.values()), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                logger.error("a session could not be ended", exc_info=outcome)


def _key_of(scope: Scope) -> str:
    bearer = header(scope, b"authorization") or ""
    return header(scope, b"x-api-key") or bearer.removeprefix("Bearer ").strip()
