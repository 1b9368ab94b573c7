"""`Auth`: provides the key of each request: the user's own, or a JWT exchanged for it."""

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

# tokens are replaced at 45 to 55 % of their life, so that many clients do not do it at once
_HALF_LIFE, _SPREAD = 0.45, 0.1
_TOO_LATE = 60.0  # seconds before its end; a token is not used for new requests after that
_HOSTED_KEYS = ("tml-", jwt.PREFIX)
_BETWEEN_FAILURES = 60.0  # seconds between two failed exchanges, while the old token is valid


@frozen
class _Token:
    text: str = field(repr=False)
    due_at: float
    usable_until: float
    ends_at: float


def _token(text: str, now: float, chance: float) -> _Token:
    """Returns a token that was issued just now. Its times are those of the local clock, since the
    server's may differ.
    """
    life = jwt.lifetime(text)
    if life is None:
        return _Token(text, float("inf"), float("inf"), float("inf"))
    return _Token(
        text, now + life * (_HALF_LIFE + _SPREAD * chance), now + life - _TOO_LATE, now + life
    )


@define(eq=False)
class Auth:
    """The source of keys of one transport, for its event loop.

    Whether the server exchanges keys for JWTs is known once a session has begun
    (`Dialect.exchanges_keys`).
    """

    config: Config = field(repr=False)
    server: Server
    clock: Clock
    exchange: Callable[[str], Awaitable[str]]
    """The function that asks the server for a JWT in exchange for a key."""
    _text: Secret | None = field(init=False, default=None, repr=False)
    """The key, where the user gave it as a text."""
    _by_function: FetchedKey | None = field(init=False, default=None)
    _by_command: FetchedKey | None = field(init=False, default=None)
    _token: _Token | None = field(init=False, default=None)
    _exchanging: asyncio.Task[None] | None = field(init=False, default=None)
    _not_before: float = field(init=False, default=float("-inf"))

    def __attrs_post_init__(self) -> None:
        key, command = self.config.api_key, self.config.credential_cmd
        if isinstance(key, str) and self.config.is_hosted and not key.startswith(_HOSTED_KEYS):
            self.server.warn_once(
                "the API key does not look like a key of the hosted service, which begins with tml-"
            )
        if isinstance(key, str):
            self._text = Secret(key)
        if callable(key):
            self._by_function = FetchedKey(from_function(key))
        if command:
            self._by_command = FetchedKey(from_command(command))

    async def key(self) -> str | None:
        """Returns the key to send now; None if the user gave none.

        Raises:
            CredentialError: the function or the command for the key failed.
            AuthenticationError: the server does not exchange the key.
            APIConnectionError: there is no valid token, and the exchange failed; the request was
                not sent.
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
        """Replaces a key that the server has answered with 401.

        Returns whether there is another key now, so that the request may be sent again.
        """
        if not self.server.dialect.exchanges_keys:
            source = self._key_source()
            return source is not None and await source.replace(refused)
        if self._token is not None and self._token.text == refused:
            self._token = None
            await self._new_token(None)
        return True

    async def aclose(self) -> None:
        if self._exchanging is not None:
            self._exchanging.cancel()

    def _key_source(self) -> FetchedKey | None:
        """Returns the function or command that gives the key; None if the key is a text."""
        key = self.config.api_key
        if self.server.dialect.wants_credential_cmd and not (
            isinstance(key, str) and key.startswith(jwt.PREFIX)
        ):
            if self._by_command is None:
                raise ConfigError(
                    "this server accepts only keys that a command prints",
                    advice="Set TINKER_CREDENTIAL_CMD, or pass credential_cmd=….",
                )
            return self._by_command
        return self._by_function or (self._by_command if key is None else None)

    async def _own_key(self) -> str | None:
        source = self._key_source()
        return self._text if source is None else await source.get()

    async def _new_token(self, old: _Token | None) -> _Token:
        """Returns a new token; the old one while the exchange fails and the old one is valid."""
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
        """Starts an exchange, or returns the one that runs already."""
        if self._exchanging is None:
            self._exchanging = asyncio.create_task(self._exchange_key(), name="tinkex key exchange")
            self._exchanging.add_done_callback(self._end_exchange)
        return self._exchanging

    def _end_exchange(self, task: asyncio.Task[None]) -> None:
        self._exchanging = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._not_before = self.clock.now() + _BETWEEN_FAILURES
            logger.warning("the key was not exchanged for a token: %s", error)

    async def _exchange_key(self) -> None:
        key = await self._own_key()
        if key is None:
            raise ConfigError(
                "this server requires an API key, and none was given",
                advice="Set TINKER_API_KEY or pass api_key=….",
            )
        try:
            text = await self._token_for(key)
        except AuthenticationError:
            source = self._key_source()
            if source is None or not await source.replace(key):
                raise
            text = await self._token_for(await source.get())
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
                f"the key could not be exchanged for a token: {error.message}",
                operation=error.operation,
            )
            # the failure point of the request that needs the token: it was not sent
            failed.failure_point = "connecting"
            raise failed from error
