"""`make_app`: the ASGI application of all routes over one `ServerState`, and of the web pages."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from attrs import evolve
from starlette.applications import Starlette
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from tinkex_server.access.api_keys import ApiKeys, InvalidApiKeys
from tinkex_server.access.authentication import Authentication
from tinkex_server.access.origin_check import OriginCheck
from tinkex_server.app.api import Api
from tinkex_server.pages.login import OwnerOf
from tinkex_server.pages.site import make_site
from tinkex_server.profiles import TINKEX, Profile
from tinkex_server.profiles.middleware import ProfileMiddleware
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
    step_metrics,
    traces,
    training,
    uploads,
    usage,
    weights,
)
from tinkex_server.state import ServerState
from tinkex_server.wire.scope import PREFIX

_MODULES = (
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
    runs,
    step_metrics,
    checkpoint_search,
    checkpoints,
    archives,
    uploads,
    audit,
    usage,
)
ROUTES = [route for module in _MODULES for route in module.ROUTES]


def make_app(
    state: ServerState, api_keys: Sequence[str], profile: Profile, names: Sequence[str] = ()
) -> ASGIApp:
    """Returns the API as `profile` shows it, with the web pages.

    Raises `InvalidApiKeys` for keys that cannot be used.

    Args:
        state: what the routes work on.
        api_keys: the accepted API keys. Without any, every caller sees everything, but requests
            from web pages of other sites are refused.
        profile: the kind of server to imitate.
        names: the names that callers may use for the server beside localhost, where it asks for no
            key.
    """
    keys = ApiKeys(state.store, api_keys) if api_keys else None
    if is_imitation := evolve(profile, hold=TINKEX.hold) != TINKEX:
        api = _imitation(state, api_keys, profile)
        # it has one key, and does not distinguish owners
        owner_of = keys and _any_owner(keys)
    else:
        api = Authentication(Api(ROUTES, state), state.secret, keys)
        owner_of = keys and keys.owner
    site = make_site(state, profile, owner_of)
    app = _with_pages(api, site, only_its_routes=is_imitation)
    return app if keys else OriginCheck(app, names)


def _imitation(state: ServerState, api_keys: Sequence[str], profile: Profile) -> ASGIApp:
    """Returns the API as another kind of server has it. `ProfileMiddleware` checks the key."""
    if len(api_keys) > 1:
        raise InvalidApiKeys("a server that imitates another one takes one API key")
    api = Authentication(Api(ROUTES, state), state.secret, None)
    return ProfileMiddleware(api, ROUTES, state, profile, next(iter(api_keys), None))


def _any_owner(keys: ApiKeys) -> OwnerOf:
    """Returns a function that gives the owner "" for every accepted key."""
    return lambda key: None if keys.owner(key) is None else ""


def _with_pages(api: ASGIApp, site: Starlette, *, only_its_routes: bool) -> ASGIApp:
    """Returns an application of both. With `only_its_routes` a path that is no page goes to `api`;
    otherwise every path that does not begin with the API's prefix goes to `site`.
    """

    def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        is_page = not scope["path"].startswith(f"{PREFIX}/")
        if is_page and only_its_routes:
            is_page = any(route.matches(scope)[0] is not Match.NONE for route in site.routes)
        return (site if is_page else api)(scope, receive, send)

    return app
