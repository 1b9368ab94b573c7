"""The Starlette application: all routes over one `Backend`."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from tinkex.local.backend import Backend
from tinkex.local.http import KeyCheck, refuse_route
from tinkex.local.keys import BadKeys, Keyring
from tinkex.local.profiles import TINKEX, Profile
from tinkex.local.profiles.edge import Edge
from tinkex.local.routes import copies, custom_losses, futures, models, rest, sampling, server, sessions, training, weights

_PARTS = (server, sessions, models, custom_losses, training, weights, copies, sampling, futures, rest)
ROUTES = [route for part in _PARTS for route in part.ROUTES]


def make_app(backend: Backend, api_keys: Sequence[str], profile: Profile) -> ASGIApp:
    """The application as `profile` has it; it wants one of `api_keys`, in X-API-Key unless the profile says otherwise.

    Without keys it wants none, and all see all. Raises `BadKeys` for keys that cannot be.
    """
    if evolve(profile, hold=TINKEX.hold) == TINKEX:
        return _own_app(backend, api_keys)
    if len(api_keys) > 1:
        raise BadKeys("a server that imitates another one takes one API key")
    return Edge(_own_app(backend, ()), backend, profile, next(iter(api_keys), None))


def _own_app(backend: Backend, api_keys: Sequence[str]) -> Starlette:
    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(KeyCheck, keyring=Keyring(backend.store, api_keys))] if api_keys else [],
        exception_handlers={HTTPException: refuse_route},
    )
    app.state.backend = backend
    return app
