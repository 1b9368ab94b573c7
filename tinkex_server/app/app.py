"""The ASGI application: all routes over one `ServerState`, and the pages for people beside them."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from attrs import evolve
from starlette.applications import Starlette
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from tinkex_server.access.key_check import KeyCheck
from tinkex_server.access.keyring import BadKeys, Keyring
from tinkex_server.access.origin_check import OriginCheck
from tinkex_server.access.signed_or_token import SignedOrTokenCheck
from tinkex_server.app.api import Api
from tinkex_server.pages.login import OwnerOf
from tinkex_server.pages.site import make_site
from tinkex_server.profiles import TINKEX, Profile
from tinkex_server.profiles.middleware import Edge
from tinkex_server.routes import (
    archives,
    audit,
    auth,
    checkpoint_search,
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
    uploads,
    usage,
    weights,
)
from tinkex_server.state import ServerState
from tinkex_server.wire.scope import PREFIX

_PARTS = (
    *(
        server,
        auth,
        session_search,
        sessions,
        traces,
        models,
        custom_losses,
        training,
        weights,
        copies,
        sampling,
        futures,
    ),
    *(runs, checkpoint_search, checkpoints, archives, uploads, audit, usage),
)
ROUTES = [route for part in _PARTS for route in part.ROUTES]


def make_app(
    state: ServerState, api_keys: Sequence[str], profile: Profile, names: Sequence[str] = ()
) -> ASGIApp:
    """The API as `profile` has it, and the pages.

    Both want one of `api_keys`; the API in X-API-Key unless the profile says otherwise. Without
    keys they want none, and all see all but web pages of others; `names` are what the server is
    called by beside localhost. Raises `BadKeys` for keys that cannot be.
    """
    keyring = Keyring(state.store, api_keys) if api_keys else None
    api = Api(ROUTES, state)
    if evolve(profile, hold=TINKEX.hold) == TINKEX:
        guarded, owner_of = _checked(api, state, keyring), keyring and keyring.owner
    elif len(api_keys) > 1:
        raise BadKeys("a server that imitates another one takes one API key")
    else:
        guarded = Edge(
            _checked(api, state, None), ROUTES, state, profile, next(iter(api_keys), None)
        )
        owner_of = keyring and _nobody_s(keyring)
    site = make_site(state, profile, owner_of)
    whole = _beside(guarded, site, imitating=isinstance(guarded, Edge))
    return whole if keyring else OriginCheck(whole, names)


def _beside(api: ASGIApp, site: Starlette, *, imitating: bool) -> ASGIApp:
    """The API, and the pages. Whoever imitates another server answers as that for all paths but
    those of the pages.
    """

    def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        is_page = not scope["path"].startswith(f"{PREFIX}/")
        if is_page and imitating:
            is_page = any(route.matches(scope)[0] is not Match.NONE for route in site.routes)
        return (site if is_page else api)(scope, receive, send)

    return app


def _nobody_s(keyring: Keyring) -> OwnerOf:
    """Behind an edge, which lets its one key pass, all that is made is nobody's."""
    return lambda key: None if keyring.owner(key) is None else ""


def _checked(api: ASGIApp, state: ServerState, keyring: Keyring | None) -> ASGIApp:
    guarded = KeyCheck(api, keyring) if keyring else api
    return SignedOrTokenCheck(guarded, state.secret, keyring)
