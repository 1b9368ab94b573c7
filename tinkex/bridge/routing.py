"""Decides by the name of a model which server the bridge uses for it."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from attrs import field, frozen

from tinkex.dialects.dialect import Dialect
from tinkex.errors import ConfigError


@frozen
class Target:
    """A server behind the bridge."""

    url: str = field(converter=lambda url: url.rstrip("/"))
    dialect: str | Dialect | None = None
    """Its dialect; None if it is to be detected."""

    def __attrs_post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(
                f"{self.url!r} is not the URL of a server",
                advice="Give one like http://127.0.0.1:8000.",
            )


@frozen
class Route:
    """The server for the models whose names match a pattern of the shell, such as `Qwen/*`."""

    pattern: str
    target: Target

    @classmethod
    def parse(cls, text: str) -> Route:
        """Reads `PATTERN=URL`. Raises `ConfigError`."""
        pattern, _, url = text.partition("=")
        if not (pattern and url):
            raise ConfigError(
                f"{text!r} is not a route", advice="Give one like 'Qwen/*=http://127.0.0.1:8000'."
            )
        return cls(pattern, Target(url))


@frozen
class Routing:
    """The servers behind the bridge: the first route that matches a name, else the default."""

    default: Target
    routes: Sequence[Route] = ()

    def target_for(self, base_model: str) -> Target:
        """Returns the server of a base model."""
        for route in self.routes:
            if fnmatchcase(base_model, route.pattern):
                return route.target
        return self.default

    def target_at(self, url: str) -> Target | None:
        """Returns the server at a URL, or None if the bridge has no such server."""
        return next((target for target in self.targets if target.url == url), None)

    @property
    def targets(self) -> Sequence[Target]:
        """All servers, each once, the default first."""
        return list(dict.fromkeys((self.default, *(route.target for route in self.routes))))
