"""Makes a training checkpoint downloadable on a server that serves only exported weights."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from tinkex.cli.connection import Connection
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure
from tinkex.cli.output import Output
from tinkex.types.checkpoint_path import EXTERNAL_WEIGHTS, split_path

_NAME = "download"
_LIFETIME = 3600  # seconds for which the exported weights exist, if this process is killed


@contextmanager
def downloadable(output: Output, connection: Connection, path: str) -> Generator[str]:
    """Yields the path to download. On the hosted service that is a new export of the checkpoint,
    which is deleted afterwards; else it is the checkpoint itself.

    Raises:
        Failure: the checkpoint was saved for sampling, which the hosted service does not export.
    """
    kind = split_path(path)[2]
    if not connection.config.is_hosted or kind == EXTERNAL_WEIGHTS:
        yield path
        return
    if kind != "weights":
        raise Failure(
            f"the hosted service does not give out {kind}; download the training checkpoint that "
            "was saved beside it",
            code=ExitCode.USAGE,
            hint=f"tinkex checkpoint list --run {split_path(path)[1]} --type weights",
        )
    output.status("Exporting the weights, in a session of their own.")
    trainer = connection.service.create_training_client_from_state(path)
    exported = trainer.save_weights_external(_NAME, ttl_seconds=_LIFETIME).result().path
    assert exported is not None  # the hosted service names every export
    try:
        yield exported
    finally:
        connection.rest.delete_checkpoint_from_tinker_path(exported)
