"""Finds checkpoints by their paths among those that the server lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING

from tinkex.cli.suggestions import suggesting
from tinkex.errors import NotFoundError, PermissionDeniedError, UnsupportedByServer
from tinkex.types.checkpoint_path import split_path

if TYPE_CHECKING:
    from tinkex import RestClient
    from tinkex.types import Checkpoint

_SEARCHED = 200  # checkpoints among which a misspelt path is looked for


def known_paths(rest: RestClient, path: str) -> Iterator[str]:
    """Yields the paths of the run that a path names, or else of the newest checkpoints of all."""
    listed = listed_in_run(rest, split_path(path)[1])
    if listed:
        yield from (checkpoint.tinker_path for checkpoint in listed)
    else:
        for checkpoint in islice(rest.iter_user_checkpoints(), _SEARCHED):
            yield checkpoint.tinker_path


def listed_in_run(rest: RestClient, run_id: str) -> list[Checkpoint] | None:
    """Returns the checkpoints of a run; None where the run is unknown or the server lists none."""
    try:
        return list(rest.list_checkpoints(run_id).checkpoints) if run_id else None
    except (NotFoundError, PermissionDeniedError, UnsupportedByServer):
        return None


def find(rest: RestClient, path: str) -> Checkpoint | None:
    """Returns a checkpoint as the server lists it, or None."""
    listed = listed_in_run(rest, split_path(path)[1]) or []
    return next((one for one in listed if one.tinker_path == path), None)


def suggesting_paths(rest: RestClient, path: str) -> AbstractContextManager[None]:
    """Turns a `NotFoundError` into a failure that names a path like the given one."""
    return suggesting(
        "checkpoint", path, lambda: known_paths(rest, path), "tinkex checkpoint list --all"
    )
