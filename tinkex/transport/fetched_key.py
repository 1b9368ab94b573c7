"""A key that a function of the user's, or a command, gives: had when it is first needed, and anew
when the server refuses it.
"""

from __future__ import annotations

import asyncio
import inspect
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define, field

from tinkex.config.secrets import Secret, as_secret
from tinkex.errors import CredentialError
from tinkex.threads import in_thread

Fetch = Callable[[], Awaitable[str]]
_COMMAND_TIMEOUT = 60.0  # seconds


@define(eq=False)
class FetchedKey:
    """For one event loop; those who ask together wait for one fetch."""

    _fetch: Fetch
    _key: str | None = field(default=None, repr=False)
    _lock: asyncio.Lock = field(init=False, factory=asyncio.Lock)

    async def get(self) -> str:
        """Raises `CredentialError` when there is none."""
        if self._key is None:
            async with self._lock:
                if self._key is None:
                    self._key = await self._fetch()
        return self._key

    async def replace(self, refused: str) -> bool:
        """Fetches anew, unless that was done since; whether there is another one now."""
        async with self._lock:
            if self._key == refused:
                self._key = await self._fetch()
            return self._key != refused


def from_function(function: Callable[[], str | Awaitable[str]]) -> Fetch:
    """In a thread, since it may block; what it returns may be awaitable."""

    async def fetch() -> str:
        try:
            given: Any = as_secret(await in_thread(function))
            return _checked(
                as_secret(await given) if inspect.isawaitable(given) else given,
                "the api_key function",
            )
        except CredentialError:
            raise
        except Exception as error:
            raise CredentialError(
                f"the api_key function raised {type(error).__name__}",
                advice="See the cause; it is called without arguments.",
            ) from error

    return fetch


def from_command(command: str) -> Fetch:
    async def fetch() -> str:
        return _checked(await in_thread(_printed, command), "credential_cmd")

    return fetch


def _printed(command: str) -> str:
    """What a shell command prints. Neither that nor the command is in an error, since both may hold
    a key.
    """
    try:
        done = subprocess.run(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise CredentialError(
            f"credential_cmd did not end within {_COMMAND_TIMEOUT:g} s",
            advice="Run it by hand; it must not ask for anything.",
        ) from None
    status, printed = done.returncode, Secret(done.stdout.strip())
    del done  # whose repr shows what was printed
    if status:
        raise CredentialError(
            f"credential_cmd ended with status {status}", advice="Run it by hand to see why."
        )
    return printed


def _checked(key: object, giver: str) -> str:
    if not isinstance(key, str) or not key:
        raise CredentialError(
            f"{giver} gave no key", advice="It is to give the key, as a text, and nothing else."
        )
    if not (key.isascii() and key.isprintable()):
        raise CredentialError(
            f"{giver} gave characters that no header can carry",
            advice="It is to give the key alone, on one line.",
        )
    return key
