"""`Config`: every setting of a client, checked once, and frozen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from attrs import Factory, evolve, field, fields, frozen
from attrs.validators import optional

from tinkex.config import defaults, parsers, validators
from tinkex.config.defaults import GROUPS, HOSTED_BASE_URL, found, group
from tinkex.config.description import Description, describe
from tinkex.config.http_limits import HttpLimits
from tinkex.config.poll_and_retry import PollSettings, RetrySettings
from tinkex.config.proxies import Proxies, Proxy
from tinkex.config.recovery import RecoveryPolicy
from tinkex.config.secrets import as_secret, public, without_password
from tinkex.config.sources import Sources
from tinkex.dialects.dialect import ChunkLimits, Dialect
from tinkex.errors import ConfigError, InvalidInputError
from tinkex.errors.hints import hinted

if TYPE_CHECKING:
    import httpx

SEED_CHUNK_LIMITS = ChunkLimits(max_items=128, max_size=500_000, unit="tokens")
"""The limits of the Elixir SDK of the same name, and of servers of that time."""

ApiKey: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""The key itself, or a function that gives one; it may block, or be asyncio's."""
LogLevel = Literal["debug", "info", "warning", "error"]

_NOT_IN_FILES = frozenset({"profile", "sources", "chunk_limits", "http_transport"})
_STAYS_HERE = frozenset(
    {
        "profile",
        "sources",
        "api_key",
        "credential_cmd",
        "cf_access_client_id",
        "cf_access_client_secret",
        "proxy",
        "proxy_headers",
        "http_transport",
    }
)
"""What does not go to another process: what is secret, and the ways out of this machine."""


def _sources(config: Config) -> Sources:
    read = Sources.read(config.profile)
    known = known_names()
    read.check_names(known)
    read.warn_of_misspelt(known)
    return read


# Type checkers take a converter's parameter for the constructor's, so that none is generic.
def _secret_text(value: str | None) -> str | None:
    return as_secret(value)


def _secret_key(value: ApiKey | None) -> ApiKey | None:
    return as_secret(value)


def _secret_pairs(value: Mapping[str, str]) -> Mapping[str, str]:
    return as_secret(value)


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


@hinted
@frozen(kw_only=True)
class Config:
    """The settings of a client. All are read and checked here, and nowhere else.

    What is not given comes from the environment, a profile in `~/.config/tinkex/config.toml`, or
    the stored keys, in this order (`tinkex.config.sources`); `print(config.describe())` shows each
    with where it comes from.

    Example:
        >>> Config(base_url="http://127.0.0.1:8765", api_key="tml-local").timeout
        60.0

    Args:
        profile: a table of settings by name; `TINKEX_PROFILE`, else the one that the file names.
        base_url: where the server is; `TINKER_BASE_URL`, else the hosted service. "local" is an
            embedded server in this process,
            which the first call starts.
        credential_cmd: a shell command that prints a key; `TINKER_CREDENTIAL_CMD`. Run when a key
            is first needed, and again when
            the server refuses what it printed.
        api_key: the key, or a function that gives one; `TINKER_API_KEY`, else `credential_cmd`,
            else the default of
            `~/.tinker/credentials.json`. The hosted service wants one; other servers may not. Never
            shown in a repr.
        project_id: the project that sessions belong to; `TINKER_PROJECT_ID`.
        tags: tags of the session; `TINKER_TAGS`, comma-separated.
        user_metadata: facts of your own, kept with each session.
        timeout: seconds for an ordinary HTTP call.
        connect_timeout: seconds to connect.
        max_retries: how often a failed call is sent again: `retry.max_attempts` less one, and goes
            before it.
        progress_timeout: seconds after which what waits for the server gives up: both
            `retry.max_wait` and `poll.max_wait`.
        retry: when a failed call is tried again.
        poll: how results are waited for.
        recovery: when `create_recoverable_run` saves, and what it recovers from, by default.
        dialect: what the server speaks, by name or as a `Dialect`; by default it is found out. The
            server's own flags go before it.
        feature_gates: single ways of the server's that are known better than it says
            (`tinkex.dialects.feature_gates`): `bulk_results` turns
            one on, `-bulk_results` off; `TINKER_FEATURE_GATES`, comma-separated.
        chunk_limits: how a batch is split into requests; by default what the server says, else
            `ChunkLimits()`.
        heartbeat_interval: seconds between heartbeats of a session.
        verify_checkpoints: whether a save is followed by a forward of one small datum, which a load
            is compared with; by default on
            servers whose loads were not measured to be true, and whose forward is known to change
            nothing.
        telemetry: whether the server is told how sessions went (`tinkex.telemetry`);
            `TINKER_TELEMETRY`. By default only the hosted one.
        log_level: "debug", "info", "warning" or "error": shows tinkex's log from this level on;
            `TINKER_LOG`.
        dump_headers: whether the headers of each request are logged, keys hidden.
        default_headers: headers to add to every request.
        default_query: query parameters to add to every request.
        cf_access_client_id, cf_access_client_secret: for a server behind Cloudflare Access;
            `CLOUDFLARE_ACCESS_CLIENT_ID`, `…_SECRET`.
        proxy: the URL of an HTTP proxy; `TINKEX_PROXY`, else, for servers off this machine,
            `HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY`
            with the exceptions of `NO_PROXY`.
        proxy_headers: headers for the proxy alone.
        http_limits: how many connections there may be.
        http_transport: what carries the requests instead of a connection of our own, for tests.
        sources: the environment and the files, for tests.

    Raises:
        ConfigError: a value is missing or not allowed; it names the setting or the variable, the
            value and what is allowed.
    """

    profile: str | None = None
    sources: Sources = field(default=Factory(_sources, takes_self=True), repr=False, eq=False)
    base_url: str = field(
        default=None, converter=defaults.given_or_found_url, validator=validators.base_url
    )
    credential_cmd: str | None = field(
        default=found("credential_cmd"), converter=_secret_text, repr=False
    )
    api_key: ApiKey | None = field(
        default=defaults.found_api_key(),
        converter=_secret_key,
        validator=validators.header_value,
        repr=False,
    )
    project_id: str | None = field(default=found("project_id"))
    tags: tuple[str, ...] = field(default=found("tags", parsers.names, ()), converter=_texts)
    user_metadata: Mapping[str, str] = field(
        default=found("user_metadata", parsers.pairs, dict), validator=validators.pairs
    )
    timeout: float = field(
        default=found("timeout", parsers.number, 60.0), validator=validators.positive
    )
    connect_timeout: float = field(
        default=found("connect_timeout", parsers.number, 5.0), validator=validators.positive
    )
    max_retries: int | None = field(
        default=found("max_retries", parsers.whole_number), validator=validators.retries
    )
    progress_timeout: float | None = field(
        default=found("progress_timeout", parsers.number), validator=optional(validators.positive)
    )
    retry: RetrySettings = field(default=group("retry"), converter=defaults.with_retry_limits)
    poll: PollSettings = field(default=group("poll"), converter=defaults.with_poll_limits)
    recovery: RecoveryPolicy = field(default=group("recovery"))
    dialect: Dialect | None = field(
        default=found("dialect", parsers.dialect), converter=defaults.named_dialect
    )
    feature_gates: tuple[str, ...] = field(
        default=found("feature_gates", parsers.names, ()),
        converter=_texts,
        validator=validators.feature_gates,
    )
    chunk_limits: ChunkLimits | None = None
    heartbeat_interval: float = field(
        default=found("heartbeat_interval", parsers.number, 10.0), validator=validators.positive
    )
    verify_checkpoints: bool | None = field(default=found("verify_checkpoints", parsers.switch))
    telemetry: bool | None = field(default=found("telemetry", parsers.switch))
    log_level: LogLevel | None = field(
        default=found("log_level", parsers.one_of(*validators.LOG_LEVELS)),
        validator=validators.log_level,
    )
    dump_headers: bool = field(default=found("dump_headers", parsers.switch, False))
    default_headers: Mapping[str, str] = field(
        default=found("default_headers", parsers.pairs, dict),
        converter=_secret_pairs,
        validator=validators.pairs,
        repr=False,
    )
    default_query: Mapping[str, str] = field(
        default=found("default_query", parsers.pairs, dict),
        converter=_secret_pairs,
        validator=validators.pairs,
        repr=False,
    )
    cf_access_client_id: str | None = field(
        default=found("cf_access_client_id"),
        converter=_secret_text,
        validator=validators.header_value,
        repr=False,
    )
    cf_access_client_secret: str | None = field(
        default=found("cf_access_client_secret"),
        converter=_secret_text,
        validator=validators.header_value,
        repr=False,
    )
    proxy: str | None = field(
        default=found("proxy"),
        validator=validators.proxy,
        repr=lambda url: str(without_password(url)),
    )
    proxy_headers: Mapping[str, str] = field(
        default=found("proxy_headers", parsers.pairs, dict),
        converter=_secret_pairs,
        validator=validators.pairs,
        repr=False,
    )
    http_limits: HttpLimits = field(default=group("http_limits"))
    http_transport: httpx.AsyncBaseTransport | None = field(default=None, repr=False)

    @property
    def is_hosted(self) -> bool:
        return self.base_url == HOSTED_BASE_URL

    @property
    def sends_telemetry(self) -> bool:
        """Whether the server is told how sessions went."""
        return self.is_hosted if self.telemetry is None else self.telemetry

    @property
    def proxies(self) -> Proxies:
        """Through which proxy each URL is asked for."""
        if self.proxy is not None:
            return Proxies(Proxy(self.proxy, validators.name_of(self, "proxy")))
        return Proxies.of_environment(self.sources.environment)

    def describe(self) -> Description:
        """Every setting with its value and where it comes from; what is secret is hidden. Its text
        is a table.
        """
        return describe(self, self.sources, GROUPS)

    def without_secrets(self) -> dict[str, Any]:
        """The settings that may be sent to another process, which takes the key from its own
        environment: `Config(**settings)`.
        """
        settings = {
            a.name: getattr(self, a.name) for a in fields(Config) if a.name not in _STAYS_HERE
        }
        return {
            **settings,
            "default_headers": public(self.default_headers),
            "default_query": public(self.default_query),
        }

    def __attrs_post_init__(self) -> None:
        if not (self.api_key or self.credential_cmd) and self.is_hosted:
            raise ConfigError(
                "no API key for the hosted service",
                advice="Set TINKER_API_KEY or pass api_key=…. To use a server of your own, which may need none, set "
                "TINKER_BASE_URL or pass base_url=…; `tinkex serve` starts one.",
            )
        if (self.cf_access_client_id is None) != (self.cf_access_client_secret is None):
            raise ConfigError(
                "cf_access_client_id and cf_access_client_secret go together, and one of them is missing"
            )
        if self.proxy_headers and not self.proxies:
            raise ConfigError(
                "proxy_headers without a proxy go nowhere",
                advice="Give proxy=…, or set TINKEX_PROXY.",
            )
        self.proxies.of(self.base_url)  # one that is not spoken to shows here

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Callable[..., Config], tuple[Any, ...]]:
        return _restore, (self.without_secrets(),)


def configured(
    config: Config | None,
    base_url: str | None,
    api_key: ApiKey | None,
    more: Mapping[str, Any] | None = None,
) -> Config:
    """Returns the settings given, with `base_url`, `api_key` and `more` in place of their own where
    these are not None.

    Raises:
        InvalidInputError: the base URL is not a text, but a `Config` or another argument; the
            advice has the right call.
    """
    if base_url is not None and not isinstance(base_url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        meant = {Config: "config=Config(…)", dict: "user_metadata=…"}.get(
            type(base_url), "base_url='http://…'"
        )
        raise InvalidInputError(
            f"base_url must be a text, found {type(base_url).__name__}",
            advice=f"Give it by its name: {meant}",
        )
    named = {"base_url": base_url, "api_key": as_secret(api_key), **(more or {})}
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    return evolve(config, **given) if config else Config(**given)


def _restore(settings: Mapping[str, Any]) -> Config:
    return Config(**settings)


def known_names() -> frozenset[str]:
    """Those that a profile may have."""
    single = {a.name for a in fields(Config)} - GROUPS.keys() - _NOT_IN_FILES
    return frozenset(
        single | {f"{group}.{item}" for group, (_, items) in GROUPS.items() for item in items}
    )
