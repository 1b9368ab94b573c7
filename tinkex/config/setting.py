"""Declarations of settings: `setting` and `group` are the defaults of the fields of `Config`.

A declaration holds all that is known of a setting: its variable, its parser, its default, and
whether it is secret. The lookup in `Sources`, `Config.describe` and the table in docs/settings.md
use nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import Attribute, Factory, define, field, fields

from tinkex.config import parsers


@define(eq=False)
class Setting:
    """A setting that the environment or a profile may contain.

    Called with a `Config`, it returns the value for it from the sources, or the default.
    """

    parse: Callable[[object], Any]
    """Converts the text of a variable or a value of a profile; see `tinkex.config.parsers`."""
    default: Any
    """The value if no source has one, or a function that returns it."""
    variable: str = ""
    """The environment variable; by default TINKEX_ and the name: TINKEX_RETRY_MAX_WAIT."""
    look_up: Callable[[Any], Any] | None = None
    """Returns the value for a `Config`, if it is not simply that of the first source that has one.
    """
    hide: Callable[[Any], str] | None = None
    """Shows the value without what is secret in it; None if nothing is."""
    stays_here: bool = False
    """Whether the setting is not sent to another process, which has its own."""
    name: str = field(default="", init=False)
    """The name of the field, after the name of its group if it is in one: `retry.max_wait`."""

    def __call__(self, config: Any) -> Any:
        return self.look_up(config) if self.look_up else config.sources.value(self)

    def give_name(self, name: str) -> None:
        self.name = name
        self.variable = self.variable or f"TINKEX_{name.upper().replace('.', '_')}"


@define(eq=False)
class Group:
    """A setting that is a class of numbers, each of which the sources may contain."""

    kind: type[Any]
    name: str = field(default="", init=False)
    settings: tuple[Setting, ...] = field(default=(), init=False)

    def __call__(self, config: Any) -> Any:
        return config.sources.group(self)

    def give_name(self, name: str) -> None:
        self.name = name
        items = [item for item in fields(self.kind) if item.type in _PARSERS]
        self.settings = tuple(Setting(_PARSERS[item.type], item.default) for item in items)
        for item, declared in zip(items, self.settings, strict=True):
            declared.give_name(f"{name}.{item.name}")


_PARSERS: Mapping[Any, Callable[[object], Any]] = {
    "int": parsers.whole_number,
    "int | None": parsers.whole_number,
    "float": parsers.number,
    "float | None": parsers.number,
}
"""The parser of a setting in a group, by its type."""


def setting(
    parse: Callable[[object], Any] = parsers.text,
    default: Any = None,
    *,
    variable: str = "",
    look_up: Callable[[Any], Any] | None = None,
    hide: Callable[[Any], str] | None = None,
    stays_here: bool = False,
) -> Any:
    """Returns the default of a field that is a `Setting`, whose attributes the arguments are."""
    return Factory(Setting(parse, default, variable, look_up, hide, stays_here), takes_self=True)


def group(kind: type[Any]) -> Any:
    """Returns the default of a field that is a `Group` of the settings of a class."""
    return Factory(Group(kind), takes_self=True)


def with_names(kind: type, attributes: list[Attribute[Any]]) -> list[Attribute[Any]]:
    """Gives each declared setting the name of its field. A `field_transformer` of attrs."""
    for attribute in attributes:
        if declared := _declared_by(attribute):
            declared.give_name(attribute.name)
    return attributes


def declared_in(kind: type[Any]) -> dict[str, Setting | Group]:
    """Returns the settings and groups that the fields of a class declare, by name."""
    found = {item.name: _declared_by(item) for item in fields(kind)}
    return {name: declared for name, declared in found.items() if declared is not None}


def single_settings(kind: type[Any]) -> list[Setting]:
    """Returns the settings that a class declares, those in groups included."""
    return [
        item
        for declared in declared_in(kind).values()
        for item in (declared.settings if isinstance(declared, Group) else [declared])
    ]


def _declared_by(attribute: Attribute[Any]) -> Setting | Group | None:
    declared = getattr(attribute.default, "factory", None)
    return declared if isinstance(declared, (Setting, Group)) else None
