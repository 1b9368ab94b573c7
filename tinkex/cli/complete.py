"""Completion of the ids of runs, checkpoints, sessions and models in a shell.

The server is asked for at most a second, and its answer is used for a minute. Nothing is completed
where it does not answer; an error would disturb the line that is being typed.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tinkex import RestClient

_BOUND = 1.0  # seconds for the server
_LIFE = 60.0  # seconds for which an answer is used
_MOST = 100  # names

Completion = Callable[[click.Context, click.Parameter, str], list[str]]


def _completion(kind: str, names: Callable[[RestClient], Iterable[str]]) -> Completion:
    """Returns a completion for an argument, from the names that a client finds."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        url = ctx.params.get("base_url") or os.environ.get("TINKER_BASE_URL", "")
        known = _kept(kind, url, lambda: _asked(url or None, names))
        return [name for name in known if name.startswith(incomplete)]

    return complete


def _asked(url: str | None, names: Callable[[RestClient], Iterable[str]]) -> list[str] | None:
    """Returns the names, or None where the server does not tell them in time."""
    from tinkex import RestClient
    from tinkex.config import configured
    from tinkex.errors import TinkexError

    try:
        rest = RestClient(configured(None, url, None, {"timeout": _BOUND, "max_retries": 0}))
    except TinkexError:
        return None  # A setting is wrong, or there is no key.
    found: list[str] = []
    is_done = threading.Event()

    def ask() -> None:
        try:
            found.extend(islice(names(rest), _MOST))
            is_done.set()
        except TinkexError:
            return  # Nothing is completed.

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_BOUND)
    return list(found) if is_done.is_set() else None


def _kept(kind: str, url: str, ask: Callable[[], list[str] | None]) -> list[str]:
    """Returns the names of a minute ago, or else asks for them and keeps them."""
    whose = f"{url} {os.environ.get('TINKER_API_KEY', '')}"  # each key has its own things
    file = _folder() / f"{kind}-{hashlib.sha256(whose.encode()).hexdigest()[:16]}.json"
    try:
        if time.time() - file.stat().st_mtime < _LIFE:
            return list(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError):
        pass  # There is none, or it is damaged.
    names = ask()
    if names is None:
        return []
    from tinkex.cli.fetch import whole_file

    try:
        with whole_file(file) as target:
            target.write(json.dumps(names).encode())
    except OSError:
        return names  # A folder that cannot be written makes completion slower, and no more.
    return names


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".cache") / "tinkex" / "completion"


runs = _completion("runs", lambda rest: (run.training_run_id for run in rest.iter_training_runs()))
paths = _completion("paths", lambda rest: (one.tinker_path for one in rest.iter_user_checkpoints()))
sessions = _completion("sessions", lambda rest: rest.iter_sessions())
models = _completion(
    "models",
    lambda rest: (
        model.model_name
        for model in rest.get_server_capabilities().supported_models
        if model.model_name
    ),
)
