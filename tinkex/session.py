"""A session: begun before the first model or sampler, kept alive by heartbeats, ended with a reason."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import finalize

from attrs import define, field, frozen
from tinkex_api.api.server import (
    get_client_config,
    get_dynamic_config,
    get_server_capabilities,
    health,
)
from tinkex_api.api.sessions import create_session
from tinkex_api.models import (
    ClientConfigRequest,
    CreateSessionRequest,
    CreateSessionResponse,
    UserMetadata,
)
from tinkex_api.types import Request

from tinkex._version import __version__
from tinkex.config import HOSTED_BASE_URL
from tinkex.dialects.recognition import Seen, has_route, key_flags, telling_route
from tinkex.errors import (
    APIError,
    APIStatusError,
    NotATinkerServerError,
    ServerStateLostError,
    UnsupportedByServer,
)
from tinkex.futures.samples import SampleResults
from tinkex.futures.unseen import UnseenFailures
from tinkex.session_life import SessionLife
from tinkex.transport.failures import is_web_page, status_error
from tinkex.transport.http import Transport
from tinkex.types import LoraConfig
from tinkex.types.fingerprint import Fingerprint

logger = logging.getLogger("tinkex")
T = TypeVar("T")

_OF_GATEWAYS = frozenset({429, 500, *range(502, 600)})


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
    saved_shapes: dict[str, tuple[str, LoraConfig]] = field(
        factory=dict[str, tuple[str, LoraConfig]]
    )
    """Base model and LoRA shape of what was saved in this session, by path: some servers do not tell."""
    fingerprints: dict[str, asyncio.Task[Fingerprint | None]] = field(
        factory=dict[str, asyncio.Task[Fingerprint | None]]
    )
    """What the model made of a datum when it was saved, by path."""
    samples: SampleResults = field(init=False)
    failures: UnseenFailures = field(init=False, factory=UnseenFailures)
    life: SessionLife = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.samples = SampleResults(self.transport)
        self.life = SessionLife(self.transport, self.session_id, self.samples, self.failures)
        finalize(self, self.life.abandon).atexit = False

    @classmethod
    async def begin(
        cls,
        transport: Transport,
        facts: SessionFacts | None = None,
        *,
        instead_of: Session | None = None,
    ) -> Session:
        """Asks for the server's flags, begins the session and its heartbeats.

        Args:
            instead_of: a session that is lost; what is known of its checkpoints is kept.

        Raises:
            APIConnectionError: the server cannot be reached.
            AuthenticationError: it does not take the key.
            NotATinkerServerError, NotFoundError: the base URL leads elsewhere.
        """
        with _first_contact(transport):
            transport.server.saw(await _look(transport))
            answer = await transport.send(
                create_session.request(body=_body(transport, facts or SessionFacts()))
            )
        _log_messages(answer)
        session = cls(transport, answer.session_id, **(instead_of.saves() if instead_of else {}))
        session.life.begin()
        return session

    def saves(self) -> Mapping[str, Any]:
        """What is known of the checkpoints that were saved in it, for a session in its place."""
        return {"saved_shapes": self.saved_shapes, "fingerprints": self.fingerprints}

    def check(self, operation: str) -> None:
        """Raises `ServerStateLostError` for an operation of a session that is lost."""
        if self.life.lost:
            raise ServerStateLostError(
                f"not sent: the server does not know session {self.session_id} any more, and nothing that lived in it",
                operation=operation,
                advice="Make a new client by the service client, which begins a new session, from the last saved state.",
            )


def _body(transport: Transport, facts: SessionFacts) -> CreateSessionRequest:
    config = transport.config
    return CreateSessionRequest(
        tags=list(config.tags),
        user_metadata=UserMetadata.from_dict(facts.user_metadata),
        sdk_version=__version__,
        project_id=config.project_id,
        display_name=facts.display_name,
    )


async def meet(transport: Transport) -> None:
    """Asks the server about itself, unless that was done before, so that `transport.server.dialect` is what it speaks."""
    if not transport.server.met:
        with _first_contact(transport):
            transport.server.saw(await _look(transport))


async def _look(transport: Transport) -> Seen:
    """Asks the server about itself; of one that has no flags it is asked what else it lacks, of one whose flags others have, too, what
    tells them apart."""
    before = transport.server.seen
    config, refusal = await _ask(
        transport, get_client_config.request(body=ClientConfigRequest(__version__))
    )
    if config is not None:
        transport.server.learn(**key_flags(config))
    dynamic = (
        None
        if config is None
        else await _if_there(
            transport, get_dynamic_config.request(body=ClientConfigRequest(__version__))
        )
    )
    is_given = transport.config.dialect is not None
    named = config is not None or is_given
    route = None if is_given else telling_route(config)
    return Seen(
        hosted=transport.config.base_url == HOSTED_BASE_URL,
        config=config,
        dynamic=dynamic,
        has_capabilities=named
        or await _if_there(transport, get_server_capabilities.request()) is not None,
        has_health=named or await _if_there(transport, health.request()) is not None,
        request_ids="x-request-id" in refusal.headers
        if refusal
        else before is not None and before.request_ids,
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
        if error.status_code not in (404, 405, 501):
            raise
        return None, error


async def _has_route(transport: Transport, path: str) -> bool | None:
    """Whether the server has a route that is not of the contract; None where that cannot be told."""
    request: Request[None] = Request(
        "first_contact", {"method": "get", "url": path}, lambda _: None
    )
    try:
        response = await transport.send_once(request, timeout=transport.config.timeout)
    except APIError:
        return None
    refusal = status_error(response, request.operation)
    return has_route(refusal.status_code, refusal.body)


@contextmanager
def _first_contact(transport: Transport) -> Generator[None]:
    """Raises `NotATinkerServerError` in place of a web server's own page of refusal; gateways speak so for a server that is away."""
    try:
        yield
    except APIStatusError as error:
        if not is_web_page(error.body) or error.status_code in _OF_GATEWAYS:
            raise
        raise NotATinkerServerError(
            f"what answers at {transport.config.base_url} is no Tinker server: {error.message}, as a web page",
            operation=error.operation,
            advice="Check base_url: it is the URL below which /api/v1/… lies.",
        ) from error


def _log_messages(answer: CreateSessionResponse) -> None:
    if answer.info_message:
        logger.info("%s", answer.info_message)
    if answer.warning_message:
        logger.warning("%s", answer.warning_message)
    if answer.error_message:
        logger.error("%s", answer.error_message)
