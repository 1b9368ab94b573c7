"""`Session`: one session on a server, in which models and samplers live."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from weakref import finalize

from attrs import define, field, frozen
from tinkex_api.api.sessions import create_session
from tinkex_api.models import (
    CreateSessionRequest,
    CreateSessionResponse,
    UserMetadata,
)

from tinkex._version import __version__
from tinkex.errors import (
    ServerStateLostError,
)
from tinkex.futures.unretrieved_errors import UnretrievedErrors
from tinkex.session.discovery import ask_server, first_contact
from tinkex.session.lifecycle import SessionLifecycle, SessionPart
from tinkex.session.request_journal import RequestJournal
from tinkex.transport.transport import Transport
from tinkex.types import LoraConfig
from tinkex.types.fingerprint import Fingerprint

logger = logging.getLogger("tinkex")
T = TypeVar("T")
P = TypeVar("P", bound=SessionPart)


@frozen
class SessionMetadata:
    """The user's descriptions of a session."""

    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    display_name: str | None = None
    project_id: str | None = None
    """The project; by default that of `Config`."""
    tags: Sequence[str] = ()
    """Tags in addition to those of `Config`."""


@define(eq=False)
class Session:
    """A session on a server, and what is known of its models and checkpoints."""

    transport: Transport
    session_id: str
    model_numbers: itertools.count[int] = field(factory=itertools.count)
    """The next `model_seq_id`s, from 0."""
    sampler_numbers: itertools.count[int] = field(factory=itertools.count)
    """The next `sampling_session_seq_id`s, from 0."""
    models: set[str] = field(factory=set[str])
    """The ids of the models that are loaded."""
    saved_shapes: dict[str, tuple[str, LoraConfig]] = field(
        factory=dict[str, tuple[str, LoraConfig]]
    )
    """The base model and LoRA shape of each checkpoint of this session, by path, since some servers
    do not tell them.
    """
    fingerprints: dict[str, asyncio.Task[Fingerprint | None]] = field(
        factory=dict[str, asyncio.Task[Fingerprint | None]]
    )
    """The fingerprint of each checkpoint of this session, by path."""
    last_seq_ids: Mapping[str, int] = field(factory=dict[str, int])
    """The last numbers that an earlier process used, by the id of the model."""
    journal: RequestJournal | None = None
    """A record that is told of each numbered request of a model."""
    _parts: dict[type[SessionPart], SessionPart] = field(
        init=False, factory=dict[type[SessionPart], SessionPart]
    )
    failures: UnretrievedErrors = field(init=False, factory=UnretrievedErrors)
    lifecycle: SessionLifecycle = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.lifecycle = SessionLifecycle(
            self.transport, self.session_id, self._parts, self.failures
        )
        finalize(self, self.lifecycle.finish_later).atexit = False

    @classmethod
    async def begin(
        cls,
        transport: Transport,
        metadata: SessionMetadata | None = None,
        *,
        instead_of: Session | None = None,
    ) -> Session:
        """Asks for the server's flags, and starts a session with its heartbeats.

        Args:
            transport: the connections to the server.
            metadata: the user's descriptions of the session.
            instead_of: a lost session, whose knowledge of checkpoints is kept.

        Raises:
            APIConnectionError: the server cannot be reached.
            AuthenticationError: the server refuses the key.
            NotATinkerServerError, NotFoundError: the base URL is not that of a Tinker server.
        """
        with first_contact(transport):
            transport.server.observe(await ask_server(transport))
            answer = await transport.send(
                create_session.request(body=_body(transport, metadata or SessionMetadata()))
            )
        _log_messages(answer)
        session = cls(transport, answer.session_id, **(instead_of.saves() if instead_of else {}))
        session.lifecycle.begin()
        return session

    @classmethod
    async def resume(
        cls,
        transport: Transport,
        session_id: str,
        *,
        first_number: int,
        last_seq_ids: Mapping[str, int],
    ) -> Session:
        """Continues a session that an earlier process began and did not finish.

        Args:
            transport: the connections to the server.
            session_id: the server's id of the session.
            first_number: a number above those of all models and sampling sessions so far.
            last_seq_ids: the last numbers of requests that the server has accepted, by the id of
                the model. A training client of such a model continues from there.

        Raises:
            ServerStateLostError: the server does not have the session any more.
            APIConnectionError: the server cannot be reached.
        """
        with first_contact(transport):
            transport.server.observe(await ask_server(transport))
        session = cls(
            transport,
            session_id,
            itertools.count(first_number),
            itertools.count(first_number),
            last_seq_ids=last_seq_ids,
        )
        if await session.lifecycle.is_lost():
            session.check("resume")
        session.lifecycle.begin()
        return session

    def part(self, kind: type[P]) -> P:
        """Returns the session's object of this class. It is made at the first call, and closed with
        the session.
        """
        made = self._parts.get(kind)
        if not isinstance(made, kind):
            made = self._parts[kind] = kind(self.transport)
        return made

    def saves(self) -> Mapping[str, Any]:
        """Returns what is known of the session's checkpoints, for a session that replaces it."""
        return {"saved_shapes": self.saved_shapes, "fingerprints": self.fingerprints}

    def check(self, operation: str) -> None:
        """Raises `ServerStateLostError` for an operation of a session that is lost."""
        if self.lifecycle.lost:
            raise ServerStateLostError(
                f"not sent: the server does not know session {self.session_id} any more, so its "
                "models and samplers are lost",
                operation=operation,
                advice=(
                    "Make a new client from the last saved state with the service client, which "
                    "starts a new session."
                ),
            )


def _body(transport: Transport, metadata: SessionMetadata) -> CreateSessionRequest:
    config = transport.config
    return CreateSessionRequest(
        tags=[*config.tags, *metadata.tags],
        user_metadata=UserMetadata.from_dict(metadata.user_metadata),
        sdk_version=__version__,
        project_id=metadata.project_id or config.project_id,
        display_name=metadata.display_name,
    )


def _log_messages(answer: CreateSessionResponse) -> None:
    if answer.info_message:
        logger.info("%s", answer.info_message)
    if answer.warning_message:
        logger.warning("%s", answer.warning_message)
    if answer.error_message:
        logger.error("%s", answer.error_message)
