"""Checks of the API key that a program can make before it starts its work."""

from __future__ import annotations

from tinkex_api.api.server import get_server_capabilities

from tinkex.config import Config
from tinkex.errors import ConfigError
from tinkex.portal import portal
from tinkex.transport.transport import Transport


def get_tinker_token() -> str | None:
    """Returns the API key that a client would send, or None.

    It does not run `credential_cmd`, so it returns None if the key comes from there.
    """
    key = _config().api_key
    return key if isinstance(key, str) else None


def tinker_has_credentials() -> bool:
    """Returns whether an API key, or a command for one, is configured. Runs no command."""
    config = _config()
    return bool(config.api_key or config.credential_cmd)


def raise_if_tinker_not_accessible() -> None:
    """Sends one request to the server, with the settings of the environment.

    Raises:
        ConfigError: a setting is missing or wrong.
        AuthenticationError, PermissionDeniedError: the server rejects the key.
        APIConnectionError: the server cannot be reached.
    """
    portal.shared().run(_ask)


async def _ask() -> None:
    transport = Transport(Config())
    try:
        await transport.send(get_server_capabilities.request(), max_attempts=1)
    finally:
        await transport.aclose()


def _config() -> Config:
    """Returns the settings of the environment.

    If there is no API key, the settings are for a server that requires none.
    """
    try:
        return Config()
    except ConfigError:
        return Config(base_url="http://localhost")
