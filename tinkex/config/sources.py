"""`Sources`: where settings that are not given come from, read once: the environment, a profile,
the stored keys.

TINKER_*, CLOUDFLARE_*    variables that other Tinker clients know, too
TINKEX_*                  the others: TINKEX_TIMEOUT, TINKEX_RETRY_MAX_ATTEMPTS, …
a profile                 a table [profiles.NAME] of ~/.config/tinkex/config.toml, with the names of
`Config` the stored keys           ~/.tinker/credentials.json, for the key alone
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field, fields, frozen

from tinkex import credentials
from tinkex.config import parsers
from tinkex.config.secrets import Secret, is_secret
from tinkex.errors import ConfigError

logger = logging.getLogger("tinkex")
T = TypeVar("T")

_SHARED_VARIABLES = {
    "base_url": "TINKER_BASE_URL",
    "api_key": "TINKER_API_KEY",
    "credential_cmd": "TINKER_CREDENTIAL_CMD",
    "project_id": "TINKER_PROJECT_ID",
    "tags": "TINKER_TAGS",
    "telemetry": "TINKER_TELEMETRY",
    "log_level": "TINKER_LOG",
    "feature_gates": "TINKER_FEATURE_GATES",
    "cf_access_client_id": "CLOUDFLARE_ACCESS_CLIENT_ID",
    "cf_access_client_secret": "CLOUDFLARE_ACCESS_CLIENT_SECRET",
}
_OTHER_VARIABLES = frozenset({"TINKEX_PROFILE", "TINKEX_SERVER_API_KEYS"})
"""Variables of this project that are no settings of a client."""
_MAY_HOLD_PASSWORD = re.compile("proxy|header|query|_cmd|client_id", re.IGNORECASE)
SECRET = frozenset(
    {
        "api_key",
        "credential_cmd",
        "cf_access_client_secret",
        "proxy",
        "proxy_headers",
        "default_headers",
        "default_query",
    }
)
"""Settings whose wrong values are not shown."""


def variable(name: str) -> str:
    """The variable of the environment for a setting: `retry.max_wait` is TINKEX_RETRY_MAX_WAIT."""
    return _SHARED_VARIABLES.get(name) or f"TINKEX_{name.upper().replace('.', '_')}"


@frozen
class Found:
    """A value and where it was found; `name` is what its user knows the setting by."""

    value: Any
    origin: str
    name: str
    rank: int
    """Lower ones go first."""


@define(eq=False)
class Sources:
    """The environment and a profile. Remembers what was taken from where, for `Config.describe`."""

    environment: Mapping[str, str] = field(factory=dict[str, str], repr=False)
    """Only the variables that are set to something: an empty one counts as unset."""
    profile: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    profile_name: str = ""
    found: dict[str, Found] = field(init=False, factory=dict[str, Found], repr=False)

    @classmethod
    def read(cls, profile: str | None) -> Sources:
        """Those of this process.

        Args:
            profile: its name; by default TINKEX_PROFILE, else the one that the file names as its
                `profile`, if any.
        """
        environment = {
            name: _kept(name, value.strip()) for name, value in os.environ.items() if value.strip()
        }
        wanted = profile or environment.get("TINKEX_PROFILE")
        path = _config_file(environment)
        file: Mapping[str, Any] = _read_file(path) if path and path.exists() else {}
        name = wanted or file.get("profile")
        if name is None:
            return cls(environment)
        profiles = file.get("profiles", {})
        if name not in profiles:
            known = f"it has {', '.join(profiles)}" if profiles else "it has none"
            raise ConfigError(
                f"there is no profile {name!r} in {path}: {known}",
                advice=f"Write a table [profiles.{name}] there.",
            )
        return cls(environment, profiles[name], f"profile {name} of {path}")

    def find(self, name: str, read: Callable[[object], T]) -> Found | None:
        """The first that there is, remembered. Raises `ConfigError` for one that `read` does not
        take.
        """
        text, value = self.environment.get(variable(name)), self._in_profile(name)
        if text is not None:
            self.found[name] = _taken(name, text, variable(name), variable(name), 0, read)
        elif value is not None:
            self.found[name] = _taken(
                name, value, self.profile_name, f"{name} in {self.profile_name}", 1, read
            )
        else:
            return None
        return self.found[name]

    def value(self, name: str, read: Callable[[object], Any], default: Any = None) -> Any:
        """The first that there is, else the default."""
        found = self.find(name, read)
        return self.note(name, default, "default") if found is None else found.value

    def note(self, name: str, value: Any, origin: str) -> Any:
        """Remembers a value that comes from elsewhere, and returns it."""
        self.found[name] = Found(value, origin, name, 2)
        return value

    def group(
        self,
        name: str,
        kind: Callable[..., T],
        readers_by_field: Mapping[str, Callable[[object], Any]],
    ) -> T:
        """Settings that belong together, each with a variable and an entry in the profile's table
        of this name.
        """
        given = {item: self.find(f"{name}.{item}", read) for item, read in readers_by_field.items()}
        taken = {item: found for item, found in given.items() if found is not None}
        try:
            made = kind(**{item: found.value for item, found in taken.items()})
        except ConfigError as error:
            raise ConfigError(
                f"{', '.join(found.name for found in taken.values())}: {error.message}"
            ) from error
        for item in {a.name for a in fields(type(made))} - taken.keys():  # pyright: ignore[reportArgumentType]
            self.note(f"{name}.{item}", getattr(made, item), "default")
        return made

    def origin(self, name: str, value: object) -> str:
        """Where the value of a setting comes from."""
        found = self.found.get(name)
        return found.origin if found is not None and found.value == value else "argument"

    def check_names(self, known: frozenset[str]) -> None:
        """Raises `ConfigError` for an entry of the profile that is no setting."""
        entries = {
            f"{name}.{inner}" if isinstance(value, Mapping) and name not in known else name
            for name, value in self.profile.items()
            for inner in (value if isinstance(value, Mapping) else [""])  # pyright: ignore[reportUnknownVariableType]
        }
        if unknown := sorted(entries - known):
            raise ConfigError(
                f"{', '.join(unknown)} in {self.profile_name}: no such setting",
                advice=f"There are {', '.join(sorted(known))}.",
            )

    def warn_of_misspelt(self, known: frozenset[str]) -> None:
        """Logs each variable that is set and looks like one of ours, but is none: it has no
        effect.
        """
        ours = {*map(variable, known), *_SHARED_VARIABLES.values(), *_OTHER_VARIABLES}
        for name in sorted(self.environment.keys() - ours):
            if name.startswith("TINK") and (near := _nearest(name, ours)):
                logger.warning("%s is set and has no effect: did you mean %s?", name, near)

    def _in_profile(self, name: str) -> Any:
        group, _, item = name.rpartition(".")
        table: Any = self.profile.get(group, {}) if group else self.profile
        return table.get(item) if isinstance(table, Mapping) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _nearest(name: str, known: Collection[str]) -> str | None:
    """Returns the known name that a slip of the pen makes of `name`, if there is one."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.9)), None)


def readers_of(kind: type, **others: Callable[[object], Any]) -> dict[str, Callable[[object], Any]]:
    """How the numbers of a class of settings are read, by their types; `others` are no numbers."""
    by_type = {
        "int": parsers.whole_number,
        "int | None": parsers.whole_number,
        "float": parsers.number,
        "float | None": parsers.number,
    }
    return {
        item.name: by_type[str(item.type)] for item in fields(kind) if str(item.type) in by_type
    } | others


def _taken(
    name: str, value: object, origin: str, known_as: str, rank: int, read: Callable[[object], Any]
) -> Found:
    try:
        return Found(read(value), origin, known_as, rank)
    except ValueError as error:
        shown = "" if name in SECRET else f"{value!r}, "
        raise ConfigError(
            f"{known_as} is {shown}not {error}", advice="Set it right, or remove it."
        ) from None


def _config_file(environment: Mapping[str, str]) -> Path | None:
    if folder := environment.get("XDG_CONFIG_HOME"):
        return Path(folder) / "tinkex" / "config.toml"
    try:
        return Path.home() / ".config" / "tinkex" / "config.toml"
    except RuntimeError:  # a user without a home
        return None


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", advice="Repair or remove it."
        ) from error


def _kept(name: str, value: str) -> str:
    """The value of a variable, which tracebacks do not show where it may be a secret."""
    return Secret(value) if is_secret(name) or _MAY_HOLD_PASSWORD.search(name) else value


def stored_key() -> Found | None:
    """The default one of the stored keys."""
    stored = credentials.load()
    if stored.default_key is None:
        return None
    return Found(
        stored.default_key,
        f"key {stored.default} of {credentials.default_path()}",
        "the stored key",
        2,
    )
