"""`Upstream`: a server behind the bridge, as the holder of one key sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from tinkex.bridge.journal import Journal, UpstreamSession
from tinkex.bridge.routing import Routing, Target
from tinkex.config import Config
from tinkex.dialects.dialect import Dialect
from tinkex.errors import APIStatusError, ConfigError, RequestFailedError
from tinkex.rest.client import AsyncRestClient
from tinkex.session.discovery import discover
from tinkex.session.lifecycle import Outcome
from tinkex.session.session import Session, SessionMetadata
from tinkex.training.unloading import unload_left_behind
from tinkex.transport.transport import Transport
from tinkex_server.errors import Reason, Refused
from tinkex_server.store import SessionRow

logger = logging.getLogger("tinkex.bridge")
C = TypeVar("C")

_NUMBERS_OF_A_PROCESS = 1_000_000
"""The numbers of models and sampling sessions that each process has in a session, so that one that
continues the session of another uses none again.
"""


class Upstream:
    """The connections to one server, with one key, and a session there for each session of the
    bridge that uses the server. For one event loop.
    """

    def __init__(self, target: Target, key: str | None, journal: Journal | None = None) -> None:
        """Makes the connections. What is begun is recorded in `journal`, if it is given."""
        self.url = target.url
        self._journal = journal
        # without a key of the caller's none is sent: the environment's belongs to somebody else
        self.transport = Transport(
            Config(base_url=target.url, api_key=key, credential_cmd=None, dialect=target.dialect)
        )
        self.rest = AsyncRestClient.over(self.transport)
        self._sessions: dict[str, Session] = {}
        self._beginning = asyncio.Lock()

    @property
    def dialect(self) -> Dialect:
        """The dialect of the server, as far as it is known."""
        return self.transport.server.dialect

    async def discovered(self) -> Dialect:
        """Returns the dialect of the server, which is asked unless it is known."""
        await discover(self.transport)
        return self.dialect

    async def require(self, operation: str) -> None:
        """Raises `UnsupportedByServer` for an operation that the server lacks."""
        await self.discovered()
        self.transport.server.require(operation)

    async def session(self, owner: SessionRow) -> Session:
        """Returns the session here that belongs to a session of the bridge; begins it if needed.

        Raises what `Session.begin` does.
        """
        async with self._beginning:
            session = self._sessions.get(owner.session_id)
            if session is None or session.lifecycle.lost:
                metadata = SessionMetadata(
                    owner.user_metadata, owner.display_name, owner.project_id, owner.tags
                )
                session = await Session.begin(self.transport, metadata, instead_of=session)
                if self._journal is not None:
                    self._journal.add_session(owner.session_id, self.url, session.session_id)
                self._adopt(owner.session_id, session)
            return session

    async def resume_session(
        self, begun: UpstreamSession, last_seq_ids: Mapping[str, int], journal: Journal
    ) -> Session:
        """Continues a session that an earlier process began. Raises what `Session.resume` does."""
        session = await Session.resume(
            self.transport,
            begun.upstream_id,
            first_number=journal.note_resumed(begun) * _NUMBERS_OF_A_PROCESS,
            last_seq_ids=last_seq_ids,
        )
        self._adopt(begun.session_id, session)
        return session

    def _adopt(self, session_id: str, session: Session) -> None:
        if self._journal is not None:
            session.journal = self._journal.requests_of(self.url)
        self._sessions[session_id] = session

    def session_at(self, upstream_id: str) -> Session | None:
        """Returns the session here with this id of the server, if it is open."""
        sessions = (each for each in self._sessions.values() if each.session_id == upstream_id)
        return next(sessions, None)

    async def in_session(self, owner: SessionRow, create: Callable[[Session], Awaitable[C]]) -> C:
        """Calls `create` in the session that belongs to `owner`, and once more in a new session if
        the server has lost the first.
        """
        session = await self.session(owner)
        try:
            return await create(session)
        except (APIStatusError, RequestFailedError):
            if not await session.lifecycle.is_lost():
                raise
        logger.warning("%s lost session %s; beginning a new one", self.url, session.session_id)
        return await create(await self.session(owner))

    async def end_session(self, session_id: str, outcome: Outcome, detail: str | None) -> None:
        """Ends the session here that belongs to a session of the bridge, if there is one."""
        if session := self._sessions.pop(session_id, None):
            await self._end(session, outcome, detail)

    async def close(self) -> None:
        """Ends all sessions here, and closes the connections."""
        sessions, self._sessions = list(self._sessions.values()), {}
        await asyncio.gather(
            *(self._end(session, "interrupted", "the bridge was stopped") for session in sessions)
        )
        await self.transport.aclose()

    async def _end(self, session: Session, outcome: Outcome, detail: str | None) -> None:
        if not await session.lifecycle.finish(outcome, detail):
            await unload_left_behind(session, session.models)


class Upstreams:
    """The servers behind the bridge, as the holder of one key sees them. Each is connected to when
    it is first used.
    """

    def __init__(self, routing: Routing, key: str | None, journal: Journal) -> None:
        self.routing = routing
        self._journal = journal
        self._key = key
        self._connected: dict[Target, Upstream] = {}

    @property
    def default(self) -> Upstream:
        return self.at(self.routing.default)

    @property
    def all(self) -> list[Upstream]:
        """All servers, the default first."""
        return [self.at(target) for target in self.routing.targets]

    def for_model(self, base_model: str) -> Upstream:
        """Returns the server of a base model."""
        return self.at(self.routing.target_for(base_model))

    def at_url(self, url: str) -> Upstream | None:
        """Returns the server at a URL, or None if the bridge has no such server any more."""
        target = self.routing.target_at(url)
        return None if target is None else self.at(target)

    def at(self, target: Target) -> Upstream:
        """Returns a server. Raises `Refused` for one that cannot be called without a key."""
        if target not in self._connected:
            try:
                self._connected[target] = Upstream(target, self._key, self._journal)
            except ConfigError as error:
                raise Refused(
                    Reason.UNAUTHENTICATED, f"{target.url} cannot be called: {error.message}"
                ) from error
        return self._connected[target]

    async def end_session(self, session_id: str, outcome: Outcome, detail: str | None) -> None:
        """Ends the sessions that belong to a session of the bridge."""
        await asyncio.gather(
            *(
                upstream.end_session(session_id, outcome, detail)
                for upstream in self._connected.values()
            )
        )

    async def close(self) -> None:
        """Ends all sessions, and closes the connections."""
        await asyncio.gather(*(upstream.close() for upstream in self._connected.values()))
