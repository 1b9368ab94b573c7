"""`Api`: the ASGI application of the API, which finds the most frequent routes at once."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tinkex_server.state import CommonState
from tinkex_server.wire.responses import refuse_route
from tinkex_server.wire.scope import STATE


class Api:
    """An application of all routes that looks up paths without parameters in a table.

    Starlette tries one route after the other, some seventy of them for a sample. Endpoints answer
    their own errors, so a request that is found in the table needs none of Starlette's layers.
    """

    def __init__(self, routes: Sequence[Route], state: CommonState) -> None:
        self._state = state
        plain = [route for route in routes if "{" not in route.path]
        self._endpoints = {
            (method, route.path): route.app for route in plain for method in route.methods or ()
        }
        self._all = Starlette(routes=routes, exception_handlers={HTTPException: refuse_route})

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope[STATE] = self._state
        app = self._endpoints.get((scope["method"], scope["path"]), self._all)
        return app(scope, receive, send)
