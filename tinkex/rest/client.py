"""`AsyncRestClient`: training runs and checkpoints, without a session."""

from __future__ import annotations

from tinkex_api.api.checkpoints import delete_checkpoint
from tinkex_api.api.training_runs import list_checkpoints, list_training_runs

from tinkex.errors import InvalidInputError
from tinkex.transport.http import Transport
from tinkex.types import CheckpointsListResponse, TrainingRunsResponse


class AsyncRestClient:
    """Looks at and manages what is on the server. Made by `AsyncServiceClient.create_rest_client`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._transport.config.base_url}>"

    async def list_training_runs(self, limit: int = 20, offset: int = 0) -> TrainingRunsResponse:
        """A page of the training runs, newest first: at most `limit`, after leaving out `offset`."""
        return await self._transport.send(list_training_runs.request(limit=limit, offset=offset))

    async def list_checkpoints(self, training_run_id: str) -> CheckpointsListResponse:
        """All checkpoints of a training run. Raises `NotFoundError` for an unknown run."""
        return await self._transport.send(list_checkpoints.request(training_run_id))

    async def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> None:
        """Deletes a checkpoint for good.

        Args:
            checkpoint_id: `<kind>/<name>`, as `Checkpoint.checkpoint_id` has it, for example `sampler_weights/0001`.

        Raises:
            InvalidInputError: the id is not of that form.
            NotFoundError: there is no such checkpoint.
        """
        kind, slash, name = checkpoint_id.partition("/")
        if not (kind and slash and name):
            raise InvalidInputError(f"checkpoint_id {checkpoint_id!r} is not of the form <kind>/<name>")
        await self._transport.send(delete_checkpoint.request(training_run_id, kind, name))
