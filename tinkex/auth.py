"""Whether there is a key, and whether it opens the server: for programs that look before they
begin.
"""

from __future__ import annotations

from tinkex_api.api.server import get_server_capabilities

from tinkex.config import Config
from tinkex.errors import ConfigError
from tinkex.portal import portal
from tinkex.transport.transport import Transport


def get_tinker_token() -> str | None:
    """The key that a client would send, as far as it is written down somewhere: no command is run
    for it.
    """
    key = _config().api_key
    return key if isinstance(key, str) else None


def tinker_has_credentials() -> bool:
    """Whether there is a key, or a command for one, which is not run."""
    config = _config()
    return bool(config.api_key or config.credential_cmd)


def raise_if_tinker_not_accessible() -> None:
    """Asks the server once what it has, by the settings of the environment.

    Raises:
        ConfigError: a setting is missing or wrong.
        AuthenticationError, PermissionDeniedError: the server does not take the key.
        APIConnectionError: it cannot be reached.
    """
    portal.shared().run(_ask)


async def _ask() -> None:
    transport = Transport(Config())
    try:
        await transport.send(get_server_capabilities.request(), max_attempts=1)
    finally:
        await transport.aclose()


def _config() -> Config:
    """The settings of the environment; those for a server that wants no key where there is none."""
    try:
        return Config()
    except ConfigError:
        return Config(base_url="http://localhost")
