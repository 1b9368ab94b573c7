"""`ProfileMiddleware`: makes the embedded server look like another server, as a profile says.

It turns requests into those that the embedded server knows, and the embedded server's answers into
those of the other server. Training and sampling are the same for all profiles.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Sequence
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinkex_server import checkpoint_path
from tinkex_server.access.authentication import is_signed
from tinkex_server.access.ownership import Access
from tinkex_server.errors import Refused
from tinkex_server.profiles import requests
from tinkex_server.profiles.answers import Answers
from tinkex_server.profiles.history import History
from tinkex_server.profiles.inner_server import InnerServer
from tinkex_server.profiles.key_check import check_key
from tinkex_server.profiles.polls import Polls, respond
from tinkex_server.profiles.profile import NUMBERED, Auth, Profile
from tinkex_server.profiles.request_bodies import HandlerDied, read_fields
from tinkex_server.profiles.state_checks import StateChecks
from tinkex_server.profiles.templates import Fields, Reply, text_at
from tinkex_server.state import ServerState
from tinkex_server.wire.body_copy import BodyCopy
from tinkex_server.wire.raw_body import receive_body
from tinkex_server.wire.refusals import RefusedWithStatus
from tinkex_server.wire.responses import json_response
from tinkex_server.wire.scope import PREFIX

_PATH_READERS = (
    "load_weights",
    "weights_info",
    "create_sampling_session",
    "asample",
    "create_model",
)
_CREATING = ("create_model", "create_sampling_session", "save_weights_for_sampler")
_FILES = tuple(
    f"training_runs/{{run_id}}/checkpoints/{{kind}}/{{name}}/{what}"
    for what in ("archive", "download")
)
"""Operations that answer with a file, or redirect to one; the profile does not change them."""
_ARCHIVE = re.compile(
    r".*/training_runs/(?P<run_id>[^/]+)/checkpoints/(?:(?P<kind>[^/]+)/)?(?P<name>[^/]+)/archive"
)
_NOT_FOUND = Reply(404, {"detail": "Not Found"})


class ProfileMiddleware:
    """An ASGI application around the embedded server's `app`, which must ask for no key."""

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[Route],
        state: ServerState,
        profile: Profile,
        api_key: str | None,
    ) -> None:
        self._app = app
        self._routes = routes
        self._state = state
        self._profile = profile
        self._auth = profile.auth or (Auth() if api_key else None)
        self._api_key = api_key
        self._inner = InnerServer(app)
        self._history = History()
        self._polls = Polls(state, profile)
        self._checks = StateChecks(state, profile, self._history)
        self._answers = Answers(state, profile, self._polls, self._history)
        self._starting = profile.starting
        self._numbers = itertools.count(time.time_ns())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body_copy = BodyCopy(receive, self._state.limits.body_bytes)
        request = Request(scope, body_copy.receive)
        if self._profile.request_ids:
            send = _with_header(
                send, "x-request-id", request.headers.get("x-request-id") or uuid4().hex
            )
        try:
            response = await self._answer(request, body_copy)
        except Refused as refusal:
            await self._skip_turn(request, body_copy, refusal)
            response = respond(self._answers.refusal(request, refusal))
        except HandlerDied as error:
            await self._skip_turn(request, body_copy, RefusedWithStatus(400, str(error)))
            await PlainTextResponse("Internal Server Error", 500)(scope, receive, send)
            raise
        await response(scope, receive, send)

    async def _answer(self, request: Request, body_copy: BodyCopy) -> ASGIApp:
        if self._profile.bare_archives:
            self._add_checkpoint_kind(request.scope)
        raw = await receive_body(request.headers, request.receive, self._state.limits.body_bytes)
        operation = self._operation(request.scope)
        if self._starting:
            self._starting -= 1
            return json_response(200 if operation == "healthz" else 503, {"status": "starting"})
        if is_signed(request.scope):
            # the embedded server checks the signature; other servers keep such files elsewhere
            return self._app
        if f"{request.method} {operation}" in self._profile.missing:
            return respond(self._profile.replies.get(operation, _NOT_FOUND))
        if operation not in self._profile.replies and not self._is_route(request.scope):
            return respond(_NOT_FOUND)
        check_key(self._auth, self._api_key, operation, request)
        if reply := self._profile.replies.get(operation):
            return respond(reply)
        fields = read_fields(self._profile.bodies, operation, request, raw) if raw else {}
        if operation == "unload_model" and self._profile.unload_by_query:
            fields = {"model_id": request.query_params.get("model_id")}
        body_copy.forget()
        try:
            return await self._handle(operation, request, fields)
        except Refused as refusal:
            refusal.fields = fields
            raise

    async def _handle(self, operation: str, request: Request, fields: Fields) -> ASGIApp:
        requests.check(self._profile, operation, fields)
        if operation in _FILES:
            return self._app
        if operation == "retrieve_future":
            return await self._polls.poll(fields, request.headers.get("accept", ""))
        return await self._forward(operation, request, fields)

    async def _forward(self, operation: str, request: Request, sent: Fields) -> Response:
        """Has the embedded server do what the request asks for."""
        if self._history.was_refused(operation, sent):
            raise RefusedWithStatus(409, f"seq_id {sent['seq_id']} was used for another request")
        fields = self._with_inner_paths(operation, dict(sent))
        try:
            self._checks.check(operation, fields)
            if failure := self._checks.find_failure(operation, request, fields):
                return self._answers.promise_reply(operation, sent, failure)
            requests.adapt(self._profile, operation, fields)
            fields = await self._sample_of_first_trained(operation, request, fields)
            path, fields = self._rewrite(operation, request, fields)
            answer = await self._inner.call(request, path, fields)
        except Refused as refusal:
            return self._answers.refuse(operation, request, sent, refusal)
        self._history.note_done(operation, sent, fields)
        return await self._answers.accept(operation, sent, answer)

    async def _skip_turn(self, request: Request, body_copy: BodyCopy, refusal: Refused) -> None:
        """Skips the turn of a refused request, so that later ones do not wait for it, if its sender
        has a key.
        """
        if (operation := self._operation(request.scope)) not in NUMBERED:
            return
        try:
            check_key(self._auth, self._api_key, operation, request)
        except Refused:
            return
        fields = refusal.fields or await body_copy.fields(request.headers)
        access = Access(self._state.store, None)
        self._state.refused_seq_ids.note_unread(access, refusal, fields)

    def _add_checkpoint_kind(self, scope: Scope) -> None:
        """Adds the checkpoint's kind to the path of an archive's route. Raises `Refused` for a path
        that has it, as the imitated server has no such route.
        """
        if match := _ARCHIVE.fullmatch(scope["path"]):
            run_id, kind, name = match["run_id"], match["kind"], match["name"]
            if kind:
                raise RefusedWithStatus(404, "Not Found")
            kinds = (checkpoint_path.WEIGHTS, checkpoint_path.SAMPLER_WEIGHTS)
            rows = self._state.store.checkpoints
            existing = [
                one
                for one in kinds
                if rows.get(checkpoint_path.CheckpointPath(run_id, one, name)) is not None
            ]
            scope["path"] = scope["path"].replace(
                "/checkpoints/", f"/checkpoints/{(existing or kinds)[0]}/", 1
            )

    def _operation(self, scope: Scope) -> str:
        for route in self._routes:
            if route.matches(scope)[0] is Match.FULL:
                return route.path_format.removeprefix(f"{PREFIX}/")
        return scope["path"].removeprefix(f"{PREFIX}/")

    def _is_route(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is not Match.NONE for route in self._routes)

    def _with_inner_paths(self, operation: str, fields: Fields) -> Fields:
        """Returns the fields with the checkpoint paths that the embedded server uses."""
        if operation in _PATH_READERS:
            fields = self._profile.paths.inward(fields, self._state.data_dir)
        path = text_at(fields, "path")
        if operation != "load_weights" or path is None:
            return fields
        if self._profile.loading.first_save_alone:
            fields = {**fields, "path": self._first_saved(path)}
        if self._profile.loading.optimizer_if_saved:
            saved = self._history.has_optimizer(path)
            optimizer = saved and bool(fields.get("optimizer"))
            fields = {**fields, "optimizer": optimizer}
        return fields

    def _first_saved(self, text: str) -> str:
        """Returns the path of what its model saved first; the path of no checkpoint stays as it
        is.
        """
        path = checkpoint_path.parse(text)
        if self._state.store.checkpoints.get(path) is None:
            return text
        return str(self._history.first_save(path))

    async def _sample_of_first_trained(
        self, operation: str, request: Request, fields: Fields
    ) -> Fields:
        """Returns a sample of a base model as one of the first model that was trained, with its
        weights of now, on a server that does so.
        """
        model_id = self._history.first_trained
        if (
            operation != "asample"
            or model_id is None
            or not self._profile.sampling.base_is_first_live
            or not self._checks.samples_base(fields)
        ):
            return fields
        save = {"model_id": model_id, "sampling_session_seq_id": next(self._numbers)}
        promise = await self._inner.call(request, f"{PREFIX}/save_weights_for_sampler", save)
        result = await self._polls.wait_for_result(promise["request_id"])
        return {**fields, "sampling_session_id": result["sampling_session_id"]}

    def _rewrite(self, operation: str, request: Request, fields: Fields) -> tuple[str, Fields]:
        """Returns the path and the fields of the request to the embedded server."""
        path: str = request.scope["path"]
        if self._profile.creates_anew and operation in _CREATING:
            for name in ("model_seq_id", "sampling_session_seq_id"):
                if fields.get(name) is not None:
                    fields = {**fields, name: next(self._numbers)}
        if (
            operation == "create_model"
            and self._profile.checkpoint_in_create_model
            and fields.get("checkpoint_path")
        ):
            named = {
                name: fields.get(name)
                for name in ("session_id", "model_seq_id", "base_model", "user_metadata")
            }
            return f"{PREFIX}/load_weights", {
                **named,
                "path": fields["checkpoint_path"],
                "optimizer": True,
            }
        return path, fields


def _with_header(send: Send, name: str, value: str) -> Send:
    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", ()),
                (name.encode(), value.encode("latin-1")),
            ]
        await send(message)

    return send_with_header
