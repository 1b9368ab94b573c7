"""`Sources`: the environment, a profile and the stored keys, from which settings that are not given
as arguments come. They are read once.

TINKER_*, CLOUDFLARE_*    variables that other Tinker clients know, too
TINKEX_*                  variables of tinkex: TINKEX_TIMEOUT, TINKEX_RETRY_MAX_ATTEMPTS, …
a profile                 a table [profiles.NAME] of ~/.config/tinkex/config.toml, whose entries
                          have the names of the fields of `Config`
the stored keys           ~/.tinker/credentials.json or the system's keyring, for the API key only
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from attrs import define, field, fields, frozen

from tinkex import credentials
from tinkex.config.secrets import Secret, is_secret
from tinkex.config.setting import Group, Setting
from tinkex.credentials import system_keyring
from tinkex.errors import ConfigError

logger = logging.getLogger("tinkex")

_OTHER_VARIABLES = frozenset({"TINKEX_PROFILE", "TINKEX_SERVER_API_KEYS"})
"""Variables of this project that are not settings of a client."""
_MAY_HOLD_PASSWORD = re.compile("proxy|header|query|_cmd|client_id", re.IGNORECASE)


@frozen
class Found:
    """A value with its source. `name` is the name by which the source calls the setting."""

    value: Any
    origin: str
    name: str
    rank: int
    """The precedence of the source; a lower rank comes first."""


@define(eq=False)
class Sources:
    """The environment and a profile. Each setting's source is recorded for `Config.describe`."""

    environment: Mapping[str, str] = field(factory=dict[str, str], repr=False)
    """The variables that are not empty: an empty variable counts as unset."""
    profile: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    profile_name: str = ""
    found: dict[str, Found] = field(init=False, factory=dict[str, Found], repr=False)

    @classmethod
    def read(cls, profile: str | None) -> Sources:
        """Reads the environment of this process and a profile.

        Args:
            profile: the name of the profile; by default TINKEX_PROFILE, else the entry `profile` of
                the file, if any.

        Raises:
            ConfigError: the profile does not exist, or the file cannot be read.
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
            known = f"it has {', '.join(profiles)}" if profiles else "it has no profiles"
            raise ConfigError(
                f"there is no profile {name!r} in {path}: {known}",
                advice=f"Add a table [profiles.{name}] to the file.",
            )
        return cls(environment, profiles[name], f"profile {name} of {path}")

    def copy(self) -> Sources:
        """Returns the same sources, with a record of their own of what was found."""
        copied = Sources(self.environment, self.profile, self.profile_name)
        copied.found.update(self.found)
        return copied

    def find(self, setting: Setting) -> Found | None:
        """Returns the value of a setting from the first source that has it, or None; records it.

        Raises `ConfigError` for a value that the setting's parser does not accept.
        """
        name, variable = setting.name, setting.variable
        text, value = self.environment.get(variable), self._in_profile(name)
        if text is not None:
            self.found[name] = _taken(setting, text, variable, variable, 0)
        elif value is not None:
            self.found[name] = _taken(
                setting, value, self.profile_name, f"{name} in {self.profile_name}", 1
            )
        else:
            return None
        return self.found[name]

    def value(self, setting: Setting) -> Any:
        """Returns the value of a setting from the first source that has it, else its default."""
        if (found := self.find(setting)) is not None:
            return found.value
        default = setting.default
        return self.note(setting.name, default() if callable(default) else default, "default")

    def note(self, name: str, value: Any, origin: str) -> Any:
        """Records a value that comes from elsewhere, and returns it."""
        self.found[name] = Found(value, origin, name, 2)
        return value

    def group(self, group: Group) -> Any:
        """Returns the value of a group, with the defaults of its class for what no source has."""
        given = {setting.name: self.find(setting) for setting in group.settings}
        taken = {name: found for name, found in given.items() if found is not None}
        try:
            made = group.kind(
                **{name.rpartition(".")[2]: found.value for name, found in taken.items()}
            )
        except ConfigError as error:
            raise ConfigError(
                f"{', '.join(found.name for found in taken.values())}: {error.message}"
            ) from error
        for item in fields(group.kind):
            if (name := f"{group.name}.{item.name}") not in taken:
                self.note(name, getattr(made, item.name), "default")
        return made

    def origin(self, name: str, value: object) -> str:
        """Returns the source of the value of a setting."""
        found = self.found.get(name)
        return found.origin if found is not None and found.value == value else "argument"

    def check_names(self, known: Set[str]) -> None:
        """Raises `ConfigError` for an entry of the profile that is not a setting."""
        entries = {
            f"{name}.{inner}" if isinstance(value, Mapping) and name not in known else name
            for name, value in self.profile.items()
            for inner in (value if isinstance(value, Mapping) else [""])  # pyright: ignore[reportUnknownVariableType]
        }
        if unknown := sorted(entries - known):
            raise ConfigError(
                f"{', '.join(unknown)} in {self.profile_name}: unknown setting",
                advice=f"Known settings are {', '.join(sorted(known))}.",
            )

    def warn_of_misspelt(self, variables: Set[str]) -> None:
        """Logs a warning for each environment variable that looks like a misspelt one of tinkex."""
        for name, near in self.misspelt(variables):
            logger.warning("%s is set and has no effect: did you mean %s?", name, near)

    def misspelt(self, variables: Set[str]) -> Iterator[tuple[str, str]]:
        """Yields each environment variable that looks like a misspelt one of tinkex, with the name
        that is probably meant.
        """
        ours = {*variables, *_OTHER_VARIABLES}
        for name in sorted(self.environment.keys() - ours):
            if name.startswith("TINK") and (near := _nearest(name, ours)):
                yield name, near

    def _in_profile(self, name: str) -> Any:
        group, _, item = name.rpartition(".")
        table: Any = self.profile.get(group, {}) if group else self.profile
        return table.get(item) if isinstance(table, Mapping) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _nearest(name: str, known: Collection[str]) -> str | None:
    """Returns the known name of which `name` is a likely misspelling, or None."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.9)), None)


def _taken(setting: Setting, value: object, origin: str, known_as: str, rank: int) -> Found:
    try:
        return Found(setting.parse(value), origin, known_as, rank)
    except ValueError as error:
        shown = "" if setting.hide else f"{value!r}, "
        raise ConfigError(
            f"{known_as} is {shown}not {error}", advice="Correct or remove it."
        ) from None


def _config_file(environment: Mapping[str, str]) -> Path | None:
    if folder := environment.get("XDG_CONFIG_HOME"):
        return Path(folder) / "tinkex" / "config.toml"
    try:
        return Path.home() / ".config" / "tinkex" / "config.toml"
    except RuntimeError:  # the user has no home directory
        return None


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", advice="Repair or remove it."
        ) from error


def _kept(name: str, value: str) -> str:
    """Returns the value of a variable, as a `Secret` if it may contain one."""
    return Secret(value) if is_secret(name) or _MAY_HOLD_PASSWORD.search(name) else value


def stored_key() -> Found | None:
    """Returns the default key of the stored keys, or None."""
    stored = credentials.load()
    if stored.in_keyring is not None:
        key_id = stored.in_keyring["id"]
        return _stored(system_keyring.read(key_id), f"key {key_id} of the system's keyring")
    if stored.default_key is None:
        return None
    return _stored(stored.default_key, f"key {stored.default} of {credentials.default_path()}")


def _stored(key: str, origin: str) -> Found:
    return Found(key, origin, "the stored key", 2)
