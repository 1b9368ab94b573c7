"""A session: begun before the first model or sampler, kept alive by heartbeats, ended with a reason."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from attrs import define, field, frozen
from tinkex_api.api.server import get_client_config, get_dynamic_config, get_server_capabilities, health
from tinkex_api.api.sessions import create_session, finish_session, session_heartbeat
from tinkex_api.models import (
    ClientConfigRequest,
    CreateSessionRequest,
    CreateSessionResponse,
    FinishReason,
    FinishSessionRequest,
    SessionHeartbeatRequest,
    UserMetadata,
)
from tinkex_api.types import Request

from tinkex import events
from tinkex._version import __version__
from tinkex.config import HOSTED_BASE_URL
from tinkex.dialects.recognition import Seen, has_route, key_flags, telling_route
from tinkex.errors import (
    APIError,
    APIStatusError,
    GoneError,
    NotFoundError,
    ServerStateLostError,
    TinkexError,
    UnsupportedByServer,
)
from tinkex.futures.samples import SampleResults
from tinkex.futures.unseen import UnseenFailures
from tinkex.reporter import Reporter
from tinkex.transport import failures
from tinkex.transport.answers import parse
from tinkex.transport.http import Transport
from tinkex.transport.wait_lines import WaitLines
from tinkex.types import LoraConfig
from tinkex.types.fingerprint import Fingerprint

logger = logging.getLogger("tinkex")
T = TypeVar("T")

Outcome = Literal["success", "errored", "interrupted"]
_HEARTBEAT_TIMEOUT = 10.0  # seconds
_WARN_AFTER = 120.0  # seconds without a heartbeat that came through


@frozen
class SessionFacts:
    """What is to be known of a session beside what it does."""

    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    display_name: str | None = None


@define(eq=False)
class Session:
    """A session on a server, with what is known of the server's ways."""

    transport: Transport
    session_id: str
    model_numbers: itertools.count[int] = field(factory=itertools.count)
    """`model_seq_id`s, from 0."""
    sampler_numbers: itertools.count[int] = field(factory=itertools.count)
    """`sampling_session_seq_id`s, from 0."""
    models: set[str] = field(factory=set[str])
    """Ids of the models that are loaded."""
    saved_shapes: dict[str, tuple[str, LoraConfig]] = field(factory=dict[str, tuple[str, LoraConfig]])
    """Base model and LoRA shape of what was saved in this session, by path: some servers do not tell."""
    fingerprints: dict[str, asyncio.Task[Fingerprint | None]] = field(factory=dict[str, asyncio.Task[Fingerprint | None]])
    """What the model made of a datum when it was saved, by path."""
    samples: SampleResults = field(init=False)
    failures: UnseenFailures = field(init=False, factory=UnseenFailures)
    lost: bool = False
    """Whether the server has said that it does not know the session any more, or has finished it."""
    _heartbeats: asyncio.Task[None] | None = None
    _reporter: Reporter | None = None

    def __attrs_post_init__(self) -> None:
        self.samples = SampleResults(self.transport)

    @classmethod
    async def begin(cls, transport: Transport, facts: SessionFacts | None = None, *, instead_of: Session | None = None) -> Session:
        """Asks for the server's flags, begins the session and its heartbeats.

        Args:
            instead_of: a session that is lost; what is known of its checkpoints is kept.

        Raises:
            APIConnectionError: the server cannot be reached.
            AuthenticationError: it does not take the key.
            NotATinkerServerError, NotFoundError: the base URL leads elsewhere.
        """
        transport.server.saw(await _look(transport))
        config, facts = transport.config, facts or SessionFacts()
        answer = await transport.send(
            create_session.request(
                body=CreateSessionRequest(
                    tags=list(config.tags),
                    user_metadata=UserMetadata.from_dict(facts.user_metadata),
                    sdk_version=__version__,
                    project_id=config.project_id,
                    display_name=facts.display_name,
                )
            )
        )
        _log_messages(answer)
        session = cls(transport, answer.session_id, **(instead_of.saves() if instead_of else {}))
        session._heartbeats = asyncio.create_task(session._live(), name="tinkex heartbeats")
        session._begin_telling()
        return session

    async def finish(self, outcome: Outcome, detail: str | None = None) -> bool:
        """Stops the heartbeats and tells the server; one that is gone is left alone. False where it lacks the call."""
        self.failures.tell()
        await self.samples.close()
        if self._heartbeats is None:
            return True
        await self._stop_heartbeats()
        events.emit(events.Session, session_id=self.session_id, state=outcome)
        if self._reporter is not None:
            await self._reporter.finish(detail if outcome == "errored" else None)
        return self.lost or await self._say_goodbye(outcome, detail)

    def _begin_telling(self) -> None:
        """To whoever listens, and to the server where that is wanted."""
        events.emit(events.Session, session_id=self.session_id, state="begun")
        transport = self.transport
        if transport.config.sends_telemetry and not transport.server.dialect.lacks("send_telemetry"):
            self._reporter = Reporter(transport, self.session_id)
            self._reporter.begin()

    def saves(self) -> Mapping[str, Any]:
        """What is known of the checkpoints that were saved in it, for a session in its place."""
        return {"saved_shapes": self.saved_shapes, "fingerprints": self.fingerprints}

    def check(self, operation: str) -> None:
        """Raises `ServerStateLostError` for an operation of a session that is lost."""
        if self.lost:
            raise ServerStateLostError(
                f"not sent: the server does not know session {self.session_id} any more, and nothing that lived in it",
                operation=operation,
                advice="Make a new client by the service client, which begins a new session, from the last saved state.",
            )

    async def is_lost(self) -> bool:
        """Whether the server knows the session no more; asks it. False where it does not say."""
        if not self.lost:
            try:
                await self._heartbeat()
            except TinkexError as error:
                self._heed(error)
        if self.lost:
            await self._stop_heartbeats()
        return self.lost

    def _heed(self, error: TinkexError) -> None:
        """What the failure of a heartbeat says: only a 404 or 410 is word of the session."""
        if isinstance(error, (GoneError, NotFoundError)):
            self.lost = True
            events.emit(events.Session, session_id=self.session_id, state="lost")
            logger.warning("session %s is gone: %s", self.session_id, error.message)
            self.transport.server.doubt()

    async def _stop_heartbeats(self) -> None:
        if self._heartbeats is None:
            return
        heartbeats, self._heartbeats = self._heartbeats, None
        heartbeats.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await heartbeats

    async def _say_goodbye(self, outcome: Outcome, detail: str | None) -> bool:
        if self.transport.server.dialect.lacks("finish_session"):
            return False
        body = FinishSessionRequest(FinishReason(outcome), detail)
        try:
            response = await self.transport.send_once(
                finish_session.request(self.session_id, body=body), timeout=_HEARTBEAT_TIMEOUT
            )
        except TinkexError as error:
            logger.info("the server was not told that session %s is finished: %s", self.session_id, error)
            return True
        logger.debug("session %s finished: %s %d", self.session_id, outcome, response.status_code)
        return response.status_code not in (404, 405)

    async def _live(self) -> None:
        try:
            await self._beat()
        except asyncio.CancelledError:
            if self._heartbeats is not None:  # not by `finish`: the event loop ends, and nobody closed the client
                await self._say_goodbye("interrupted", "the client's event loop ended before the client was closed")
                await self.transport.aclose()
            raise

    async def _beat(self) -> None:
        clock, last, lines = self.transport.clock, self.transport.clock.now(), WaitLines(_WARN_AFTER)
        while not self.lost:
            await clock.sleep(self.transport.config.heartbeat_interval)
            try:
                await self._heartbeat()
            except TinkexError as error:
                self._heed(error)
                if not self.lost and lines.due(clock.now() - last):
                    logger.warning("no heartbeat came through for %.0f s: %s", clock.now() - last, error)
            else:
                last, lines = clock.now(), WaitLines(_WARN_AFTER)

    async def _heartbeat(self) -> None:
        request = session_heartbeat.request(body=SessionHeartbeatRequest(self.session_id))
        response = await self.transport.send_once(request, timeout=_HEARTBEAT_TIMEOUT)
        if not response.is_success:
            raise failures.status_error(response, request.operation)
        parse(request, response)  # a web page with a good status is no heartbeat


async def meet(transport: Transport) -> None:
    """Asks the server about itself, unless that was done before, so that `transport.server.dialect` is what it speaks."""
    if not transport.server.met:
        transport.server.saw(await _look(transport))


async def _look(transport: Transport) -> Seen:
    """Asks the server about itself; of one that has no flags it is asked what else it lacks, of one whose flags others have, too, what
    tells them apart."""
    before = transport.server.seen
    config, refusal = await _ask(transport, get_client_config.request(body=ClientConfigRequest(__version__)))
    if config is not None:
        transport.server.learn(**key_flags(config))
    dynamic = (
        None if config is None else await _if_there(transport, get_dynamic_config.request(body=ClientConfigRequest(__version__)))
    )
    is_given = transport.config.dialect is not None
    named = config is not None or is_given
    route = None if is_given else telling_route(config)
    return Seen(
        hosted=transport.config.base_url == HOSTED_BASE_URL,
        config=config,
        dynamic=dynamic,
        has_capabilities=named or await _if_there(transport, get_server_capabilities.request()) is not None,
        has_health=named or await _if_there(transport, health.request()) is not None,
        request_ids="x-request-id" in refusal.headers if refusal else before is not None and before.request_ids,
        has_telling_route=None if route is None else await _has_route(transport, route),
    )


async def _if_there(transport: Transport, request: Request[T]) -> T | None:
    """The answer, or None of a server that lacks the call."""
    return (await _ask(transport, request))[0]


async def _ask(transport: Transport, request: Request[T]) -> tuple[T | None, APIStatusError | None]:
    """The answer; of a server that lacks the call None, and its refusal unless that was known before."""
    try:
        return await transport.send(request, first_contact=True), None
    except UnsupportedByServer as error:
        return None, error.__cause__ if isinstance(error.__cause__, APIStatusError) else None
    except APIStatusError as error:
        if error.status_code not in (404, 405):
            raise
        return None, error


async def _has_route(transport: Transport, path: str) -> bool | None:
    """Whether the server has a route that is not of the contract; None where that cannot be told."""
    request: Request[None] = Request("first_contact", {"method": "get", "url": path}, lambda _: None)
    try:
        response = await transport.send_once(request, timeout=transport.config.timeout)
    except APIError:
        return None
    refusal = failures.status_error(response, request.operation)
    return has_route(refusal.status_code, refusal.body)


def _log_messages(answer: CreateSessionResponse) -> None:
    if answer.info_message:
        logger.info("%s", answer.info_message)
    if answer.warning_message:
        logger.warning("%s", answer.warning_message)
    if answer.error_message:
        logger.error("%s", answer.error_message)
