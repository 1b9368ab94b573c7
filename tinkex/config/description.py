"""The table of `Config.describe`: each setting with its value and its source, secrets hidden."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attrs import fields, frozen
from tinkex_api.types import html_table

from tinkex.config.setting import Group, Setting, declared_in
from tinkex.config.sources import Sources
from tinkex.dialects.dialect import Dialect

if TYPE_CHECKING:
    from tinkex.config.settings import Config


@frozen
class Described:
    """A setting with its value, as it is shown, and its source."""

    name: str
    value: str
    source: str
    """An environment variable, a profile, a file, "argument" or "default"."""


@frozen
class Description:
    """The settings of a `Config`, in the order of its fields. `str()` is a table."""

    settings: tuple[Described, ...]

    def __iter__(self) -> Iterator[Described]:
        return iter(self.settings)

    def _repr_html_(self) -> str:
        """Returns the settings as a table of HTML, for notebooks."""
        rows = ((setting.name, setting.value, setting.source) for setting in self)
        return html_table(("setting", "value", "source"), rows)

    def __str__(self) -> str:
        names, values = (
            max(len(text) for text in column)
            for column in zip(*((s.name, s.value) for s in self), strict=True)
        )
        return "\n".join(f"{s.name:{names}}  {s.value:{values}}  {s.source}".rstrip() for s in self)


def describe(config: Config) -> Description:
    return Description(tuple(_settings(config, config.sources)))


def _settings(config: Config, sources: Sources) -> Iterator[Described]:
    declared = declared_in(type(config))
    for name in (a.name for a in fields(type(config)) if a.name != "sources"):
        value, declaration = getattr(config, name), declared.get(name)
        if isinstance(declaration, Group):
            for item in (a.name for a in fields(declaration.kind)):
                inner, full = getattr(value, item), f"{name}.{item}"
                yield Described(full, _shown(inner), _source(sources, full, inner))
            continue
        source = _source(sources, name, value)
        if name == "proxy" and value is None and (proxy := config.proxies.of(config.base_url)):
            value, source = proxy.url, proxy.setting
        yield Described(name, _shown(value, declaration), source)


def _source(sources: Sources, name: str, value: object) -> str:
    return "default" if value is None and name not in sources.found else sources.origin(name, value)


def _shown(value: Any, setting: Setting | None = None) -> str:
    if value is None:
        return "-"
    if setting is not None and setting.hide:
        return setting.hide(value)
    if isinstance(value, Dialect):
        return value.name
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else str(value)
