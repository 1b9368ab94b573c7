"""A key that a function or a command of the user gives. It is fetched at its first use, and again
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
    """A key that is fetched when it is needed, for one event loop. Concurrent callers share one
    fetch.
    """

    _fetch: Fetch
    _key: str | None = field(default=None, repr=False)
    _lock: asyncio.Lock = field(init=False, factory=asyncio.Lock)

    async def get(self) -> str:
        """Returns the key. Raises `CredentialError` when it cannot be fetched."""
        if self._key is None:
            async with self._lock:
                if self._key is None:
                    self._key = await self._fetch()
        return self._key

    async def replace(self, refused: str) -> bool:
        """Fetches the key again, unless another caller has done so, and returns whether it has
        changed.
        """
        async with self._lock:
            if self._key == refused:
                self._key = await self._fetch()
            return self._key != refused


def from_function(function: Callable[[], str | Awaitable[str]]) -> Fetch:
    """Returns a fetch that calls a function in a thread, since it may block. The function may
    return an awaitable.
    """

    async def fetch() -> str:
        try:
            given: Any = as_secret(await in_thread(function))
            return _check(
                as_secret(await given) if inspect.isawaitable(given) else given,
                "the api_key function",
            )
        except CredentialError:
            raise
        except Exception as error:
            raise CredentialError(
                f"the api_key function raised {type(error).__name__}",
                advice="See the cause; the function is called without arguments.",
            ) from error

    return fetch


def from_command(command: str) -> Fetch:
    """Returns a fetch that runs a shell command and reads what it prints."""

    async def fetch() -> str:
        return _check(await in_thread(_run, command), "credential_cmd")

    return fetch


def _run(command: str) -> str:
    """Runs a shell command, and returns what it prints.

    Errors show neither the command nor its output, since both may hold a key.
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
            advice="Run the command by hand; it must not ask for input.",
        ) from None
    status, printed = done.returncode, Secret(done.stdout.strip())
    del done  # its repr, in a traceback, would show the key
    if status:
        raise CredentialError(
            f"credential_cmd ended with status {status}",
            advice="Run the command by hand to see why.",
        )
    return printed


def _check(key: object, source: str) -> str:
    if not isinstance(key, str) or not key:
        raise CredentialError(
            f"{source} gave no key", advice="It must give the key as a text, and nothing else."
        )
    if not (key.isascii() and key.isprintable()):
        raise CredentialError(
            f"{source} gave characters that no header can carry",
            advice="It must give the key alone, on one line.",
        )
    return key
