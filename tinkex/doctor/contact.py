"""The first exchange with the server, and the probes that read it: key, server and clock."""

from __future__ import annotations

import asyncio
import email.utils
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from attrs import frozen
from tinkex_api.api.server import get_server_capabilities, health

from tinkex.config import LOCAL, Config
from tinkex.dialects.dialect import Dialect
from tinkex.dialects.table import UNKNOWN
from tinkex.doctor.finding import Finding, skipped
from tinkex.doctor.settings import SECONDS, Settings
from tinkex.errors import (
    APIConnectionError,
    AuthenticationError,
    NotATinkerServerError,
    PermissionDeniedError,
    TinkexError,
)
from tinkex.session.discovery import ask_server, first_contact
from tinkex.transport import response_body
from tinkex.transport.port import Answer
from tinkex.transport.transport import Transport

_MAX_SKEW = 60.0  # seconds; tokens are valid for minutes
_RESOLUTION = 1.0  # seconds of the header Date
_KEY_ENDS = 4  # characters of a key that are shown at each end
_SET_CLOCK = {
    "darwin": "sudo sntp -sS time.apple.com",
    "win32": "w32tm /resync",
}
Refusal = AuthenticationError | PermissionDeniedError


@frozen
class Contact:
    """The server's first answers."""

    transport: Transport
    """The connection by which it was asked."""
    dialect: Dialect
    """The dialect, as far as the server has shown it."""
    error: TinkexError | None
    """The error that ended the discovery of the dialect."""
    is_tinker: bool
    """Whether a call of the Tinker API was answered."""
    models: Sequence[str]
    """The names of the base models; empty if the server does not tell."""
    health: Answer | None
    """The answer to the health check, whatever its status."""
    at: float
    """The local time in the middle of the health check, in seconds since 1970."""
    seconds: float
    """The duration of the health check."""
    refusal: Refusal | None
    """The refusal of the key."""
    better_url: str | None = None
    """A URL below which the Tinker API was found, where the given one is wrong."""


async def make_contact(transport: Transport) -> Contact:
    """Asks the server what it is.

    Raises:
        APIConnectionError: the server answered nothing.
    """
    asked, listed, checked = await asyncio.gather(
        _discover(transport), _list_models(transport), _check_health(transport)
    )
    errors = [one for one in (asked, listed) if isinstance(one, TinkexError)]
    silent = [error for error in errors if isinstance(error, APIConnectionError)]
    if silent and isinstance(checked.answer, APIConnectionError):
        raise silent[0]
    error = asked if isinstance(asked, TinkexError) else None
    refusal = next((one for one in errors if isinstance(one, Refusal)), None)
    answer = None if isinstance(checked.answer, APIConnectionError) else checked.answer
    is_tinker = refusal is not None or asked is True
    return Contact(
        transport=transport,
        dialect=transport.server.dialect,
        error=error,
        is_tinker=is_tinker,
        models=() if isinstance(listed, TinkexError) else listed,
        health=answer,
        at=checked.at,
        seconds=checked.seconds,
        refusal=refusal,
        better_url=None if is_tinker else await _better_url(transport),
    )


async def _discover(transport: Transport) -> bool | TinkexError:
    """Returns whether any call of the Tinker API was answered; or the error that was raised."""
    try:
        with first_contact(transport):
            answers = await ask_server(transport)
    except TinkexError as error:
        return error
    transport.server.observe(answers)
    return answers.config is not None or answers.has_capabilities or answers.has_health


async def _list_models(transport: Transport) -> Sequence[str] | TinkexError:
    try:
        with first_contact(transport):
            answer = await transport.send(get_server_capabilities.request(), first_contact=True)
    except TinkexError as error:
        return error
    return [model.model_name for model in answer.supported_models if model.model_name]


@frozen
class _Health:
    answer: Answer | APIConnectionError
    at: float
    seconds: float


async def _check_health(transport: Transport) -> _Health:
    began, clock = time.time(), time.perf_counter()
    try:
        answer = await transport.send_once(health.request(), timeout=SECONDS)
    except APIConnectionError as error:
        return _Health(error, began, 0.0)
    seconds = time.perf_counter() - clock
    return _Health(answer, began + seconds / 2, seconds)


async def _better_url(transport: Transport) -> str | None:
    """Returns the root of the base URL, if the Tinker API is there and not at the given path."""
    parts = urlsplit(transport.base_url)
    root = f"{parts.scheme}://{parts.netloc}"
    if not parts.path.strip("/"):
        return None
    try:
        async with transport.open_url(
            f"{root}{health.request().path}", "health", with_key=False
        ) as answer:
            body = await response_body.read_beginning(response_body.raw_pieces(answer))
    except APIConnectionError:
        return None
    return root if answer.is_success and b'"status"' in body else None


def key(settings: Settings, contact: Contact | None) -> Finding:
    """Returns whether the server accepts the key, which is shown masked.

    Args:
        contact: the first answers; None if there were none.
    """
    if (missing := settings.missing_key) is not None:
        return Finding(
            probe="key",
            level="fail",
            text=missing.message,
            cause=missing.advice,
            command="export TINKER_API_KEY=tml-…",
        )
    shown = masked_key(settings.config)
    if contact is None:
        return skipped("key", f"{shown}; whether it is accepted is unknown")
    if (refusal := contact.refusal) is not None:
        return _refused(shown, refusal)
    if not contact.is_tinker:
        return skipped("key", f"{shown}; whether it is accepted is unknown")
    if not (settings.config.api_key or settings.config.credential_cmd):
        return Finding(probe="key", level="ok", text="none is set, and the server needs none")
    if _travels_in_the_open(settings.config.base_url):
        return Finding(
            probe="key",
            level="warn",
            text=f"{shown}, accepted",
            cause="It is sent over http://, so that others on the way can read it.",
            command=f"export TINKER_BASE_URL=https://{urlsplit(settings.config.base_url).netloc}",
        )
    return Finding(probe="key", level="ok", text=f"{shown}, accepted")


def _refused(shown: str, refusal: Refusal) -> Finding:
    meaning = (
        "The server does not know this key."
        if isinstance(refusal, AuthenticationError)
        else "The server knows this key, and does not permit it the call; or a proxy refused."
    )
    return Finding(
        probe="key",
        level="fail",
        text=f"{shown}, refused: {refusal.message}",
        cause=meaning,
        command="export TINKER_API_KEY=tml-…",
    )


def masked_key(config: Config) -> str:
    """Returns both ends of the key, and its source."""
    source = next(item.source for item in config.describe() if item.name == "api_key")
    value = config.api_key
    if callable(value):
        return "from a function"
    if value is None:
        return f"from {_command_source(config)}" if config.credential_cmd else "none is set"
    shown = f"{value[:_KEY_ENDS]}…{value[-_KEY_ENDS:]}" if len(value) > 3 * _KEY_ENDS else "…"
    return f"{shown} (from {source})"


def _command_source(config: Config) -> str:
    return next(item.source for item in config.describe() if item.name == "credential_cmd")


def _travels_in_the_open(base_url: str) -> bool:
    """Returns whether a key goes to another network without TLS."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if base_url == LOCAL or parts.scheme == "https" or host == "localhost":
        return False
    try:
        return not ip_address(host).is_private
    except ValueError:
        return "." in host


def server(config: Config, contact: Contact) -> Finding:
    """Returns the name of the server, its dialect and its wire format."""
    if not contact.is_tinker:
        return _not_tinker(config, contact)
    if contact.refusal is not None:
        return skipped(
            "server", f"answers, and tells nothing before it accepts the key{_software(contact)}"
        )
    if contact.error is not None:
        return Finding(
            probe="server",
            level="fail",
            text=contact.error.message,
            cause=contact.error.advice,
            command=f"curl -v {config.base_url}/api/v1/healthz",
        )
    dialect = contact.dialect
    text = (
        f"{dialect.name}: {dialect.about}{_software(contact)}; batches as "
        f"{', else '.join(dialect.encodings)}, results {_results(dialect)}; answers in "
        f"{1000 * contact.seconds:.0f} ms; models: {_few(contact.models) or 'not told'}"
    )
    if dialect.name == UNKNOWN.name:
        return Finding(
            probe="server",
            level="warn",
            text=text,
            cause=(
                "It is none of the servers of docs/servers.md, so the rules apply that are safe on "
                "all servers. If it is one of them behind a proxy, name it."
            ),
            command="export TINKEX_DIALECT=NAME",
        )
    return Finding(probe="server", level="ok", text=text)


def no_answer(error: TinkexError) -> Finding:
    """Returns the finding for a server that accepts connections and answers nothing."""
    return Finding(
        probe="server",
        level="fail",
        text=error.message,
        cause="It accepts connections; it hangs, or is not a server of HTTP.",
        command="tinkex serve",
        unreachable=True,
    )


def _not_tinker(config: Config, contact: Contact) -> Finding:
    found = (
        contact.error.message
        if isinstance(contact.error, TinkexError)
        else f"{config.base_url} has none of the calls of a Tinker server"
    )
    is_page = isinstance(contact.error, NotATinkerServerError)
    cause = (
        "The address is that of another web server, or a proxy or a login page of the network "
        "answers in its place."
        if is_page
        else "The path or the port of the base URL is wrong, or the server is another one."
    )
    if contact.better_url:
        cause = f"The Tinker API is at {contact.better_url}."
    return Finding(
        probe="server",
        level="fail",
        text=found,
        cause=cause,
        command=f"export TINKER_BASE_URL={contact.better_url or 'http://HOST:PORT'}",
    )


def _software(contact: Contact) -> str:
    name = contact.health.headers.get("server") if contact.health is not None else None
    return f" ({name})" if name else ""


def _results(dialect: Dialect) -> str:
    return "as the client asks" if dialect.results == "by_accept" else f"as {dialect.results}"


def _few(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def clock(contact: Contact) -> Finding:
    """Returns the difference between the clocks of this machine and the server."""
    told = contact.health.headers.get("date") if contact.health is not None else None
    if told is None:
        return skipped("clock", "the server does not tell the time")
    try:
        there = email.utils.parsedate_to_datetime(told).timestamp()
    except ValueError:
        return skipped("clock", f"the server tells a time that cannot be read: {told!r}")
    # the header has whole seconds
    skew = contact.at - there - _RESOLUTION / 2
    text = (
        "the clocks agree within a second"
        if abs(skew) <= _RESOLUTION + contact.seconds
        else f"this machine is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server"
    )
    if abs(skew) < _MAX_SKEW:
        return Finding(probe="clock", level="ok", text=text)
    return Finding(
        probe="clock",
        level="warn",
        text=text,
        cause="Tokens, signed URLs and certificates may count as expired, or as not yet valid.",
        command=_SET_CLOCK.get(sys.platform, "sudo timedatectl set-ntp true"),
    )
