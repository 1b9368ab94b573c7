"""`make_site`: makes the ASGI application of the pages.

Beside the pages it has requests that only the pages themselves send, and that may change in any
release: a page asked for as text/event-stream, `POST /playground/sample`, and the forms. What
programs use is in the contract.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from attrs import define, field, frozen
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from tinkex_server.access.ownership import Access
from tinkex_server.access.signed_urls import LIFETIME
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.errors import Reason, Refused, bad_request
from tinkex_server.pages import playground
from tinkex_server.pages.contract import contract_text
from tinkex_server.pages.facts import DiskGauge, describe_engine
from tinkex_server.pages.failures import count_failures, failures
from tinkex_server.pages.live import MEDIA_TYPE, live_regions
from tinkex_server.pages.login import Logins, OwnerOf, read_form
from tinkex_server.pages.names import (
    session_title,
    session_words,
    subject_of,
    without_title,
)
from tinkex_server.pages.one_run import one_run
from tinkex_server.pages.paging import pages
from tinkex_server.pages.queue import queue
from tinkex_server.pages.runs import run_page
from tinkex_server.pages.same_origin import check_same_origin
from tinkex_server.pages.static_files import send_static
from tinkex_server.pages.templates import render
from tinkex_server.profiles import Profile
from tinkex_server.rules.checkpoint_urls import archive_url
from tinkex_server.rules.deletion import delete_checkpoint
from tinkex_server.state import ServerState
from tinkex_server.store import SessionRow
from tinkex_server.wire.bodies import parse_object
from tinkex_server.wire.raw_body import read_body
from tinkex_server.wire.refusals import refusal_response, status_of
from tinkex_server.wire.responses import refuse_route

_QUEUE = 20  # requests
_FAILURES = 5  # beside other things
_ON_PAGE = 50  # failures, or sessions
_MOST_JSON_BYTES = 1 << 20
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}

Values: TypeAlias = Callable[[Access], Awaitable[Mapping[str, object]]]
"""A function that returns what a page shows to a caller now."""


@frozen
class _Page:
    """A page of which some regions are live."""

    template: str
    regions: Sequence[str]
    """The names of the templates in `regions/`, each of which makes one element of that id."""
    values: Values


def make_site(state: ServerState, profile: Profile, owner_of: OwnerOf | None) -> Starlette:
    """Returns the application of the pages. `owner_of` is None for a server without keys."""
    site = _Site(state, profile, Logins(owner_of) if owner_of else None)
    checkpoint = "/runs/{run_id}/checkpoints/{kind}/{name}"
    return Starlette(
        routes=[
            Route("/", site.show_status),
            Route("/runs/{run_id}", site.show_run),
            Route(f"{checkpoint}/delete", site.ask_to_delete, methods=["GET"]),
            Route(f"{checkpoint}/delete", site.delete, methods=["POST"]),
            Route("/failures", site.show_failures),
            Route("/sessions", site.show_sessions),
            Route("/playground", site.show_playground),
            Route("/playground/sample", site.sample, methods=["POST"]),
            Route("/docs", site.show_reference),
            Route("/openapi.yaml", site.show_contract),
            Route("/download/{run_id}/{kind}/{name}", site.download),
            Route("/static/{digest}/{name}", send_static),
            Route("/login", site.log_in, methods=["POST"]),
            Route("/logout", site.log_out, methods=["POST"]),
        ],
        exception_handlers={
            HTTPException: refuse_route,
            Refused: site.refuse,
            InvalidRequest: site.refuse,
        },
    )


@define(eq=False)
class _Site:
    _state: ServerState
    _profile: Profile
    _logins: Logins | None
    _started: float = field(factory=time.time)
    _disk: DiskGauge = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._disk = DiskGauge(self._state.data_dir)

    async def show_status(self, request: Request) -> Response:
        async def values(access: Access) -> Mapping[str, object]:
            state, now = self._state, time.time()
            recent = state.store.usage.recent
            return {
                "runs": run_page(state, access, request.query_params, now),
                "queue": queue(state, access, _QUEUE),
                "failures": failures(state, access, _FAILURES),
                "failures_in_all": count_failures(state, access),
                # with keys, the size of the folder would tell one owner about the data of others
                "disk": None if self._logins else await self._disk.read(),
                "checkpoints_size": state.store.checkpoints.size(access.owner),
                "models": list(state.base_models.values()),
                "engine": describe_engine(state.engine.ready),
                "profile": self._profile,
                "started": self._started,
                "training_rate": recent.per_second(access.owner, "training", now),
                "sampling_rate": recent.per_second(access.owner, "sampling_sample", now),
            }

        regions = ("facts", "queue", "failures", "groups", "runs")
        return await self._show(request, _Page("status.html", regions, values))

    async def show_run(self, request: Request) -> Response:
        run_id: str = request.path_params["run_id"]

        async def values(access: Access) -> Mapping[str, object]:
            state = self._state
            return {
                "one": one_run(state, access, run_id, request.query_params, time.time()),
                "queue": queue(state, access, _QUEUE, run_id),
                "failures": failures(state, access, _FAILURES, scope=run_id),
                "failures_in_all": count_failures(state, access, run_id),
            }

        regions = ("run_head", "run_metrics", "run_checkpoints", "queue", "failures")
        return await self._show(request, _Page("run.html", regions, values))

    async def show_failures(self, request: Request) -> Response:
        scope = request.query_params.get("run") or None

        async def values(access: Access) -> Mapping[str, object]:
            total = count_failures(self._state, access, scope)
            asked = {"run": scope} if scope else {}
            here = pages(request.query_params.get("page", ""), _ON_PAGE, total, asked)
            return {
                "failures": failures(self._state, access, here.size, here.offset, scope),
                "pages": here,
                "subject": subject_of(self._state, scope) if scope else None,
            }

        return await self._show(request, _Page("failures.html", ("all_failures",), values))

    async def show_sessions(self, request: Request) -> Response:
        async def values(access: Access) -> Mapping[str, object]:
            sessions = self._state.store.sessions
            total = sessions.count(access.owner)
            here = pages(request.query_params.get("page", ""), _ON_PAGE, total)
            rows = sessions.page(access.owner, here.size, here.offset)
            return {
                "sessions": [_session_line(row) for row in rows],
                "pages": here,
            }

        return await self._show(request, _Page("sessions.html", ("sessions",), values))

    async def show_playground(self, request: Request) -> Response:
        access = self._access(request)
        if access is None:
            return self._login_form(request)
        asked = [request.query_params.get(name, "") for name in ("weights", "other")]
        chosen = [value for value in asked if value]
        values = {"groups": playground.choices(self._state, access, chosen), "asked": asked}
        return self._page(request, "playground.html", values)

    async def sample(self, request: Request) -> Response:
        """Streams a sample for the playground."""
        access = self._own_access(request)
        fields = parse_object(await read_body(request.headers, request.receive, _MOST_JSON_BYTES))
        events = await playground.sample(self._state, access, fields)
        await self._state.store.flush()
        return StreamingResponse(events, media_type=MEDIA_TYPE, headers=_HEADERS)

    async def ask_to_delete(self, request: Request) -> Response:
        """Shows the form that deletes a checkpoint."""
        access = self._access(request)
        if access is None:
            return self._login_form(request)
        row = access.own_checkpoint(CheckpointPath(**request.path_params))
        subject = subject_of(self._state, row.path.run_id)
        return self._page(request, "delete.html", {"checkpoint": row, "subject": subject})

    async def delete(self, request: Request) -> Response:
        """Deletes a checkpoint, and leads back to its run."""
        access = self._own_access(request)
        row = access.own_checkpoint(CheckpointPath(**request.path_params))
        await delete_checkpoint(self._state, row)
        await self._state.store.flush()
        back = subject_of(self._state, row.path.run_id).href or "/"
        return RedirectResponse(back, 303, _HEADERS)

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

    async def show_reference(self, request: Request) -> Response:
        """Shows the contract, for which no key is needed."""
        return await asyncio.to_thread(
            lambda: self._page(request, "docs.html", {"contract": _reference()})
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
        return self._login_form(request, refused=True)

    async def log_out(self, request: Request) -> Response:
        home = RedirectResponse("/", 303)
        if self._logins:
            self._logins.end(request, home)
        return home

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Answers a refusal: as a page where a browser asked for one, and otherwise as JSON."""
        refused = error if isinstance(error, Refused) else bad_request(str(error))
        if "text/html" in request.headers.get("accept", ""):
            status = status_of(refused)
            values = {"detail": refused.detail, "status": status}
            return self._page(request, "refused.html", values, code=status)
        return refusal_response(refused, _HEADERS)

    async def _show(self, request: Request, page: _Page) -> Response:
        """Answers with a page, or with its regions whenever they change."""
        access = self._access(request)
        is_live = MEDIA_TYPE in request.headers.get("accept", "")
        if access is None:
            return Response(status_code=204) if is_live else self._login_form(request)
        values = await page.values(access)  # which may refuse, before a stream begins
        if not is_live:
            return self._page(request, page.template, values)
        return StreamingResponse(
            live_regions(self._state, lambda: self._regions(request, page)),
            media_type=MEDIA_TYPE,
            headers=_HEADERS,
        )

    async def _regions(self, request: Request, page: _Page) -> Mapping[str, str] | None:
        access = self._access(request)
        if access is None:
            return None
        values = {**await page.values(access), "now": time.time(), **self._common(request)}
        return {name: render(f"regions/{name}.html", **values) for name in page.regions}

    def _access(self, request: Request) -> Access | None:
        """Returns the access of the sender, or None if it is not logged in."""
        owner = self._logins.owner(request) if self._logins else None
        return None if self._logins and owner is None else Access(self._state.store, owner)

    def _required_access(self, request: Request) -> Access:
        """Returns the access of the sender. Raises `Refused` (401) if it is not logged in."""
        access = self._access(request)
        if access is None:
            raise Refused(Reason.UNAUTHENTICATED, "X-API-Key is missing or wrong")
        return access

    def _own_access(self, request: Request) -> Access:
        """Returns the access of a sender that changes something. Raises `Refused` unless it is
        logged in, and the request comes from a page of this server or from a program.
        """
        access = self._required_access(request)
        if self._logins:
            check_same_origin(request)  # without keys, the origin of every request is checked
        return access

    def _login_form(self, request: Request, *, refused: bool = False) -> HTMLResponse:
        return self._page(request, "login.html", {"refused": refused}, code=401)

    def _common(self, request: Request) -> Mapping[str, object]:
        logged_in = self._logins is not None and self._access(request) is not None
        base_url = str(request.base_url).rstrip("/")
        return {"base_url": base_url, "logged_in": logged_in, "path": request.url.path}

    def _page(
        self,
        request: Request,
        template: str,
        values: Mapping[str, object] | None = None,
        *,
        code: int = 200,
    ) -> HTMLResponse:
        shown = {"now": time.time(), **self._common(request), **(values or {})}
        return HTMLResponse(render(template, **shown), code, headers=_HEADERS)


def _session_line(session: SessionRow) -> Mapping[str, object]:
    title = session_title(session)
    return {
        "row": session,
        "title": title,
        "status": session_words(session, time.time()),
        "metadata": without_title(session.user_metadata, title),
    }


def _reference() -> object:
    # imported here: the page is rarely opened, and its imports are slow
    from tinkex_server.pages.reference import reference

    return reference()
