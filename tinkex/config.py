"""`Config`: every setting of a client, read from arguments and the environment once, checked once, and frozen."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from attrs import evolve, field, fields, frozen

from tinkex.dialects.dialect import ChunkLimits, Dialect
from tinkex.dialects.table import DIALECTS
from tinkex.errors import ConfigError

if TYPE_CHECKING:
    import httpx

_SECRET_HEADER = re.compile("auth|key|secret|token|cookie", re.IGNORECASE)
HOSTED_BASE_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"
LOCAL = "local"
"""The base URL of a server in this process, which the first call starts."""


def _from_env(variable: str) -> Callable[[], str | None]:
    """An empty variable counts as unset, as in the official SDK."""
    return lambda: os.environ.get(variable, "").strip() or None


def _base_url(url: str | None) -> str:
    return (url or os.environ.get("TINKER_BASE_URL", "").strip() or HOSTED_BASE_URL).rstrip("/")


def _tags_from_env() -> tuple[str, ...]:
    return tuple(tag.strip() for tag in os.environ.get("TINKER_TAGS", "").split(",") if tag.strip())


def _check_base_url(_config: object, _attribute: object, url: str) -> None:
    parts = urlsplit(url)
    if url != LOCAL and (parts.scheme not in ("http", "https") or not parts.netloc):
        raise ConfigError(
            f"base_url {url!r} is not an http(s) URL",
            advice="Give it as http://host:port, in TINKER_BASE_URL or as base_url=…; `tinkex serve` prints the one to use. 'local' "
            "starts a server in this process.",
        )


def _positive(config: object, attribute: Any, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{type(config).__name__}.{attribute.name} must be more than 0, not {value!r}")


def _not_negative(config: object, attribute: Any, value: float) -> None:
    if not value >= 0:
        raise ConfigError(f"{type(config).__name__}.{attribute.name} must be 0 or more, not {value!r}")


@frozen(kw_only=True)
class RetrySettings:
    """How often, and for how long in all, a failed HTTP call is tried again.

    The delay before try n + 1 is `min(base_delay * 2**(n - 1), max_delay)`, less a random part of up to a quarter; a
    `Retry-After` of the server goes before it.
    """

    max_attempts: int = field(default=10, validator=_positive)
    max_seconds: float = field(default=300.0, validator=_positive)
    base_delay: float = field(default=0.5, validator=_not_negative)
    """Seconds."""
    max_delay: float = field(default=10.0, validator=_not_negative)
    """Seconds."""
    max_rate_limited: float = field(default=3600.0, validator=_positive)
    """Seconds for which a request that is refused as one too many (429) is sent again; such tries do not count in `max_attempts`."""
    max_billing_pause: float = field(default=3600.0, validator=_positive)
    """Seconds for which a request that cannot be paid (402) is sent again, every 5 s."""
    max_wait: float = field(default=7200.0, validator=_positive)
    """Seconds that a call may last in all, over all tries and pauses; then `WaitTimeoutError`."""


@frozen(kw_only=True)
class PollSettings:
    """How a result is waited for. Polling is not retrying: a poll that fails is tried again by `RetrySettings`."""

    min_interval: float = field(default=0.05, validator=_not_negative)
    """Seconds between polls that the server answered at once with "not yet"; grows to `max_interval`."""
    max_interval: float = field(default=2.0, validator=_not_negative)
    """Seconds."""
    request_timeout: float = field(default=45.0, validator=_positive)
    """Seconds that one long poll may take, more where the server is known to hold it longer; one that takes longer counts as "not yet"."""
    max_wait: float = field(default=7200.0, validator=_positive)
    """Seconds in all that a result is waited for, or the turn to be sent behind earlier calls; then `WaitTimeoutError`."""


SEED_CHUNK_LIMITS = ChunkLimits(max_items=128, max_size=500_000, unit="tokens")
"""The limits of the Elixir SDK of the same name, and of servers of that time."""


def _dialect(given: str | Dialect | None) -> Dialect | None:
    if given is None or isinstance(given, Dialect):
        return given
    if given not in DIALECTS:
        raise ConfigError(f"dialect {given!r} is not known", advice=f"Known are {', '.join(DIALECTS)}; a Dialect is taken, too.")
    return DIALECTS[given]


@frozen(kw_only=True)
class Config:
    """The settings of a client. Missing ones come from the environment; all are checked here and read nowhere else.

    Example:
        >>> Config(base_url="http://127.0.0.1:8765", api_key="tml-local").timeout
        60.0

    Args:
        base_url: where the server is; `TINKER_BASE_URL`, else the hosted service. "local" is an embedded server in this process,
            which the first call starts.
        api_key: `TINKER_API_KEY`. The hosted service wants one; other servers may not. Never shown in a repr.
        project_id: the project that sessions belong to; `TINKER_PROJECT_ID`.
        tags: tags of the session; `TINKER_TAGS`, comma-separated.
        timeout: seconds for an ordinary HTTP call.
        connect_timeout: seconds to connect.
        retry: when a failed call is tried again.
        poll: how results are waited for.
        dialect: what the server speaks, by name or as a `Dialect`; by default it is found out. The server's own flags go before it.
        chunk_limits: how a batch is split into requests; by default what the server says, else `ChunkLimits()`.
        heartbeat_interval: seconds between heartbeats of a session.
        default_headers: headers to add to every request.
        http_transport: what carries the requests instead of a connection of our own, for proxies and tests.

    Raises:
        ConfigError: a value is missing or not allowed; it names the setting, the value and what is allowed.
    """

    base_url: str = field(default=None, converter=_base_url, validator=_check_base_url)
    api_key: str | None = field(factory=_from_env("TINKER_API_KEY"), repr=False)
    project_id: str | None = field(factory=_from_env("TINKER_PROJECT_ID"))
    tags: tuple[str, ...] = field(factory=_tags_from_env, converter=tuple)
    timeout: float = field(default=60.0, validator=_positive)
    connect_timeout: float = field(default=5.0, validator=_positive)
    retry: RetrySettings = field(factory=RetrySettings)
    poll: PollSettings = field(factory=PollSettings)
    dialect: Dialect | None = field(default=None, converter=_dialect)
    chunk_limits: ChunkLimits | None = None
    heartbeat_interval: float = field(default=10.0, validator=_positive)
    default_headers: Mapping[str, str] = field(factory=dict[str, str], repr=False)
    http_transport: httpx.AsyncBaseTransport | None = field(default=None, repr=False)

    def without_secrets(self) -> dict[str, Any]:
        """The settings that may be sent to another process, which takes the key from its own environment: `Config(**settings)`."""
        settings = {a.name: getattr(self, a.name) for a in fields(Config) if a.name not in ("api_key", "http_transport")}
        headers = {name: value for name, value in self.default_headers.items() if not _SECRET_HEADER.search(name)}
        return {**settings, "default_headers": headers}

    def __attrs_post_init__(self) -> None:
        if self.api_key is None and self.base_url == HOSTED_BASE_URL:
            raise ConfigError(
                "no API key for the hosted service",
                advice="Set TINKER_API_KEY or pass api_key=…. To use a server of your own, which may need none, set "
                "TINKER_BASE_URL or pass base_url=…; `tinkex serve` starts one.",
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ConfigError("the API key holds characters that no header can carry", advice="Was it copied whole?")


def configured(config: Config | None, base_url: str | None, api_key: str | None) -> Config:
    """The settings given, with `base_url` and `api_key` in place of their own where these are given."""
    given: dict[str, Any] = {name: value for name, value in (("base_url", base_url), ("api_key", api_key)) if value is not None}
    return evolve(config, **given) if config else Config(**given)
