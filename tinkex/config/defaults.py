"""How `Config` comes to the settings that it is not given. Its arguments go before all of this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from attrs import Converter, Factory, evolve

from tinkex.config import parsers, sources
from tinkex.config.http_limits import HttpLimits
from tinkex.config.poll_and_retry import PollSettings, RetrySettings
from tinkex.config.recovery import RecoveryPolicy
from tinkex.dialects.dialect import Dialect
from tinkex.errors import ConfigError

S = TypeVar("S", RetrySettings, PollSettings)

HOSTED_BASE_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"

GROUPS: Mapping[str, tuple[Callable[..., Any], Mapping[str, Callable[[object], Any]]]] = {
    "retry": (RetrySettings, sources.readers_of(RetrySettings)),
    "poll": (PollSettings, sources.readers_of(PollSettings)),
    "http_limits": (HttpLimits, sources.readers_of(HttpLimits)),
    "recovery": (RecoveryPolicy, sources.readers_of(RecoveryPolicy)),
}
"""Settings that belong together: their class, and how each that a variable or a file may hold is
read.
"""


def found(name: str, read: Callable[[object], Any] = parsers.text, default: Any = None) -> Any:
    """What the sources have of a setting, else the default; a callable makes one."""

    def look_up(config: Any) -> Any:
        return config.sources.value(name, read, default() if callable(default) else default)

    return Factory(look_up, takes_self=True)


def group(name: str) -> Any:
    """What the sources have of settings that belong together."""

    def look_up(config: Any) -> Any:
        return config.sources.group(name, *GROUPS[name])

    return Factory(look_up, takes_self=True)


def _base_url(given: str | None, config: Any) -> str:
    return given.rstrip("/") if given else config.sources.value("base_url", _url, HOSTED_BASE_URL)


def _url(value: object) -> str:
    return parsers.text(value).rstrip("/")


def _api_key(config: Any) -> str | None:
    """The key of the first source that has one or a command for one; a key before a command of the
    same source.
    """
    command = config.sources.find("credential_cmd", parsers.text)
    if config.credential_cmd is not None and (
        command is None or command.value != config.credential_cmd
    ):
        return None  # the command was given as an argument
    key = config.sources.find("api_key", parsers.text)
    if key is None or (command is not None and command.rank < key.rank):
        key = sources.stored_key() if command is None else None
    if key is None:
        return None
    config.sources.found["api_key"] = key
    return key.value


def _retry(given: RetrySettings, config: Any) -> RetrySettings:
    retries = config.max_retries
    if isinstance(retries, int) and retries >= 0:  # others its validator refuses
        origin = config.sources.origin("max_retries", retries)
        given = evolve(
            given, max_attempts=config.sources.note("retry.max_attempts", retries + 1, origin)
        )
    return _with_progress_timeout("retry", given, config)


def _poll(given: PollSettings, config: Any) -> PollSettings:
    return _with_progress_timeout("poll", given, config)


def _with_progress_timeout(group: str, settings: S, config: Any) -> S:
    seconds = config.progress_timeout
    if not (isinstance(seconds, (int, float)) and seconds > 0):  # others its validator refuses
        return settings
    origin = config.sources.origin("progress_timeout", seconds)
    return evolve(settings, max_wait=config.sources.note(f"{group}.max_wait", seconds, origin))


def named_dialect(given: str | Dialect | None) -> Dialect | None:
    """Raises `ConfigError` for a name that is not known."""
    if given is None or isinstance(given, Dialect):
        return given
    try:
        return parsers.dialect(given)
    except ValueError as error:
        raise ConfigError(
            f"dialect {given!r} is not known, only {error}", advice="A Dialect is taken, too."
        ) from None


base_url = Converter(_base_url, takes_self=True)
api_key = Factory(_api_key, takes_self=True)
retry = Converter(_retry, takes_self=True)
poll = Converter(_poll, takes_self=True)
