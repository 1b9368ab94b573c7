"""Validators of settings that are not numbers.

Each raises a `ConfigError` that names the setting, or the variable that it came from, and the
allowed values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from tinkex.config.secrets import without_password
from tinkex.dialects.feature_gates import check_gates
from tinkex.errors import ConfigError
from tinkex.errors.validators import name_of

LOG_LEVELS = ("debug", "info", "warning", "error")
LOCAL = "local"
"""The base URL of an embedded server in this process, which the first call starts."""


def base_url(_config: object, attribute: Any, url: str) -> None:
    if url == LOCAL:
        return
    if not _is_http(url):
        raise ConfigError(
            f"{attribute.name} {without_password(url)!r} is not an http(s) URL",
            advice=(
                "Set TINKER_BASE_URL or pass base_url=… in the form http://host:port; `tinkex "
                "serve` prints the URL to use. 'local' starts a server in this process."
            ),
        )
    if "@" in urlsplit(url).netloc:
        raise ConfigError(
            f"{attribute.name} {without_password(url)!r} contains a password, which would appear "
            "in logs",
            advice="Pass default_headers={'Authorization': 'Basic …'} instead.",
        )


def proxy(config: object, attribute: Any, url: str | None) -> None:
    if url is not None and not _is_http(url):
        name = name_of(config, attribute.name)
        raise ConfigError(
            f"{name} {without_password(url)!r} is not an http(s) URL",
            advice="Only HTTP proxies are supported.",
        )


def log_level(config: object, attribute: Any, level: object) -> None:
    if level is not None and level not in LOG_LEVELS:
        raise ConfigError(
            f"{name_of(config, attribute.name)} is {level!r}, not one of {', '.join(LOG_LEVELS)}"
        )


def feature_gates(config: object, attribute: Any, gates: Iterable[str]) -> None:
    try:
        check_gates(gates)
    except ValueError as error:
        raise ConfigError(f"{name_of(config, attribute.name)}: {error}") from None


def pairs(config: object, attribute: Any, given: Mapping[str, str]) -> None:
    for name, value in cast("Mapping[object, object]", given).items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise ConfigError(
                f"{name_of(config, attribute.name)} must map strings to strings; the entry "
                f"{name!r} does not"
            )


def header_value(config: object, attribute: Any, value: object) -> None:
    """Checks the value of a header without showing it, because it may be secret."""
    if isinstance(value, str) and not (value.isascii() and value.isprintable()):
        raise ConfigError(
            f"{name_of(config, attribute.name)} contains characters that are not "
            "allowed in a header",
            advice="Check that it was copied correctly.",
        )


def _is_http(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.netloc)
