"""`Auth`: the key of each request: the user's own, or the JWT that the server gave for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from attrs import define, field, frozen

from tinkex.config import Config
from tinkex.config.secrets import Secret
from tinkex.errors import (
    APIConnectionError,
    APIResponseValidationError,
    AuthenticationError,
    ConfigError,
    NotATinkerServerError,
    TinkexError,
)
from tinkex.transport.fetched_key import FetchedKey, from_command, from_function
from tinkex.transport.server import Server
from tinkex.waiting.clock import Clock
from tinkex.wire import jwt

logger = logging.getLogger("tinkex")

# a token is exchanged at 45 to 55 % of its life, so that a fleet does not do it at once
_HALF_LIFE, _SPREAD = 0.45, 0.1
_TOO_LATE = 60.0  # seconds left of a token with which no more requests are begun
_HOSTED_KEYS = ("tml-", jwt.PREFIX)
_BETWEEN_FAILURES = 60.0  # seconds from a failed exchange to the next, while the old token holds


@frozen
class _Token:
    text: str = field(repr=False)
    due_at: float
    usable_until: float
    ends_at: float


def _token(text: str, now: float, chance: float) -> _Token:
    """A token that has just been given; by our own clock, since the server's may be another."""
    life = jwt.lifetime(text)
    if life is None:
        return _Token(text, float("inf"), float("inf"), float("inf"))
    return _Token(
        text, now + life * (_HALF_LIFE + _SPREAD * chance), now + life - _TOO_LATE, now + life
    )


@define(eq=False)
class Auth:
    """For one transport and its event loop. What is exchanged is found out when a session begins
    (`Dialect.exchanges_keys`).
    """

    config: Config = field(repr=False)
    server: Server
    clock: Clock
    exchange: Callable[[str], Awaitable[str]]
    """Asks the server for a JWT in exchange for a key."""
    _by_function: FetchedKey | None = field(init=False, default=None)
    _by_command: FetchedKey | None = field(init=False, default=None)
    _token: _Token | None = field(init=False, default=None)
    _exchanging: asyncio.Task[None] | None = field(init=False, default=None)
    _not_before: float = field(init=False, default=float("-inf"))

    def __attrs_post_init__(self) -> None:
        key, command = self.config.api_key, self.config.credential_cmd
        if isinstance(key, str) and self.config.is_hosted and not key.startswith(_HOSTED_KEYS):
            self.server.warn_once(
                "this key does not look like one of the hosted service's, which begin with tml-"
            )
        if callable(key):
            self._by_function = FetchedKey(from_function(key))
        if command:
            self._by_command = FetchedKey(from_command(command))

    async def key(self) -> str | None:
        """What to send now; None where the user gave nothing.

        Raises:
            CredentialError: the function or the command for the key failed.
            AuthenticationError: the server does not exchange the key.
            APIConnectionError: there is no token, and none can be had for now; the request was not
                sent.
        """
        if not self.server.dialect.exchanges_keys:
            return await self._own_key()
        now, token = self.clock.now(), self._token
        if token is None or now >= token.usable_until:
            token = await self._new_token(token)
        elif now >= token.due_at and now >= self._not_before:
            self._begin_exchange()
        return token.text

    async def replace(self, refused: str) -> bool:
        """After a 401 to this key: whether there is another one now, so that the request may be
        sent again.
        """
        if not self.server.dialect.exchanges_keys:
            fetched = self._fetched()
            return fetched is not None and await fetched.replace(refused)
        if self._token is not None and self._token.text == refused:
            self._token = None
            await self._new_token(None)
        return True

    async def aclose(self) -> None:
        if self._exchanging is not None:
            self._exchanging.cancel()

    def _fetched(self) -> FetchedKey | None:
        """What gives the key, where it is not a text."""
        key = self.config.api_key
        if self.server.dialect.wants_credential_cmd and not (
            isinstance(key, str) and key.startswith(jwt.PREFIX)
        ):
            if self._by_command is None:
                raise ConfigError(
                    "this server takes no key but what a command gives",
                    advice="Set TINKER_CREDENTIAL_CMD, or pass credential_cmd=….",
                )
            return self._by_command
        return self._by_function or (self._by_command if key is None else None)

    async def _own_key(self) -> str | None:
        fetched = self._fetched()
        if fetched is not None:
            return await fetched.get()
        return Secret(self.config.api_key) if isinstance(self.config.api_key, str) else None

    async def _new_token(self, old: _Token | None) -> _Token:
        """A new one; while that cannot be had the old one, to its end."""
        now = self.clock.now()
        if old is not None and now < self._not_before and now < old.ends_at:
            return old
        try:
            await asyncio.shield(self._begin_exchange())
        except TinkexError:
            if old is None or self.clock.now() >= old.ends_at:
                raise
            return old
        assert self._token is not None
        return self._token

    def _begin_exchange(self) -> asyncio.Task[None]:
        """The one that goes on, for all who wait."""
        if self._exchanging is None:
            self._exchanging = asyncio.create_task(self._exchange_key(), name="tinkex key exchange")
            self._exchanging.add_done_callback(self._exchanged)
        return self._exchanging

    def _exchanged(self, task: asyncio.Task[None]) -> None:
        self._exchanging = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._not_before = self.clock.now() + _BETWEEN_FAILURES
            logger.warning("the key was not exchanged for a token: %s", error)

    async def _exchange_key(self) -> None:
        key = await self._own_key()
        if key is None:
            raise ConfigError(
                "this server wants a key, and there is none",
                advice="Set TINKER_API_KEY or pass api_key=….",
            )
        try:
            text = await self._token_for(key)
        except AuthenticationError:
            fetched = self._fetched()
            if fetched is None or not await fetched.replace(key):
                raise
            text = await self._token_for(await fetched.get())
        self._token = _token(text, self.clock.now(), self.clock.random())

    async def _token_for(self, key: str) -> str:
        try:
            return await self.exchange(key)
        except TinkexError as error:
            if not error.retryable and not isinstance(
                error, (APIResponseValidationError, NotATinkerServerError)
            ):
                raise
            failed = APIConnectionError(
                f"no token could be had for the key: {error.message}", operation=error.operation
            )
            # of the request that wants the token, which may be sent again
            failed.failure_point = "connecting"
            raise failed from error
