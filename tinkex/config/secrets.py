"""The masking of secrets in settings, URLs and texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from tinkex.secret import HIDDEN, Secret, as_secret, is_secret

__all__ = [
    "HIDDEN",
    "Secret",
    "as_secret",
    "is_secret",
    "masked",
    "public",
    "without_password",
    "without_queries",
]


_QUERY = re.compile(r"""((?:https?:)?//[^\s?'"<>]+)\?[^\s'"<>]*""")
_LEAST = 8
"""The least length of a query value that is masked also outside its URL."""


def without_queries(text: str, url: str = "") -> str:
    """Returns a text without the queries of its URLs, which may be credentials.

    The query values of `url` are masked wherever they occur in the text.
    """
    text = _QUERY.sub(r"\1?…", text)
    for _, value in parse_qsl(urlsplit(url).query):
        for form in (value, quote(value, safe=""), quote(value)):
            text = text.replace(form, HIDDEN) if len(form) >= _LEAST else text
    return text


def masked(pairs: Mapping[str, str]) -> dict[str, str]:
    """Returns headers or query parameters with the secret ones masked."""
    return {name: HIDDEN if is_secret(name) else value for name, value in pairs.items()}


def hidden(value: object) -> str:
    return HIDDEN


def masked_text(pairs: Mapping[str, str]) -> str:
    """Returns headers or query parameters as text, with the secret ones masked."""
    return str(masked(pairs))


def names_of(pairs: Mapping[str, str]) -> str:
    """Returns headers as text, with all values masked."""
    return str(dict.fromkeys(pairs, HIDDEN))


def public(pairs: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers or query parameters that are not secret."""
    return {name: value for name, value in pairs.items() if not is_secret(name)}


def without_password(url: str | None) -> str | None:
    """Returns a URL with user and password masked."""
    if url is None:
        return None
    parts = urlsplit(url)
    _, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{HIDDEN}@{host}")) if at else str(url)


def shown_url(url: str | None) -> str:
    """Returns a URL as text, with user and password masked."""
    return str(without_password(url))
