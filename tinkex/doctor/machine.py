"""The probes of this machine: the package, the settings, and what the environment changes."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec

from tinkex._version import __version__
from tinkex.config import LOCAL, Config
from tinkex.config.description import Described
from tinkex.config.proxies import Proxies
from tinkex.config.secrets import without_password
from tinkex.config.setting import single_settings
from tinkex.doctor.finding import Finding
from tinkex.doctor.settings import Settings
from tinkex.errors import ConfigError
from tinkex.transport import certificates

_EXTRAS = {"local": ("torch", "transformers", "starlette", "uvicorn"), "plot": ("matplotlib",)}
"""The optional extras, and the modules that each needs."""
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def package(base_url: str | None) -> Finding:
    """Returns which releases run, and fails if the chosen server needs what is not installed."""
    text = (
        f"tinkex {__version__}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}; {_extras()}"
    )
    if base_url == LOCAL and (missing := absent("local")):
        return Finding(
            probe="package",
            level="fail",
            text=text,
            cause=f"base_url 'local' needs {', '.join(missing)}",
            command=f"{sys.executable} -m pip install torch 'tinkex[local]'",
        )
    return Finding(probe="package", level="ok", text=text)


def _extras() -> str:
    return ", ".join(
        f"without [{extra}]" if absent(extra) else f"with [{extra}]{_torch(extra)}"
        for extra in _EXTRAS
    )


def _torch(extra: str) -> str:
    return f" (torch {metadata.version('torch')})" if extra == "local" else ""


def absent(extra: str) -> list[str]:
    """Returns the modules of an optional extra that are not installed."""
    return [module for module in _EXTRAS[extra] if find_spec(module) is None]


def settings(settings: Settings) -> Finding:
    """Returns the settings that are not defaults, with their sources.

    It warns of environment variables that look like misspelt settings.
    """
    config = settings.config
    text = "; ".join(_shown(config))
    if slips := list(
        config.sources.misspelt({setting.variable for setting in single_settings(Config)})
    ):
        wrong, meant = slips[0]
        return Finding(
            probe="config",
            level="warn",
            text=text,
            cause="; ".join(
                f"{name} is set and has no effect: did you mean {near}?" for name, near in slips
            ),
            command=f'export {meant}="${wrong}"; unset {wrong}',
        )
    return Finding(probe="config", level="ok", text=text)


def wrong_settings(error: ConfigError) -> Finding:
    """Returns the finding for settings that cannot be read."""
    return Finding(
        probe="config",
        level="fail",
        text=error.message,
        cause=error.advice,
        command="env | grep '^TINK'; cat ~/.config/tinkex/config.toml",
    )


def _shown(config: Config) -> Iterator[str]:
    for setting in config.describe():
        if setting.name == "base_url" or _is_given(setting):
            yield f"{setting.name}={setting.value} ({setting.source})"


def _is_given(setting: Described) -> bool:
    """Returns whether a setting is not a default; keys have a line of their own."""
    return setting.source != "default" and setting.name not in ("api_key", "credential_cmd")


def proxy(config: Config) -> Finding:
    """Returns what of the environment changes the connection: proxies and certificates."""
    environment = config.sources.environment
    named = certificates.read_variables(environment)
    try:
        certificates.tls_context(named)
    except ConfigError as error:
        return Finding(
            probe="proxy",
            level="fail",
            text=error.message,
            cause=error.advice,
            command=f"unset {' '.join(name for name, _ in named)}",
        )
    through = config.proxies.of(config.base_url)
    trusted = f"certificates of {certificates.describe(environment)}"
    if through is not None:
        text = f"through {through}; {trusted}"
    else:
        text = f"direct connection{_why_direct(environment, config.proxies)}; {trusted}"
    return Finding(probe="proxy", level="ok", text=text)


def _why_direct(environment: Mapping[str, str], proxies: Proxies) -> str:
    """Returns which proxies there are although none is used."""
    if not proxies:
        return ""
    named = (
        f"{name}={without_password(value)}"
        for name, value in environment.items()
        if name.upper() in _PROXY_VARIABLES
    )
    return f", although {', '.join(sorted(named))}"
