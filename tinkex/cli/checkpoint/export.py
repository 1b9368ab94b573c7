"""Files of a training checkpoint on a server that gives out only exported weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tinkex.cli.connection import Connection
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure
from tinkex.cli.output import Output
from tinkex.errors import UnsupportedByServer
from tinkex.types.checkpoint_path import EXTERNAL_WEIGHTS, split_path

T = TypeVar("T")

_NAME = "download"
_LIFETIME = 3600  # seconds for which the exported weights exist, if this process is killed


def with_files(output: Output, connection: Connection, path: str, call: Callable[[str], T]) -> T:
    """Calls the function with the checkpoint, or with an export of it where the server needs one.

    An export is made in a session of its own, and is deleted afterwards.

    Raises:
        Failure: the server needs an export, and the checkpoint is not one to train from.
    """
    try:
        return call(path)
    except UnsupportedByServer as error:
        _, run, kind, _ = split_path(path)
        if kind == EXTERNAL_WEIGHTS:
            raise
        if kind != "weights":
            raise Failure(
                f"this server does not give out {kind}; use the training checkpoint that was "
                "saved beside it",
                code=ExitCode.USAGE,
                hint=f"tinkex checkpoint list --run {run} --type weights",
            ) from error
    output.status("This server gives out exported weights only. They are exported first.")
    trainer = connection.service.create_training_client_from_state(path)
    exported = trainer.save_weights_external(_NAME, ttl_seconds=_LIFETIME).result().path
    if exported is None:
        raise Failure(f"the server exported {path}, and did not say where to")
    try:
        return call(exported)
    finally:
        connection.rest.delete_checkpoint_from_tinker_path(exported)
