"""`make_site`: makes the ASGI application of the pages."""

from __future__ import annotations

import asyncio
import time

from attrs import define, field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from tinkex_server.access.ownership import Access
from tinkex_server.access.signed_urls import LIFETIME
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.errors import Reason, Refused, bad_request
from tinkex_server.pages.contract import contract_text
from tinkex_server.pages.login import Logins, OwnerOf, read_form
from tinkex_server.pages.status import Disk, describe_engine, measure_disk, status
from tinkex_server.pages.templates import render
from tinkex_server.profiles import Profile
from tinkex_server.rules.checkpoint_urls import archive_url
from tinkex_server.state import ServerState
from tinkex_server.wire.refusals import refusal_response
from tinkex_server.wire.responses import json_response, refuse_route

_DISK_SECONDS = 60.0
"""The age at which the measured size of the data folder is renewed."""
_MOST_STEPS = 1000
"""The most steps of one answer."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors "
        "'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_site(state: ServerState, profile: Profile, owner_of: OwnerOf | None) -> Starlette:
    """Returns the application of the pages. `owner_of` is None for a server without keys."""
    site = _Site(state, profile, Logins(owner_of) if owner_of else None)
    return Starlette(
        routes=[
            Route("/", site.show_status),
            Route("/docs", site.show_reference),
            Route("/openapi.yaml", site.show_contract),
            Route("/download/{run_id}/{kind}/{name}", site.download),
            Route("/runs/{run_id}/steps", site.list_steps),
            Route("/login", site.log_in, methods=["POST"]),
            Route("/logout", site.log_out, methods=["POST"]),
        ],
        exception_handlers={HTTPException: refuse_route, Refused: _refuse},
    )


@define(eq=False)
class _Site:
    _state: ServerState
    _profile: Profile
    _logins: Logins | None
    _started: float = field(factory=time.time)
    _disk: asyncio.Task[Disk] | None = None
    _disk_measured_at: float = 0.0

    async def show_status(self, request: Request) -> Response:
        access = self._access(request)
        if access is None:
            return self._page(request, "login.html", 401, refused=False)
        # with keys, the size of the folder would tell one owner about the data of others
        disk = None if self._logins else await self._recent_disk()
        return self._page(
            request,
            "status.html",
            seen=status(self._state, access),
            disk=disk,
            models=list(self._state.base_models.values()),
            engine=describe_engine(self._state.engine.ready),
            profile=self._profile,
            started=self._started,
            now=time.time(),
        )

    async def download(self, request: Request) -> Response:
        """Redirects to a signed URL of a checkpoint's tar: a browser sends no key with a link."""
        access = self._access(request)
        if access is None:
            return RedirectResponse("/", 303)
        row = access.checkpoint(CheckpointPath(**request.path_params))
        return RedirectResponse(
            archive_url(self._state.signer, "", row.path, int(time.time()) + LIFETIME),
            302,
            _HEADERS,
        )

    async def list_steps(self, request: Request) -> Response:
        """Answers the steps of a run after the one that `?after=` names, as JSON."""
        access = self._access(request)
        if access is None:
            return refusal_response(
                Refused(Reason.UNAUTHENTICATED, "X-API-Key is missing or wrong"), _HEADERS
            )
        after = request.query_params.get("after", "0")
        if not after.isdecimal():
            raise bad_request(f"after must be the number of a step, not {after!r}")
        run = access.run(request.path_params["run_id"])
        steps = self._state.store.steps.after(run.model_id, int(after), _MOST_STEPS)
        rows = [{"step": row.number, "loss": row.loss, "at": row.at} for row in steps]
        return json_response(200, {"state": run.state, "steps": rows}, _HEADERS)

    async def show_reference(self, request: Request) -> Response:
        """Shows the contract, for which no key is needed."""
        return await asyncio.to_thread(
            lambda: self._page(request, "docs.html", contract=_reference())
        )

    async def show_contract(self, request: Request) -> Response:
        return PlainTextResponse(
            await asyncio.to_thread(contract_text), media_type="application/yaml", headers=_HEADERS
        )

    async def log_in(self, request: Request) -> Response:
        key = (await read_form(request)).get("key", "")
        home = RedirectResponse("/", 303)
        if self._logins is None or self._logins.begin(
            key, home, https=request.url.scheme == "https"
        ):
            return home
        return self._page(request, "login.html", 401, refused=True)

    async def log_out(self, request: Request) -> Response:
        home = RedirectResponse("/", 303)
        if self._logins:
            self._logins.end(request, home)
        return home

    async def _recent_disk(self) -> Disk:
        """Returns the size of the data folder as it was a minute ago at most. To measure a folder
        with many checkpoints takes about a second.
        """
        if self._disk is None or time.monotonic() > self._disk_measured_at + _DISK_SECONDS:
            self._disk = asyncio.create_task(asyncio.to_thread(measure_disk, self._state.data_dir))
            self._disk_measured_at = time.monotonic()
        return await asyncio.shield(self._disk)

    def _access(self, request: Request) -> Access | None:
        """Returns the access of the sender, or None if it is not logged in."""
        owner = self._logins.owner(request) if self._logins else None
        return None if self._logins and owner is None else Access(self._state.store, owner)

    def _page(
        self, request: Request, template: str, code: int = 200, **values: object
    ) -> HTMLResponse:
        logged_in = self._logins is not None and self._access(request) is not None
        html = render(
            template, base_url=str(request.base_url).rstrip("/"), logged_in=logged_in, **values
        )
        return HTMLResponse(html, code, headers=_HEADERS)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return refusal_response(error)


def _reference() -> object:
    # imported here: the page is rarely opened, and its imports are slow
    from tinkex_server.pages.reference import reference

    return reference()
