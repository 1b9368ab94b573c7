"""The bridge's routes of checkpoints: what is done to one here is done on its server first.

A path that the bridge does not know is one of the default server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from tinkex_api.api.weights import external_weights_upload_finish, external_weights_upload_start
from tinkex_api.models import (
    CopyWeightsRequest,
    CopyWeightsResponse,
    ExternalWeightsUploadFinishRequest,
    ExternalWeightsUploadStartRequest,
    SetCheckpointTtlRequest,
    WeightsInfoRequest,
)

from tinkex.bridge.failures import refusing
from tinkex.bridge.state import BridgeState
from tinkex.rest.client import AsyncRestClient
from tinkex_server.errors import malformed
from tinkex_server.routes import checkpoints
from tinkex_server.routes.support.checkpoints import path_of
from tinkex_server.routes.support.endpoint import Call, delete, post, post_nothing, put
from tinkex_server.rules.checkpoint_urls import CHECKPOINT
from tinkex_server.rules.saving import check_ttl
from tinkex_server.store import CheckpointRow

T = TypeVar("T")


async def publish(state: BridgeState, call: Call[None]) -> Mapping[str, Any]:
    await _upstream(
        state,
        call,
        "publish_checkpoint",
        lambda rest, path: rest.publish_checkpoint_from_tinker_path(path),
    )
    return await _here(state, call, checkpoints.publish, unless=lambda row: row.public)


async def unpublish(state: BridgeState, call: Call[None]) -> Mapping[str, Any]:
    await _upstream(
        state,
        call,
        "unpublish_checkpoint",
        lambda rest, path: rest.unpublish_checkpoint_from_tinker_path(path),
    )
    return await _here(state, call, checkpoints.unpublish, unless=lambda row: not row.public)


async def set_ttl(state: BridgeState, call: Call[SetCheckpointTtlRequest]) -> Mapping[str, Any]:
    seconds = check_ttl(call.body.ttl_seconds)
    await _upstream(
        state,
        call,
        "set_checkpoint_ttl",
        lambda rest, path: rest.set_checkpoint_ttl_from_tinker_path(path, seconds),
    )
    return await _here(state, call, checkpoints.set_ttl)


async def delete_checkpoint(state: BridgeState, call: Call[None]) -> Mapping[str, Any]:
    await _upstream(
        state,
        call,
        "delete_checkpoint",
        lambda rest, path: rest.delete_checkpoint_from_tinker_path(path),
    )
    return await _here(state, call, checkpoints.delete_checkpoint)


async def _upstream(
    state: BridgeState,
    call: Call[Any],
    operation: str,
    change: Callable[[AsyncRestClient, str], Awaitable[None]],
) -> None:
    """Makes a change to a checkpoint on its server."""
    where, _ = state.checkpoint(call.access, str(path_of(call)))
    upstream = state.server_of(where)
    async with refusing(upstream.url):
        await upstream.require(operation)
        await change(upstream.rest, where.path)


async def _here(
    state: BridgeState,
    call: Call[T],
    change: Callable[[BridgeState, Call[T]], Awaitable[Mapping[str, Any]]],
    *,
    unless: Callable[[CheckpointRow], bool] = lambda row: False,
) -> Mapping[str, Any]:
    """Makes the same change to the bridge's record of the checkpoint, if it has one, unless it has
    been made.
    """
    _, row = state.checkpoint(call.access, str(path_of(call)))
    return {} if row is None or unless(row) else await change(state, call)


async def weights_info(state: BridgeState, call: Call[WeightsInfoRequest]) -> Mapping[str, Any]:
    """Answers from the record of the bridge, or from the server of a path that it does not know."""
    where, row = state.checkpoint(call.access, call.body.tinker_path)
    if row is not None:
        return await checkpoints.weights_info(state, call)
    upstream = state.server_of(where)
    async with refusing(upstream.url):
        await upstream.discovered()
        return (await upstream.rest.get_weights_info_by_tinker_path(where.path)).to_dict()


async def copy_weights(state: BridgeState, call: Call[CopyWeightsRequest]) -> Mapping[str, Any]:
    """Has the server copy a checkpoint; the path of the copy is the server's own."""
    body = call.body
    if body.destination_project_id is None:
        raise malformed("destination_project_id", message="must be given")
    where, _ = state.checkpoint(call.access, body.source_path)
    upstream = state.server_of(where)
    token = body.weights_access_token or call.headers.get("x-tinker-weights-access-token")
    async with refusing(upstream.url):
        await upstream.discovered()
        copied = await upstream.rest.copy_weights(
            where.path,
            body.destination_project_id,
            ttl_seconds=body.ttl_seconds,
            weights_access_token=token,
        )
    return CopyWeightsResponse(copied).to_dict()


async def start_upload(
    state: BridgeState, call: Call[ExternalWeightsUploadStartRequest]
) -> Mapping[str, Any]:
    """Starts an upload on the server of the base model. Its files go there, not to the bridge."""
    upstream = state.upstreams.for_model(call.body.base_model)
    async with refusing(upstream.url):
        await upstream.discovered()
        answer = await upstream.transport.send(
            external_weights_upload_start.request(body=call.body)
        )
    state.uploads[answer.upload_id] = upstream
    return answer.to_dict()


async def finish_upload(
    state: BridgeState, call: Call[ExternalWeightsUploadFinishRequest]
) -> Mapping[str, Any]:
    upstream = state.uploads.get(call.body.upload_id, state.upstreams.default)
    async with refusing(upstream.url):
        answer = await upstream.transport.send(
            external_weights_upload_finish.request(body=call.body)
        )
    return answer.to_dict()


ROUTES = [
    post_nothing(f"{CHECKPOINT}/publish", publish),
    delete(f"{CHECKPOINT}/publish", unpublish),
    put(f"{CHECKPOINT}/ttl", SetCheckpointTtlRequest, set_ttl),
    delete(CHECKPOINT, delete_checkpoint),
    post("/weights_info", WeightsInfoRequest, weights_info),
    post("/copy_weights", CopyWeightsRequest, copy_weights),
    post("/external_weights_upload_start", ExternalWeightsUploadStartRequest, start_upload),
    post("/external_weights_upload_finish", ExternalWeightsUploadFinishRequest, finish_upload),
]
