"""Suggestions for misspelt ids of training runs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING

from tinkex.cli.suggestions import suggesting

if TYPE_CHECKING:
    from tinkex import RestClient

_SEARCHED = 200  # runs among which a misspelt id is looked for


def suggesting_runs(rest: RestClient, run_id: str) -> AbstractContextManager[None]:
    """Turns a `NotFoundError` into a failure that names a training run like the given one."""
    return suggesting(
        "training run",
        run_id,
        lambda: (run.training_run_id for run in islice(rest.iter_training_runs(), _SEARCHED)),
        "tinkex run list",
    )
