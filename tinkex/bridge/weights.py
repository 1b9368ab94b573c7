"""The bridge's routes that save and load weights.

What is saved is on the server behind the bridge. The bridge keeps its path there, under a path of
its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import evolve, frozen
from tinkex_api.models import (
    LoadWeightsRequest,
    LoadWeightsResponse,
    SaveWeightsExternalRequest,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerRequest,
    SaveWeightsForSamplerResponse,
    SaveWeightsRequest,
    SaveWeightsResponse,
)

from tinkex.bridge import checkpoint_files
from tinkex.bridge.checkpoint_files import UpstreamPath
from tinkex.bridge.failures import or_failure, refusing
from tinkex.bridge.state import BridgeState, OpenSampler
from tinkex.bridge.upstream import Upstream
from tinkex.errors import TinkexError
from tinkex.session.session import Session
from tinkex.training.client import AsyncTrainingClient
from tinkex.training.creation import SavedState, model_from_state
from tinkex.types import LoraConfig, OptimizerConfig
from tinkex_server.access.ownership import Access
from tinkex_server.checkpoint_path import (
    EXTERNAL_WEIGHTS,
    SAMPLER_WEIGHTS,
    WEIGHTS,
    CheckpointPath,
    check_name,
)
from tinkex_server.engine.interface import LoraShape
from tinkex_server.errors import malformed
from tinkex_server.jobs.requests import Work, WorkFailed
from tinkex_server.routes.support.endpoint import Call, post
from tinkex_server.routes.support.model_requests import UNNUMBERED, submit_model_request
from tinkex_server.rules.model_creation import NewModel, new_model_row, submit_creation
from tinkex_server.rules.saving import (
    check_ttl,
    check_unsaved,
    check_unused,
    expiry,
    is_inflight,
    record_checkpoint,
    sampler_target,
    without_training_state,
    write_checkpoint,
)
from tinkex_server.store import CheckpointRow, ModelRow, SamplerRow
from tinkex_server.wire.json import encode
from tinkex_server.wire.optimizers import optimizer_config, optimizer_kind

logger = logging.getLogger("tinkex.bridge")

_SaveBody = SaveWeightsRequest | SaveWeightsForSamplerRequest | SaveWeightsExternalRequest


@frozen
class _Saved:
    """Weights that the server behind the bridge has saved."""

    path: str
    """The server's path."""
    size_bytes: int = 0
    """Their size; 0 if the server does not tell."""


_Save = Callable[[AsyncTrainingClient], Awaitable[_Saved]]
"""A function that has a model's client save. It makes the call before it awaits anything."""


async def save(state: BridgeState, call: Call[SaveWeightsRequest]) -> Mapping[str, Any]:
    return submit_model_request(
        state, call, "save_weights", lambda row: _save(state, row, call.body)
    )


async def save_for_sampler(
    state: BridgeState, call: Call[SaveWeightsForSamplerRequest]
) -> Mapping[str, Any]:
    return submit_model_request(
        state,
        call,
        "save_weights_for_sampler",
        lambda row: _save_for_sampler(state, row, call.body),
    )


async def save_external(
    state: BridgeState, call: Call[SaveWeightsExternalRequest]
) -> Mapping[str, Any]:
    return submit_model_request(
        state, call, "save_weights_external", lambda row: _save_external(state, row, call.body)
    )


def _save(state: BridgeState, row: ModelRow, body: SaveWeightsRequest) -> Work:
    path = CheckpointPath(row.model_id, WEIGHTS, check_name(body.path, "path"))
    overwrite, metadata = bool(body.overwrite), _metadata(body)

    async def run(client: AsyncTrainingClient) -> _Saved:
        saved = await client.save_state(path.name, body.ttl_seconds, overwrite, metadata)
        return _Saved(saved.path)

    result = SaveWeightsResponse(str(path), "save_weights").to_dict()
    return _save_named(state, row, path, body, run, lambda _: result, overwrite=overwrite)


def _save_for_sampler(
    state: BridgeState, row: ModelRow, body: SaveWeightsForSamplerRequest
) -> Work:
    inflight, path = is_inflight(body), sampler_target(row, body)
    if isinstance(path, int):
        return _save_ephemeral(state, row, path, inflight=inflight)
    metadata = _metadata(body)

    async def run(client: AsyncTrainingClient) -> _Saved:
        saved = await client.save_weights_for_sampler(path.name, body.ttl_seconds, metadata)
        return _Saved(saved.path or "")

    result = SaveWeightsForSamplerResponse(str(path), type="save_weights_for_sampler").to_dict()
    return _save_named(state, row, path, body, run, lambda _: result)


def _save_external(state: BridgeState, row: ModelRow, body: SaveWeightsExternalRequest) -> Work:
    path = CheckpointPath(row.model_id, EXTERNAL_WEIGHTS, check_name(body.path, "path"))

    async def run(client: AsyncTrainingClient) -> _Saved:
        saved = await client.save_weights_external(
            path.name, body.ttl_seconds, body.age_encryption_recipients
        )
        return _Saved(saved.path or "", saved.size_bytes or 0)

    def result(saved: _Saved) -> Mapping[str, Any]:
        size = saved.size_bytes or None
        return SaveWeightsExternalResponse(str(path), size, "save_weights_external").to_dict()

    return _save_named(state, row, path, body, run, result)


def _metadata(body: SaveWeightsRequest | SaveWeightsForSamplerRequest) -> dict[str, str] | None:
    return dict(body.user_metadata) if body.user_metadata else None


def _save_named(
    state: BridgeState,
    row: ModelRow,
    path: CheckpointPath,
    body: _SaveBody,
    run: _Save,
    result: Callable[[_Saved], Mapping[str, Any]],
    *,
    overwrite: bool = False,
) -> Work:
    """Returns the work of a save under a name: the server saves, and the bridge keeps its path."""
    ttl_seconds = check_ttl(body.ttl_seconds)
    metadata = None if isinstance(body, SaveWeightsExternalRequest) else _metadata(body)

    async def work() -> bytes:
        if not overwrite:
            check_unsaved(state, path)
        client = await state.model(row.model_id)
        url = state.upstream_of(client).url
        saved = await or_failure(url, lambda: run(client))
        if not saved.size_bytes:
            size = await _told_size(state.upstream_of(client), client.model_id, saved.path)
            saved = evolve(saved, size_bytes=size)
        await _keep(state, row, path, UpstreamPath(url, saved.path), saved, ttl_seconds, metadata)
        return encode(result(saved))

    return work


async def _told_size(upstream: Upstream, run_id: str, path: str) -> int:
    """Returns the size of a checkpoint in bytes; 0 if the server does not tell."""
    try:
        listed = await upstream.rest.list_checkpoints(run_id)
    except TinkexError as error:
        logger.debug("the size of %s is not known: %s", path, error)
        return 0
    sizes = {checkpoint.tinker_path: checkpoint.size_bytes for checkpoint in listed.checkpoints}
    return sizes.get(path) or 0


async def _keep(
    state: BridgeState,
    row: ModelRow,
    path: CheckpointPath,
    where: UpstreamPath,
    saved: _Saved,
    ttl_seconds: int | None,
    metadata: Mapping[str, str] | None,
) -> None:
    """Keeps where a checkpoint is, under the bridge's path of it."""
    now = time.time()
    with state.folders.new(*path.folder_parts) as (name, folder):
        planned = CheckpointRow(path, name, 0, now, expiry(now, ttl_seconds), metadata or {})
        write = partial(checkpoint_files.write, where)
        written = await write_checkpoint(state, row, planned, folder, write)
        kept = evolve(written, size_bytes=saved.size_bytes)
        state.store.checkpoints.put(kept)
    record_checkpoint(state, row, kept, "saved")
    await state.folders.remove_unused(state.store.folders)


def _save_ephemeral(state: BridgeState, row: ModelRow, number: int, *, inflight: bool) -> Work:
    """Saves weights for a new sampling session, which has no path."""
    sampler_id = state.ids.sampler_of(row.session_id, number)

    async def work() -> bytes:
        check_unused(state, row.session_id, number)
        client = await state.model(row.model_id)
        kind = "inflight" if inflight else "snapshot"
        url = state.upstream_of(client).url
        sampler_client = await or_failure(
            url, lambda: client.save_weights_and_get_sampling_client(kind=kind)
        )
        state.keep_ephemeral(sampler_id, row, OpenSampler(sampler_client, url))
        # marked as weights of the model, so that nobody takes it for a sampler of the base model
        sampler = SamplerRow(
            sampler_id, row.session_id, row.base_model, None, None, inflight_of=row.model_id
        )
        state.store.samplers.add(sampler, time.time())
        return encode(SaveWeightsForSamplerResponse(sampling_session_id=sampler_id).to_dict())

    return work


async def load(state: BridgeState, call: Call[LoadWeightsRequest]) -> Mapping[str, Any]:
    """Loads a checkpoint into a model; or, given a session, into a new model."""
    body = call.body
    if body.model_id is not None:
        return submit_model_request(
            state, call, "load_weights", lambda row: _load(state, call.access, row, body)
        )
    if body.session_id is None or body.model_seq_id is None:
        raise malformed("model_id", message="must be given, or session_id with model_seq_id")
    if f"/{SAMPLER_WEIGHTS}/" in body.path:
        raise without_training_state(body.path)
    identity = call.identify(body.session_id, body.model_seq_id, "load_weights")
    source = await _source(state, call.access, body)
    return submit_creation(
        state,
        call.access,
        identity,
        lambda: _loaded_model(
            source,
            state,
            body,
            new_model_row(
                state,
                call.access,
                identity,
                base_model=source.base_model,
                lora=evolve(source.lora, seed=None),
                optimizer=source.optimizer
                if body.optimizer
                else optimizer_kind(body.optimizer_config),
                metadata=body.user_metadata,
            ),
        ),
    )


@frozen
class _Source:
    """A checkpoint from which a model is made."""

    where: UpstreamPath
    base_model: str
    lora: LoraShape
    optimizer: Any


async def _source(state: BridgeState, access: Access, body: LoadWeightsRequest) -> _Source:
    """Returns where a checkpoint is, and the shape of its model. Raises `Refused`."""
    where, row = state.checkpoint(access, body.path)
    if row is not None:
        run = state.run_of(row)
        return _Source(where, body.base_model or run.base_model, run.lora, run.optimizer)
    if body.base_model:
        where = UpstreamPath(state.upstreams.for_model(body.base_model).url, where.path)
    upstream = state.server_of(where)
    async with refusing(upstream.url):
        await upstream.discovered()
        info = await upstream.rest.get_weights_info_by_tinker_path(where.path)
    shape = LoraShape(
        info.lora_rank or LoraConfig().rank,
        train_attn=info.train_attn is not False,
        train_mlp=info.train_mlp is not False,
        train_unembed=info.train_unembed is not False,
    )
    optimizer = optimizer_kind(info.optimizer_config)
    return _Source(where, body.base_model or info.base_model, shape, optimizer)


def _loaded_model(
    source: _Source, state: BridgeState, body: LoadWeightsRequest, row: ModelRow
) -> NewModel:
    optimizer: OptimizerConfig | None = None if body.optimizer else body.optimizer_config

    async def create() -> Sequence[str]:
        await _make_from_state(state, row, source.where, body, optimizer)
        return ()

    return NewModel(row, create, _loaded(body.path, row.model_id))


async def _make_from_state(
    state: BridgeState,
    row: ModelRow,
    where: UpstreamPath,
    body: LoadWeightsRequest,
    optimizer: OptimizerConfig | None,
) -> None:
    """Makes a model on the server of a checkpoint, with its weights. Raises `WorkFailed`."""
    upstream = state.server_of(where)
    saved = SavedState(
        path=where.path,
        with_optimizer=body.optimizer,
        base_model=body.base_model,
        weights_access_token=body.weights_access_token,
    )
    shape = LoraConfig(
        rank=row.lora.rank,
        train_attn=row.lora.train_attn,
        train_mlp=row.lora.train_mlp,
        train_unembed=row.lora.train_unembed,
    )

    async def make(begun: Session) -> None:
        begun.saved_shapes.setdefault(saved.path, (row.base_model, shape))
        client = await model_from_state(begun, saved, dict(row.user_metadata), optimizer)
        state.keep_model(row.model_id, upstream.url, begun, client)

    session = state.session(row.session_id)
    await or_failure(upstream.url, lambda: upstream.in_session(session, make))


def _load(state: BridgeState, access: Access, row: ModelRow, body: LoadWeightsRequest) -> Work:
    if body.session_id is not None:
        raise malformed("model_id", message="must be given, or session_id, but not both")
    if f"/{SAMPLER_WEIGHTS}/" in body.path:
        raise without_training_state(body.path)
    result = encode(_loaded(body.path, row.model_id))

    async def work() -> bytes:
        # looked up only now, since the request before may save it
        where, _ = state.checkpoint(access, body.path)
        async with state.turnstile(row.model_id):
            client = state.model_there(row.model_id)
            upstream = state.upstream_of(client)
            makes_anew = upstream.dialect.resume == "by_create"
            if makes_anew and state.journal.is_untouched(row.model_id):
                await _make_anew(state, row, where, body)
                return result
        load = client.load_state_with_optimizer if body.optimizer else client.load_state
        await or_failure(upstream.url, lambda: load(where.path, body.weights_access_token))
        return result

    return work


async def _make_anew(
    state: BridgeState, row: ModelRow, where: UpstreamPath, body: LoadWeightsRequest
) -> None:
    """Puts a model with the weights of a checkpoint in the place of one for which nothing was sent
    yet, on a server that loads only into new models. Its caller holds the model's turnstile.

    When that fails the model is lost, so that none of its later requests runs on other weights.
    """
    await _unload(state, state.models[row.model_id])
    optimizer = None if row.optimizer == "adamw" else optimizer_config(row.optimizer)
    try:
        await _make_from_state(state, row, where, body, optimizer)
    except WorkFailed as error:
        state.lose_model(row, f"model {row.model_id!r} could not be loaded: {error}")
        raise


async def _unload(state: BridgeState, client: AsyncTrainingClient) -> None:
    """Frees a model on its server that another one replaces. One that is left there ends with its
    session.
    """
    upstream = state.upstream_of(client)
    if upstream.dialect.lacks("unload_model"):
        return
    try:
        await client.unload_model()
    except TinkexError as error:
        logger.warning("model %s was left on %s: %s", client.model_id, upstream.url, error)


def _loaded(path: str, model_id: str) -> Mapping[str, Any]:
    return LoadWeightsResponse(path, model_id, "load_weights").to_dict()


ROUTES = [
    post("/save_weights", SaveWeightsRequest, save, defaults=UNNUMBERED),
    post(
        "/save_weights_for_sampler",
        SaveWeightsForSamplerRequest,
        save_for_sampler,
        defaults=UNNUMBERED,
    ),
    post("/save_weights_external", SaveWeightsExternalRequest, save_external, defaults=UNNUMBERED),
    post("/load_weights", LoadWeightsRequest, load),
]
