"""The Starlette application: all routes over one `Backend`."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from tinkex.local.backend import Backend
from tinkex.local.http import KeyCheck, refuse_route
from tinkex.local.routes import copies, custom_losses, futures, models, rest, sampling, server, sessions, training, weights

_PARTS = (server, sessions, models, custom_losses, training, weights, copies, sampling, futures, rest)
ROUTES = [route for part in _PARTS for route in part.ROUTES]


def make_app(backend: Backend, api_key: str | None) -> Starlette:
    """An application that wants `api_key` in X-API-Key; None wants none."""
    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(KeyCheck, api_key=api_key)] if api_key else [],
        exception_handlers={HTTPException: refuse_route},
    )
    app.state.backend = backend
    return app
