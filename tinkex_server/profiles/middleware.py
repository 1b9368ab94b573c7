"""`Edge`: stands before the embedded server's application and makes it look like another server, as
its profile says.

Requests are turned into those that the embedded server knows, and its answers into those of the
other; what happens in between, training and sampling, is the same.
"""

from __future__ import annotations

import hmac
import itertools
import re
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import orjson
from attrs import evolve
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinkex_server import checkpoint_path
from tinkex_server.access.authentication import is_signed
from tinkex_server.access.ownership import Access
from tinkex_server.errors import Refused
from tinkex_server.profiles import requests
from tinkex_server.profiles.polls import Polls, respond
from tinkex_server.profiles.profile import NUMBERED, Auth, Bodies, Profile
from tinkex_server.profiles.templates import Reply, fill, list_at, mapping_at
from tinkex_server.state import ServerState
from tinkex_server.wire import bodies
from tinkex_server.wire.body_copy import BodyCopy
from tinkex_server.wire.protobuf import MEDIA_TYPE, read_forward_backward
from tinkex_server.wire.raw_body import decompress, receive_body
from tinkex_server.wire.responses import json_response
from tinkex_server.wire.scope import PREFIX

Fields = dict[str, Any]

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
"""They answer with files, or lead to them, in no shape of the profile's."""
_ARCHIVE = re.compile(
    r".*/training_runs/(?P<run_id>[^/]+)/checkpoints/(?:(?P<kind>[^/]+)/)?(?P<name>[^/]+)/archive"
)
_NOT_FOUND = Reply(404, {"detail": "Not Found"})
_LONGEST = 1 << 30  # bytes of a decompressed body, where the profile has no limit


class HandlerDied(Exception):
    """Reaches uvicorn, which then closes the connection without having said so."""


class Edge:
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
        self._api_key = api_key
        self._polls = Polls(state, profile)
        self._starting = profile.starting
        self._numbers = itertools.count(time.time_ns())
        self._with_gradient: set[str] = set()
        self._first_ids: dict[tuple[str, str, int], str] = {}
        self._first_saves: dict[str, str] = {}
        self._with_optimizer: set[tuple[str, str]] = set()
        self._baseless: set[str] = set()
        self._refused_numbers: set[tuple[str, int]] = set()
        self._first_live: str | None = None

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
            await self._pass_turn(request, body_copy, refusal)
            response = respond(self._refusal(request, refusal))
        except HandlerDied as death:
            await self._pass_turn(request, body_copy, Refused(400, str(death)))
            await PlainTextResponse("Internal Server Error", 500)(scope, receive, send)
            raise
        await response(scope, receive, send)

    async def _answer(self, request: Request, body_copy: BodyCopy) -> ASGIApp:
        if self._profile.bare_archives:
            self._find_kind(request.scope)
        raw = await receive_body(request.headers, request.receive, self._state.limits.body_bytes)
        operation = self._operation(request.scope)
        if self._starting:
            self._starting -= 1
            return json_response(200 if operation == "healthz" else 503, {"status": "starting"})
        if is_signed(request.scope):
            # which checks it; for a server that leads to files which it keeps elsewhere
            return self._app
        if f"{request.method} {operation}" in self._profile.missing:
            return respond(self._profile.replies.get(operation, _NOT_FOUND))
        if operation not in self._profile.replies and not self._is_route(request.scope):
            return respond(_NOT_FOUND)
        self._check_key(operation, request)
        if reply := self._profile.replies.get(operation):
            return respond(reply)
        fields = _read(self._profile.bodies, operation, request, raw) if raw else {}
        if operation == "unload_model" and self._profile.unload_by_query:
            fields = {"model_id": request.query_params.get("model_id")}
        body_copy.forget()
        try:
            return await self._done(operation, request, fields)
        except Refused as refusal:
            refusal.fields = fields
            raise

    async def _done(self, operation: str, request: Request, fields: Fields) -> ASGIApp:
        requests.check(self._profile, operation, fields)
        if operation in _FILES:
            return self._app
        if operation == "retrieve_future":
            return await self._polls.poll(fields, request.headers.get("accept", ""))
        return await self._carry_out(operation, request, fields)

    async def _pass_turn(self, request: Request, body_copy: BodyCopy, refusal: Refused) -> None:
        """Has nobody wait for the number of a request that was refused as it was read, if its
        sender has a key.
        """
        if (operation := self._operation(request.scope)) not in NUMBERED:
            return
        try:
            self._check_key(operation, request)
        except Refused:
            return
        fields = refusal.fields or await body_copy.fields(request.headers)
        self._state.refused_seq_ids.note_unread(Access(self._state.store, None), refusal, fields)

    def _check_key(self, operation: str, request: Request) -> None:
        _check_key(
            self._profile.auth or (Auth() if self._api_key else None),
            self._api_key,
            operation,
            request,
        )

    def _find_kind(self, scope: Scope) -> None:
        """Puts the kind into the path of an archive, where it is not; where it is, there is no such
        route.
        """
        if match := _ARCHIVE.fullmatch(scope["path"]):
            run_id, kind, name = match["run_id"], match["kind"], match["name"]
            if kind:
                raise Refused(404, "Not Found")
            kinds = (checkpoint_path.WEIGHTS, checkpoint_path.SAMPLER_WEIGHTS)
            rows = self._state.store.checkpoints
            there = [
                one
                for one in kinds
                if rows.get(checkpoint_path.CheckpointPath(run_id, one, name)) is not None
            ]
            scope["path"] = scope["path"].replace(
                "/checkpoints/", f"/checkpoints/{(there or kinds)[0]}/", 1
            )

    def _operation(self, scope: Scope) -> str:
        for route in self._routes:
            if route.matches(scope)[0] is Match.FULL:
                return route.path_format.removeprefix(f"{PREFIX}/")
        return scope["path"].removeprefix(f"{PREFIX}/")

    def _is_route(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is not Match.NONE for route in self._routes)

    async def _carry_out(self, operation: str, request: Request, fields: Fields) -> Response:
        """Has the embedded server do it."""
        sent = dict(fields)
        if (
            operation in NUMBERED
            and (fields.get("model_id"), fields.get("seq_id")) in self._refused_numbers
        ):
            raise Refused(409, f"seq_id {fields['seq_id']} was used for another request")
        if operation in _PATH_READERS:
            fields = self._profile.paths.inward(fields, self._state.data_dir)
        if operation == "load_weights" and self._profile.loading.first_save_alone:
            fields = {**fields, "path": self._first_saved(fields["path"])}
        if operation == "load_weights" and self._profile.loading.optimizer_if_saved:
            there = checkpoint_path.parse(fields["path"])
            fields = {
                **fields,
                "optimizer": bool(fields.get("optimizer"))
                and (there.run_id, there.name) in self._with_optimizer,
            }
        try:
            if reply := self._stopped(operation, request, fields):
                return self._promise(operation, sent, {"request_id": self._polls.foretell(reply)})
            requests.adapt(self._profile, operation, fields)
            if (
                operation == "asample"
                and self._profile.sampling.base_is_first_live
                and self._samples_base(fields)
            ):
                fields = await self._of_first_live(request, fields)
            answer = await self._inner(request, *self._renamed(operation, request, fields))
        except Refused as refusal:
            return self._turned_down(operation, request, sent, refusal)
        if operation == "forward_backward":
            self._with_gradient.add(fields["model_id"])
            self._first_live = self._first_live or fields["model_id"]
        if operation == "save_weights":
            self._first_saves.setdefault(fields["model_id"], fields["path"])
            if sent.get("include_optimizer"):
                self._with_optimizer.add((fields["model_id"], fields["path"]))
        return await self._accepted(operation, sent, answer)

    def _first_saved(self, path: str) -> str:
        """Returns the path of what its model saved first; one that leads nowhere stays as it is."""
        later = checkpoint_path.parse(path)
        if self._state.store.checkpoints.get(later) is None:
            return path
        return str(evolve(later, name=self._first_saves.get(later.run_id, later.name)))

    def _stopped(self, operation: str, request: Request, fields: Fields) -> Reply | None:
        """The failure of a future that cannot succeed. Raises `Refused` for what the POST itself
        turns down.
        """
        if operation == "load_weights":
            self._check_load(fields)
        if operation == "create_sampling_session" and not self._profile.sampling.named_weights:
            _check_readable(fields)
        if operation == "asample" and fields.get("sampling_session_id") in self._baseless:
            raise Refused(400, "base_model is required")
        if operation == "asample" and not self._profile.sampling.base_models:
            self._check_adapter(fields)
        if operation == "optim_step" and self._profile.needs_gradient:
            if fields.get("model_id") not in self._with_gradient:
                return self._failure(
                    "server", "Traceback (most recent call last): no gradient since the last step"
                )
            self._with_gradient.discard(fields["model_id"])
        if "authorization" in request.headers and self._is_odd(
            mapping_at(fields, f"{operation}_input") or {}
        ):
            return self._failure("user", "the batch size is not divisible by 2")
        return None

    def _is_odd(self, batch: Fields) -> bool:
        """Whether a loss is asked for that needs an even number of data."""
        return (
            batch.get("loss_fn") in self._profile.batches.even_with_bearer
            and len(list_at(batch, "data")) % 2 == 1
        )

    def _failure(self, category: str, error: str) -> Reply:
        values = {"error": error, "category": category}
        return self._profile.failed.get(category, Reply(200, values)).filled(values)

    def _check_load(self, fields: Fields) -> None:
        rule = self._profile.loading
        if not rule.by_session and not fields.get("model_id"):
            raise Refused(rule.no_model, "Missing model_id")
        if (
            rule.missing_checkpoint
            and self._state.store.checkpoints.get(checkpoint_path.parse(fields["path"])) is None
        ):
            raise Refused(rule.missing_checkpoint, f"Checkpoint not found: {fields['path']}")

    def _check_adapter(self, fields: Fields) -> None:
        if self._samples_base(fields):
            raise Refused(
                400,
                f"Adapter {fields.get('sampling_session_id') or fields.get('base_model')} not "
                "found",
            )

    def _samples_base(self, fields: Fields) -> bool:
        session = fields.get("sampling_session_id")
        row = self._state.store.samplers.get(session) if isinstance(session, str) else None
        return (row is None or (row.folder is None and row.model_path is None)) and not fields.get(
            "model_path"
        )

    async def _of_first_live(self, request: Request, fields: Fields) -> Fields:
        """The sample asked of the first model that was trained, as it is now; of the base model
        where there is none.
        """
        if self._first_live is None:
            return fields
        saved = {"model_id": self._first_live, "sampling_session_seq_id": next(self._numbers)}
        promise = await self._inner(request, f"{PREFIX}/save_weights_for_sampler", saved)
        session_id = (await self._polls.worked_out(promise["request_id"]))["sampling_session_id"]
        return {**fields, "sampling_session_id": session_id}

    def _renamed(self, operation: str, request: Request, fields: Fields) -> tuple[str, Fields]:
        """The path and the body of the embedded server's own request for it."""
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

    async def _inner(self, request: Request, path: str, fields: Fields) -> Fields:
        """The JSON body of the embedded server's answer. Raises `Refused` as that refuses."""
        body = (
            orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
            if request.method != "GET"
            else b""
        )
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        start: Message = {}
        parts: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self._app({**request.scope, "path": path, "headers": headers}, receive, send)
        answer: Fields = orjson.loads(b"".join(parts))
        if start["status"] >= 400:
            wait = Headers(raw=start["headers"]).get("retry-after")
            raise Refused(
                start["status"], answer["detail"], retry_after=None if wait is None else int(wait)
            )
        return answer

    def _turned_down(
        self, operation: str, request: Request, sent: Fields, refusal: Refused
    ) -> Response:
        reply = self._refusal(request, refusal)
        if (
            self._profile.refusals_take_numbers
            and operation in NUMBERED
            and isinstance(sent.get("seq_id"), int)
        ):
            self._refused_numbers.add((sent["model_id"], sent["seq_id"]))
        if refusal.status in self._profile.refuses_late and operation in NUMBERED:
            return self._promise(operation, sent, {"request_id": self._polls.foretell(reply)})
        return respond(reply)

    async def _accepted(self, operation: str, sent: Fields, answer: Fields) -> Response:
        if "request_id" in answer:
            if self._profile.works_in_post and (
                failure := await self._polls.work_out(answer["request_id"])
            ):
                return respond(failure)
            return self._promise(operation, sent, answer)
        if shape := self._profile.promised.get(operation):
            request_id = self._polls.foretell(Reply(200, shape.of(answer, sent=sent)))
            return self._promise(operation, sent, {"request_id": request_id})
        if (
            operation == "create_sampling_session"
            and self._profile.sampling.needs_base
            and not sent.get("base_model")
        ):
            self._baseless.add(answer["sampling_session_id"])
        if (
            operation == "create_sampling_session"
            and self._profile.sampling.base_session
            and not sent.get("model_path")
        ):
            answer = {**answer, "sampling_session_id": self._profile.sampling.base_session}
        return self._good(
            operation, sent, self._profile.paths.outward(answer, self._state.data_dir)
        )

    def _promise(self, operation: str, sent: Fields, promise: Fields) -> Response:
        if self._profile.repeats_by_id_alone and operation in NUMBERED:
            key = (operation, sent["model_id"], sent["seq_id"])
            first = self._first_ids.setdefault(key, promise["request_id"])
            promise = {**promise, "request_id": first}
        if not self._profile.sample_sequence_ids:
            promise = {
                name: value for name, value in promise.items() if name != "sample_sequence_ids"
            }
        return self._good(
            operation, sent, self._profile.promise.of(promise, sent=sent, operation=operation)
        )

    def _good(self, operation: str, sent: Fields, answer: Fields) -> Response:
        status = self._profile.statuses.get(operation, 200)
        if status == 204:
            return Response(status_code=status)
        if operation in self._profile.null_answers:
            return json_response(status, None)
        shape = self._profile.shapes.get(operation)
        shaped = shape.of(answer, sent=sent) if shape else answer
        if (
            (given_out := shaped.get("request_id"))
            and given_out != (own := answer.get("request_id"))
            and own
        ):
            self._polls.alias(given_out, own)
        return json_response(status, shaped)

    def _refusal(self, request: Request, refusal: Refused) -> Reply:
        values = {"detail": refusal.detail, "status": refusal.status, "path": request.url.path}
        return Reply(refusal.status, fill(self._profile.refusal, values), refusal.headers)


def _with_header(send: Send, name: str, value: str) -> Send:
    async def send_with_it(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", ()),
                (name.encode(), value.encode("latin-1")),
            ]
        await send(message)

    return send_with_it


def _check_readable(fields: Fields) -> None:
    path = fields.get("model_path")
    if path and checkpoint_path.parse(path).kind == checkpoint_path.SAMPLER_WEIGHTS:
        raise HandlerDied(f"KeyError: {path}")


def _check_key(auth: Auth | None, api_key: str | None, operation: str, request: Request) -> None:
    if auth is None or operation in auth.open_to_all:
        return
    given = [
        request.headers[name].removeprefix("Bearer ")
        for name in auth.headers
        if name in request.headers
    ]
    if not given:
        raise Refused(auth.missing, f"Missing {' or '.join(auth.headers)}")
    if api_key and not any(
        hmac.compare_digest(key.encode("latin-1"), api_key.encode()) for key in given
    ):
        raise Refused(auth.wrong, "Invalid API key")


def _read(rule: Bodies, operation: str, request: Request, raw: bytes) -> Fields:
    """The fields of a body that the server reads. Raises what it does with one that it does not."""
    most = rule.most_bytes or _LONGEST
    is_protobuf = request.headers.get("content-type", "").startswith(MEDIA_TYPE)
    is_zstd = request.headers.get("content-encoding") == "zstd"
    taken = rule.protobuf if is_protobuf else rule.json or operation != "forward_backward"
    if (
        not taken
        or (is_zstd and not rule.zstd)
        or (is_protobuf and operation != "forward_backward")
    ):
        _refuse_encoding(rule, raw)
    if is_zstd:
        raw = decompress(raw, most)
    if len(raw) > most:
        raise Refused(413, f"the body is over {most} bytes")
    fields = read_forward_backward(raw) if is_protobuf else bodies.parse_object(raw)
    if not is_protobuf and operation == "forward_backward":
        fields.pop("forward_only", None)  # only the protobuf form has it
    return fields


def _refuse_encoding(rule: Bodies, raw: bytes) -> None:
    if isinstance(rule.other, int):
        raise Refused(rule.other, "Unsupported Content-Type")
    try:
        raw.decode()
    except UnicodeDecodeError:
        raise HandlerDied("the handler could not read the body") from None
    raise Refused(
        422,
        [
            {
                "type": "model_attributes_type",
                "loc": ["body"],
                "msg": "Input should be a valid dictionary",
            }
        ],
    )
