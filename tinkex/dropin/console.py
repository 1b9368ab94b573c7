"""The addresses of web pages about sessions and models, where a server has such pages."""

from __future__ import annotations

from urllib.parse import quote

from tinkex.config.defaults import HOSTED_BASE_URL

_CONSOLE = "https://tinker.thinkingmachines.ai"


def sessions(base_url: str) -> str:
    """Returns the address of the list of sessions."""
    return _page(base_url, "sessions")


def session(base_url: str, session_id: str) -> str:
    """Returns the address of the page of a session."""
    return _page(base_url, f"sessions/{quote(session_id, safe='')}")


def training_run(base_url: str, model_id: str) -> str:
    """Returns the address of the page of a model."""
    return _page(base_url, f"training_runs/{quote(model_id, safe='')}")


def _page(base_url: str, path: str) -> str:
    """Returns the address of a page of the hosted service's console.

    Other servers have no such pages. For them the text says so, since programs print it.
    """
    if base_url == HOSTED_BASE_URL:
        return f"{_CONSOLE}/{path}"
    return f"(no console: {base_url} is not the hosted service; `tinkex serve` has a status page)"
