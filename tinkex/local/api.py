"""`Api`: the Starlette application of the API, which finds the routes that are asked for most at once."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tinkex.local.backend import Backend
from tinkex.local.http import refuse_route


class Api(Starlette):
    """Starlette tries route after route, some seventy for a sample; a path without parameters is looked up before that.

    Endpoints answer their own errors, so such a request passes none of Starlette's layers.
    """

    def __init__(self, routes: Sequence[Route], backend: Backend) -> None:
        super().__init__(routes=routes, exception_handlers={HTTPException: refuse_route})
        self.state.backend = backend
        plain = [route for route in routes if "{" not in route.path]
        self._endpoints = {(method, route.path): route.endpoint for route in plain for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get((scope["method"], scope["path"]))
        if endpoint is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)
