"""`PathForms`: translates checkpoint paths from the form of another server, and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from attrs import frozen

from tinkex_server import checkpoint_path
from tinkex_server.checkpoint_path import SAMPLER_WEIGHTS, WEIGHTS, CheckpointPath
from tinkex_server.errors import Refused, bad_request

_KEYS = ("path", "tinker_path", "model_path", "checkpoint_path")


@frozen(kw_only=True)
class PathForms:
    """The forms of a server's paths: formats with `{data_dir}`, `{run_id}` and `{name}`."""

    weights: str = f"tinker://{{run_id}}/{WEIGHTS}/{{name}}"
    sampler: str = f"tinker://{{run_id}}/{SAMPLER_WEIGHTS}/{{name}}"

    def outward(self, body: dict[str, Any], data_dir: Path) -> dict[str, Any]:
        """Returns an answer with all its paths in these forms."""
        return _walk(body, partial(self._write, data_dir=data_dir))

    def inward(self, body: dict[str, Any], data_dir: Path) -> dict[str, Any]:
        """Returns a request's fields with the paths in the embedded server's form. Raises `Refused`
        for paths of another form.
        """
        paths_of = {
            key: self._read(value, data_dir)
            for key in _KEYS
            if isinstance(value := body.get(key), str)
        }
        return {**body, **paths_of}

    def _write(self, text: str, *, data_dir: Path) -> str:
        try:
            path = checkpoint_path.parse(text)
        except Refused:  # a name, or another server's path
            return text
        form = self.weights if path.kind == WEIGHTS else self.sampler
        return form.format(data_dir=data_dir, run_id=path.run_id, name=path.name)

    def _read(self, text: str, data_dir: Path) -> str:
        for kind, form in ((WEIGHTS, self.weights), (SAMPLER_WEIGHTS, self.sampler)):
            if match := _pattern(form, data_dir).fullmatch(text):
                return str(CheckpointPath(match["run_id"], kind, match["name"]))
        raise bad_request(f"{text!r} is not a path of this server")


def _walk(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {
            key: change(entry) if key in _KEYS and isinstance(entry, str) else _walk(entry, change)
            for key, entry in items
        }
    if isinstance(value, list):
        entries = cast("list[Any]", value)
        return (
            [_walk(entry, change) for entry in entries]
            if entries and isinstance(entries[0], dict)
            else entries
        )
    return value


@cache
def _pattern(form: str, data_dir: Path) -> re.Pattern[str]:
    marked = form.format(data_dir=data_dir, run_id="\0run", name="\0name")
    return re.compile(
        re.escape(marked).replace("\0run", "(?P<run_id>[^/]+)").replace("\0name", "(?P<name>[^/]+)")
    )
