"""Defaults and converters of settings that depend on other settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from attrs import Converter, evolve

from tinkex.config import parsers, sources
from tinkex.config.poll_and_retry import PollSettings, RetrySettings
from tinkex.config.setting import declared_in
from tinkex.dialects.dialect import Dialect
from tinkex.errors import ConfigError

S = TypeVar("S", RetrySettings, PollSettings)
Given = TypeVar("Given")
Kept = TypeVar("Kept")

HOSTED_BASE_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"


def takes_config(convert: Callable[[Given, Any], Kept]) -> Callable[[Given], Kept]:
    """Returns a converter that also receives the `Config`, with the settings before its own.

    The cast is for type checkers: they infer the constructor's parameter from a plain function, but
    not from attrs' `Converter`.
    """
    return cast("Callable[[Given], Kept]", Converter(convert, takes_self=True))


@takes_config
def given_or_found_url(given: str | None, config: Any) -> str:
    """Returns the given base URL, else that of the sources, else that of the hosted service."""
    return given.rstrip("/") if given else _setting(config, "base_url")(config)


def found_api_key(config: Any) -> str | None:
    """Returns the key of the first source with a key or a command.

    A source with both gives its key.
    """
    command = config.sources.find(_setting(config, "credential_cmd"))
    if config.credential_cmd is not None and (
        command is None or command.value != config.credential_cmd
    ):
        return None  # the command was given as an argument
    key = config.sources.find(_setting(config, "api_key"))
    if key is None or (command is not None and command.rank < key.rank):
        key = sources.stored_key() if command is None else None
    if key is None:
        return None
    config.sources.found["api_key"] = key
    return key.value


def _setting(config: Any, name: str) -> Any:
    return declared_in(config.__class__)[name]


@takes_config
def with_retry_limits(given: RetrySettings, config: Any) -> RetrySettings:
    """Returns the settings with the limits of `max_retries` and `progress_timeout`, if any."""
    retries = config.max_retries
    if isinstance(retries, int) and retries >= 0:  # its validator refuses other values
        origin = config.sources.origin("max_retries", retries)
        given = evolve(
            given, max_attempts=config.sources.note("retry.max_attempts", retries + 1, origin)
        )
    return _with_progress_timeout("retry", given, config)


@takes_config
def with_poll_limits(given: PollSettings, config: Any) -> PollSettings:
    """Returns the settings with the limit of `progress_timeout`, if any."""
    return _with_progress_timeout("poll", given, config)


def _with_progress_timeout(group: str, settings: S, config: Any) -> S:
    seconds = config.progress_timeout
    if not (
        isinstance(seconds, (int, float)) and seconds > 0
    ):  # its validator refuses other values
        return settings
    origin = config.sources.origin("progress_timeout", seconds)
    return evolve(settings, max_wait=config.sources.note(f"{group}.max_wait", seconds, origin))


def named_dialect(given: str | Dialect | None) -> Dialect | None:
    """Returns the dialect of a name, and a `Dialect` as it is.

    Raises `ConfigError` for an unknown name.
    """
    if given is None or isinstance(given, Dialect):
        return given
    try:
        return parsers.dialect(given)
    except ValueError as error:
        raise ConfigError(
            f"dialect must be {error}, not {given!r}", advice="Or pass a Dialect."
        ) from None
