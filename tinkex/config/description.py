"""The table of `Config.describe`: each setting with its value and its source, secrets hidden."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import fields, frozen

from tinkex.config.secrets import HIDDEN, masked, without_password
from tinkex.config.sources import Sources
from tinkex.dialects.dialect import Dialect

if TYPE_CHECKING:
    from tinkex.config.settings import Config

_HIDDEN = frozenset({"api_key", "credential_cmd", "cf_access_client_id", "cf_access_client_secret"})
_PAIRS = frozenset({"default_headers", "default_query"})


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

    def __str__(self) -> str:
        names, values = (
            max(len(text) for text in column)
            for column in zip(*((s.name, s.value) for s in self), strict=True)
        )
        return "\n".join(f"{s.name:{names}}  {s.value:{values}}  {s.source}".rstrip() for s in self)


def describe(config: Config, sources: Sources, groups: Mapping[str, Any]) -> Description:
    return Description(tuple(_settings(config, sources, groups)))


def _settings(config: Config, sources: Sources, groups: Mapping[str, Any]) -> Iterator[Described]:
    for name in (a.name for a in fields(type(config)) if a.name != "sources"):
        value: Any = getattr(config, name)
        if name in groups:
            for item in fields(type(value)):  # pyright: ignore[reportUnknownArgumentType]
                inner, full = getattr(value, item.name), f"{name}.{item.name}"
                yield Described(full, _shown(item.name, inner), _source(sources, full, inner))
        elif name == "proxy" and value is None and (proxy := config.proxies.of(config.base_url)):
            yield Described(name, _shown(name, proxy.url), proxy.setting)
        else:
            yield Described(name, _shown(name, value), _source(sources, name, value))


def _source(sources: Sources, name: str, value: object) -> str:
    return "default" if value is None and name not in sources.found else sources.origin(name, value)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in _HIDDEN:
        return HIDDEN
    if name == "proxy":
        return str(without_password(value))
    if name == "proxy_headers":
        return str(dict.fromkeys(value, HIDDEN))
    if isinstance(value, Dialect):
        return value.name
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return str(masked(value)) if name in _PAIRS else str(value)
