"""The Starlette application: all routes over one `Backend`."""

from __future__ import annotations

from attrs import evolve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from tinkex.local.backend import Backend
from tinkex.local.http import KeyCheck, refuse_route
from tinkex.local.profiles import TINKEX, Profile
from tinkex.local.profiles.edge import Edge
from tinkex.local.routes import (
    archives,
    audit,
    auth,
    checkpoints,
    copies,
    custom_losses,
    futures,
    models,
    runs,
    sampling,
    server,
    session_search,
    sessions,
    traces,
    training,
    usage,
    weights,
)
from tinkex.local.vouchers import VoucherCheck

_PARTS = (
    *(server, auth, session_search, sessions, traces, models, custom_losses, training, weights, copies, sampling, futures),
    *(runs, checkpoints, archives, audit, usage),
)
ROUTES = [route for part in _PARTS for route in part.ROUTES]


def make_app(backend: Backend, api_key: str | None, profile: Profile) -> ASGIApp:
    """The application as `profile` has it; it wants `api_key`, in X-API-Key unless the profile says otherwise. None wants none."""
    if evolve(profile, hold=TINKEX.hold) == TINKEX:
        return _own_app(backend, api_key)
    return Edge(_own_app(backend, None), backend, profile, api_key)


def _own_app(backend: Backend, api_key: str | None) -> Starlette:
    checks = [Middleware(VoucherCheck, secret=backend.secret, store=backend.store, wants_key=bool(api_key))]
    if api_key:
        checks.append(Middleware(KeyCheck, api_key=api_key))
    app = Starlette(
        routes=ROUTES,
        middleware=checks,
        exception_handlers={HTTPException: refuse_route},
    )
    app.state.backend = backend
    return app
