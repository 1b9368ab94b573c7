"""The Starlette application: all routes over one `Backend`."""

from __future__ import annotations

import hmac

from attrs import evolve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from tinkex.local.backend import Backend
from tinkex.local.http import PREFIX, KeyCheck, refuse_route
from tinkex.local.pages.login import OwnerOf
from tinkex.local.pages.site import make_site
from tinkex.local.profiles import TINKEX, Profile
from tinkex.local.profiles.edge import Edge
from tinkex.local.routes import copies, custom_losses, futures, models, rest, sampling, server, sessions, training, weights

_PARTS = (server, sessions, models, custom_losses, training, weights, copies, sampling, futures, rest)
ROUTES = [route for part in _PARTS for route in part.ROUTES]


def make_app(backend: Backend, api_key: str | None, profile: Profile) -> ASGIApp:
    """The application as `profile` has it, and the pages for people beside it.

    The API wants `api_key`, in X-API-Key unless the profile says otherwise, and the pages ask for it. None wants none.
    """
    api, site = _api(backend, api_key, profile), make_site(backend, profile, _owner_of(api_key))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (api if scope["path"].startswith(f"{PREFIX}/") else site)(scope, receive, send)

    return app


def _api(backend: Backend, api_key: str | None, profile: Profile) -> ASGIApp:
    if evolve(profile, hold=TINKEX.hold) == TINKEX:
        return _own_app(backend, api_key)
    return Edge(_own_app(backend, None), backend, profile, api_key)


def _own_app(backend: Backend, api_key: str | None) -> Starlette:
    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(KeyCheck, api_key=api_key)] if api_key else [],
        exception_handlers={HTTPException: refuse_route},
    )
    app.state.backend = backend
    return app


def _owner_of(api_key: str | None) -> OwnerOf | None:
    if api_key is None:
        return None
    return lambda key: "" if hmac.compare_digest(key.encode(), api_key.encode()) else None
