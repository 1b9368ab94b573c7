"""`Config`: all settings of a client, immutable and checked once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from attrs import Factory, evolve, field, fields, frozen
from attrs.validators import optional

from tinkex.config import defaults, parsers, validators
from tinkex.config.defaults import HOSTED_BASE_URL
from tinkex.config.description import Description, describe
from tinkex.config.http_limits import HttpLimits
from tinkex.config.poll_and_retry import PollSettings, RetrySettings
from tinkex.config.proxies import Proxies, Proxy
from tinkex.config.recovery import RecoveryPolicy
from tinkex.config.secrets import as_secret, hidden, masked_text, names_of, public, shown_url
from tinkex.config.setting import group, setting, single_settings, with_names
from tinkex.config.sources import Sources
from tinkex.dialects.dialect import ChunkLimits, Dialect
from tinkex.errors import ConfigError, InvalidInputError, MissingKeyError
from tinkex.errors.hints import hinted
from tinkex.errors.validators import name_of, positive, whole_and_not_negative

if TYPE_CHECKING:
    import httpx

SEED_CHUNK_LIMITS = ChunkLimits(max_items=128, max_size=500_000, unit="tokens")
"""The limits of the Elixir SDK named tinkex, and of the servers of its time."""

ApiKey: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""An API key, or a function that returns one. The function may block or be asynchronous."""
LogLevel = Literal["debug", "info", "warning", "error"]

_OF_THIS_PROCESS = frozenset({"profile", "sources", "http_transport"})
"""Fields that are not sent to another process, besides the settings that stay here."""


def _sources(config: Config) -> Sources:
    read = Sources.read(config.profile)
    known = single_settings(Config)
    read.check_names({setting.name for setting in known})
    read.warn_of_misspelt({setting.variable for setting in known})
    return read


def _own_sources(sources: Sources) -> Sources:
    """Returns a copy, since each configuration notes there where its own values come from."""
    return sources.copy()


# Type checkers infer the constructor's parameter from the converter's, so no converter is generic.
def _secret_text(value: str | None) -> str | None:
    return as_secret(value)


def _secret_key(value: ApiKey | None) -> ApiKey | None:
    return as_secret(value)


def _secret_pairs(value: Mapping[str, str]) -> Mapping[str, str]:
    return as_secret(value)


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


@hinted
@frozen(kw_only=True, repr=False, field_transformer=with_names)
class Config:
    """The settings of a client.

    A setting that is not given comes from the environment, a profile in
    `~/.config/tinkex/config.toml`, or the stored keys, in this order (see `tinkex.config.sources`).
    `print(config.describe())` shows each setting with its source. The variable of a setting is
    TINKEX_ and its name, like `TINKEX_TIMEOUT`, but for those that all Tinker clients know, like
    `TINKER_API_KEY` and `TINKER_BASE_URL`; docs/settings.md lists them.

    Example:
        >>> config = Config(base_url="http://127.0.0.1:8765", api_key="tml-local", timeout=30.0)
        >>> config.base_url, config.timeout
        ('http://127.0.0.1:8765', 30.0)

    Args:
        profile: the name of a table of settings in the file; by default `TINKEX_PROFILE`, else the
            profile that the file names.
        base_url: the URL of the server. "local" is an embedded server in this process, which the
            first call starts.
        credential_cmd: a shell command that prints an API key. It runs when a key is first needed,
            and again if the server rejects the key.
        api_key: an API key; in Python also a function that returns one, which may be asynchronous.
            By default the one that `credential_cmd` prints, else the default key of
            `~/.tinker/credentials.json`. The hosted service requires a key; other servers may not.
        project_id: the project that sessions belong to.
        tags: tags of each session.
        user_metadata: metadata of your own, kept with each session.
        timeout: seconds for an ordinary HTTP call.
        connect_timeout: seconds to connect.
        max_retries: the number of times that a failed call is retried. It replaces
            `retry.max_attempts`, which also counts the first attempt.
        progress_timeout: seconds that a call may last. It replaces both `retry.max_wait` and
            `poll.max_wait`.
        retry: when a failed call is retried.
        poll: how often and how long a client polls for a result.
        recovery: the default policy of `create_recoverable_run`.
        dialect: the dialect of the server, by name (docs/servers.md); in Python also a `Dialect`.
            By default it is detected. The server's own flags take precedence.
        feature_gates: features of the server to turn on or off, whatever it says itself (see
            `tinkex.dialects.feature_gates`): `bulk_results` turns one on, `-bulk_results` turns it
            off.
        chunk_limits: the limits by which a batch is split into requests; by default those of the
            server, else `ChunkLimits()`.
        heartbeat_interval: seconds between the heartbeats of a session.
        verify_checkpoints: whether each save is followed by a forward pass over one small datum, so
            that a later load can be verified. By default only on servers whose loads have not been
            measured to be correct, and whose forward pass is known to change nothing.
        telemetry: whether the server is told how sessions ended; by default only the hosted service
            is (docs/telemetry.md).
        log_level: `debug`, `info`, `warning` or `error`: the level from which tinkex's log is
            shown. By default the program's own configuration of logging decides.
        dump_headers: whether the headers of each request are logged, with secrets masked.
        default_headers: headers to add to every request.
        default_query: query parameters to add to every request.
        cf_access_client_id: the ID of a service token, for a server behind Cloudflare Access.
        cf_access_client_secret: the secret of the same token.
        proxy: the URL of an HTTP proxy for all servers. By default, for servers on other machines,
            that of `HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY`, with the exceptions of `NO_PROXY`.
        proxy_headers: headers that are sent to the proxy only.
        http_limits: limits on connections, answers and downloads.
        http_transport: a transport that replaces the client's own connections, for tests.
        sources: the environment and the files, for tests.

    Raises:
        ConfigError: a value is missing or not allowed. The message names the setting or the
            variable, the value and what is allowed.
    """

    profile: str | None = None
    sources: Sources = field(
        default=Factory(_sources, takes_self=True), converter=_own_sources, repr=False, eq=False
    )
    base_url: str = field(
        default=setting(parsers.url, HOSTED_BASE_URL, variable="TINKER_BASE_URL"),
        converter=defaults.given_or_found_url,
        validator=validators.base_url,
    )
    credential_cmd: str | None = field(
        default=setting(variable="TINKER_CREDENTIAL_CMD", hide=hidden, stays_here=True),
        converter=_secret_text,
        repr=False,
    )
    api_key: ApiKey | None = field(
        default=setting(
            variable="TINKER_API_KEY",
            look_up=defaults.found_api_key,
            hide=hidden,
            stays_here=True,
        ),
        converter=_secret_key,
        validator=validators.header_value,
        repr=False,
    )
    project_id: str | None = field(default=setting(variable="TINKER_PROJECT_ID"))
    tags: tuple[str, ...] = field(
        default=setting(parsers.names, (), variable="TINKER_TAGS"), converter=_texts
    )
    user_metadata: Mapping[str, str] = field(
        default=setting(parsers.pairs, dict), validator=validators.pairs
    )
    timeout: float = field(default=setting(parsers.number, 60.0), validator=positive)
    connect_timeout: float = field(default=setting(parsers.number, 5.0), validator=positive)
    max_retries: int | None = field(
        default=setting(parsers.whole_number), validator=optional(whole_and_not_negative)
    )
    progress_timeout: float | None = field(
        default=setting(parsers.number), validator=optional(positive)
    )
    retry: RetrySettings = field(default=group(RetrySettings), converter=defaults.with_retry_limits)
    poll: PollSettings = field(default=group(PollSettings), converter=defaults.with_poll_limits)
    recovery: RecoveryPolicy = field(default=group(RecoveryPolicy))
    dialect: Dialect | None = field(
        default=setting(parsers.dialect), converter=defaults.named_dialect
    )
    feature_gates: tuple[str, ...] = field(
        default=setting(parsers.names, (), variable="TINKER_FEATURE_GATES"),
        converter=_texts,
        validator=validators.feature_gates,
    )
    chunk_limits: ChunkLimits | None = None
    heartbeat_interval: float = field(default=setting(parsers.number, 10.0), validator=positive)
    verify_checkpoints: bool | None = field(default=setting(parsers.switch))
    telemetry: bool | None = field(default=setting(parsers.switch, variable="TINKER_TELEMETRY"))
    log_level: LogLevel | None = field(
        default=setting(parsers.one_of(*validators.LOG_LEVELS), variable="TINKER_LOG"),
        validator=validators.log_level,
    )
    dump_headers: bool = field(default=setting(parsers.switch, False))
    default_headers: Mapping[str, str] = field(
        default=setting(parsers.pairs, dict, hide=masked_text),
        converter=_secret_pairs,
        validator=validators.pairs,
        repr=False,
    )
    default_query: Mapping[str, str] = field(
        default=setting(parsers.pairs, dict, hide=masked_text),
        converter=_secret_pairs,
        validator=validators.pairs,
        repr=False,
    )
    cf_access_client_id: str | None = field(
        default=setting(variable="CLOUDFLARE_ACCESS_CLIENT_ID", hide=hidden, stays_here=True),
        converter=_secret_text,
        validator=validators.header_value,
        repr=False,
    )
    cf_access_client_secret: str | None = field(
        default=setting(variable="CLOUDFLARE_ACCESS_CLIENT_SECRET", hide=hidden, stays_here=True),
        converter=_secret_text,
        validator=validators.header_value,
        repr=False,
    )
    proxy: str | None = field(
        default=setting(hide=shown_url, stays_here=True),
        validator=validators.proxy,
        repr=shown_url,
    )
    proxy_headers: Mapping[str, str] = field(
        default=setting(parsers.pairs, dict, hide=names_of, stays_here=True),
        converter=_secret_pairs,
        validator=validators.pairs,
        repr=False,
    )
    http_limits: HttpLimits = field(default=group(HttpLimits))
    http_transport: httpx.AsyncBaseTransport | None = field(default=None, repr=False)

    @property
    def is_hosted(self) -> bool:
        return self.base_url == HOSTED_BASE_URL

    @property
    def sends_telemetry(self) -> bool:
        """Whether the server is told how sessions ended."""
        return self.is_hosted if self.telemetry is None else self.telemetry

    @property
    def proxies(self) -> Proxies:
        """The proxies, from which `Proxies.of` chooses one for a URL."""
        if self.proxy is not None:
            return Proxies(Proxy(self.proxy, name_of(self, "proxy")))
        return Proxies.of_environment(self.sources.environment)

    def describe(self) -> Description:
        """Returns every setting with its value and its source, with secrets masked.

        `str()` of the result is a table.
        """
        return describe(self)

    def __repr__(self) -> str:
        """Returns the settings that are not defaults, with secrets masked."""
        given = (
            f"{setting.name}={setting.value}"
            for setting in self.describe()
            if setting.source != "default" or setting.name == "base_url"
        )
        return f"<Config {' '.join(given)}>"

    def _repr_html_(self) -> str:
        """Returns all settings with their sources as a table of HTML, for notebooks."""
        return self.describe()._repr_html_()  # pyright: ignore[reportPrivateUsage] # the name is that of notebooks

    def without_secrets(self) -> dict[str, Any]:
        """Returns the settings that may be sent to another process, as arguments of `Config`.

        The other process takes the API key from its own environment.
        """
        stay = {s.name for s in single_settings(Config) if s.stays_here} | _OF_THIS_PROCESS
        settings = {a.name: getattr(self, a.name) for a in fields(Config) if a.name not in stay}
        return {
            **settings,
            "default_headers": public(self.default_headers),
            "default_query": public(self.default_query),
        }

    def __attrs_post_init__(self) -> None:
        if not (self.api_key or self.credential_cmd) and self.is_hosted:
            raise MissingKeyError(
                "no API key for the hosted service",
                advice=(
                    "Set TINKER_API_KEY or pass api_key=…. To use a server of your own, which may "
                    "not need a key, set TINKER_BASE_URL or pass base_url=…; `tinkex serve` starts "
                    "one."
                ),
            )
        if (self.cf_access_client_id is None) != (self.cf_access_client_secret is None):
            raise ConfigError(
                "cf_access_client_id and cf_access_client_secret must be set together, and one of "
                "them is missing"
            )
        if self.proxy_headers and not self.proxies:
            raise ConfigError(
                "proxy_headers are set, but no proxy is",
                advice="Pass proxy=…, or set TINKEX_PROXY.",
            )
        self.proxies.of(self.base_url)  # raises for a proxy of an unsupported kind

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
    """Returns `config`, or a new `Config`, with those of the other arguments that are not None.

    Raises:
        InvalidInputError: the base URL is not a string, for example because a `Config` was passed
            in its place.
    """
    if base_url is not None and not isinstance(base_url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        meant = {Config: "config=Config(…)", dict: "user_metadata=…"}.get(
            type(base_url), "base_url='http://…'"
        )
        raise InvalidInputError(
            f"base_url must be a string, found {type(base_url).__name__}",
            advice=f"Pass the argument by name: {meant}.",
        )
    named = {"base_url": base_url, "api_key": as_secret(api_key), **(more or {})}
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    return evolve(config, **given) if config else Config(**given)


def _restore(settings: Mapping[str, Any]) -> Config:
    return Config(**settings)
