"""The routes that save and load weights, each at its turn in the model's lane."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve
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

from tinkex_server import checkpoint_path
from tinkex_server.access.ownership import Access
from tinkex_server.checkpoint_path import (
    EXTERNAL_WEIGHTS,
    SAMPLER_WEIGHTS,
    WEIGHTS,
    CheckpointPath,
    check_name,
)
from tinkex_server.data_dir import digests, manifests
from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.errors import Refused, malformed
from tinkex_server.jobs.loading import create_and_load
from tinkex_server.jobs.requests import RequestIdentity, Work
from tinkex_server.routes.support.endpoint import Call, post
from tinkex_server.routes.support.model_requests import UNNUMBERED, submit_model_request
from tinkex_server.rules.lineage import note_origin
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
from tinkex_server.state import ServerState
from tinkex_server.store import CheckpointRow, ModelRow, SamplerRow
from tinkex_server.wire.json import encode
from tinkex_server.wire.optimizers import optimizer_kind


async def save(state: ServerState, call: Call[SaveWeightsRequest]) -> Mapping[str, Any]:
    """Saves weights and optimizer state, but no gradients that wait for their optim_step."""
    return submit_model_request(
        state, call, "save_weights", lambda row: _save(state, row, call.body)
    )


async def save_for_sampler(
    state: ServerState, call: Call[SaveWeightsForSamplerRequest]
) -> Mapping[str, Any]:
    return submit_model_request(
        state,
        call,
        "save_weights_for_sampler",
        lambda row: _save_for_sampler(state, row, call.body),
    )


async def save_external(
    state: ServerState, call: Call[SaveWeightsExternalRequest]
) -> Mapping[str, Any]:
    return submit_model_request(
        state, call, "save_weights_external", lambda row: _save_external(state, row, call.body)
    )


async def load(state: ServerState, call: Call[LoadWeightsRequest]) -> Mapping[str, Any]:
    """Loads a checkpoint into a model, whose gradients are dropped; or, given a session, into a
    new model.
    """
    body = call.body
    if body.model_id is not None:
        return submit_model_request(
            state, call, "load_weights", lambda row: _load(state, call.access, row, body)
        )
    if body.session_id is None:
        raise malformed("model_id", message="must be given, or session_id, but not both")
    if body.model_seq_id is None:
        raise malformed(
            "model_seq_id", message="is missing: it is required together with session_id"
        )
    identity = call.identify(body.session_id, body.model_seq_id, "load_weights")
    path = _training_path(body.path)
    return submit_creation(
        state,
        call.access,
        identity,
        lambda: _loaded_model(state, call.access, body, path, identity),
    )


def _save(state: ServerState, row: ModelRow, body: SaveWeightsRequest) -> Work:
    path = CheckpointPath(row.model_id, WEIGHTS, check_name(body.path, "path"))
    result = SaveWeightsResponse(str(path), "save_weights")
    save = _save_named(
        state, row, path, body, lambda saved: result.to_dict(), overwrite=bool(body.overwrite)
    )

    async def work() -> bytes:
        saved = await save()
        state.recovery.note_state(row.model_id, path, optimizer=True, seq_id=body.seq_id)
        return saved

    return work


def _save_for_sampler(
    state: ServerState, row: ModelRow, body: SaveWeightsForSamplerRequest
) -> Work:
    inflight, target = is_inflight(body), sampler_target(row, body)
    if isinstance(target, int):
        return _save_ephemeral(state, row, target, inflight=inflight)
    result = SaveWeightsForSamplerResponse(str(target), type="save_weights_for_sampler")
    return _save_named(state, row, target, body, lambda saved: result.to_dict())


def _save_external(state: ServerState, row: ModelRow, body: SaveWeightsExternalRequest) -> Work:
    if body.age_encryption_recipients:
        raise malformed(
            "age_encryption_recipients", message="cannot be given: this server does not encrypt"
        )
    path = CheckpointPath(row.model_id, EXTERNAL_WEIGHTS, check_name(body.path, "path"))

    def result(saved: CheckpointRow) -> Mapping[str, Any]:
        return SaveWeightsExternalResponse(
            str(path), saved.size_bytes, "save_weights_external"
        ).to_dict()

    return _save_named(state, row, path, body, result)


def _save_named(
    state: ServerState,
    row: ModelRow,
    path: CheckpointPath,
    body: SaveWeightsRequest | SaveWeightsForSamplerRequest | SaveWeightsExternalRequest,
    result: Callable[[CheckpointRow], Mapping[str, Any]],
    *,
    overwrite: bool = False,
) -> Work:
    ttl_seconds, metadata = check_ttl(body.ttl_seconds), _metadata(body)

    async def work() -> bytes:
        if not overwrite:
            check_unsaved(state, path)
        with state.folders.new(*path.folder_parts) as (name, folder):
            now = time.time()
            steps = state.store.steps.count_ended(row.model_id)
            planned = CheckpointRow(
                path, name, 0, now, expiry(now, ttl_seconds), metadata, step=steps
            )
            write = _writer(state, path.run_id, optimizer=path.kind == WEIGHTS)
            saved = await write_checkpoint(state, row, planned, folder, write)
            state.store.checkpoints.put(saved)
        record_checkpoint(state, row, saved, "saved")
        if overwrite:
            await state.folders.remove_unused(state.store.folders)
        return encode(result(saved))

    return work


def _metadata(
    body: SaveWeightsRequest | SaveWeightsForSamplerRequest | SaveWeightsExternalRequest,
) -> Mapping[str, str]:
    if isinstance(body, SaveWeightsExternalRequest) or body.user_metadata is None:
        return {}
    return body.user_metadata


def _save_ephemeral(state: ServerState, row: ModelRow, number: int, *, inflight: bool) -> Work:
    """Saves weights for a new sampling session, which has no path. An in-flight save replaces the
    weights of the model's earlier in-flight saves in all their sessions.
    """
    sampler_id = state.ids.sampler_of(row.session_id, number)
    new = SamplerRow(
        sampler_id, row.session_id, row.base_model, None, None, row.model_id if inflight else None
    )

    async def work() -> bytes:
        check_unused(state, row.session_id, number)
        with state.folders.new("samplers", new.weights_id) as (name, folder):
            sampler = evolve(new, folder=name)
            write = _writer(state, row.model_id, optimizer=False)
            manifest = manifests.of_samplers(state.store, sampler)
            await state.lanes.call(manifests.save, folder, write, manifest)
            state.store.samplers.add(sampler, time.time())
        if inflight:
            await state.samplers.reload(sampler)
            await state.folders.remove_unused(state.store.folders)
        return encode(SaveWeightsForSamplerResponse(sampling_session_id=sampler_id).to_dict())

    return work


def _writer(state: ServerState, model_id: str, *, optimizer: bool) -> Callable[[Path], object]:
    """Returns a function that has the engine write a model's files into a folder."""
    return partial(state.engine.save_model, model_id, optimizer=optimizer)


def _training_path(text: str) -> CheckpointPath:
    path = checkpoint_path.parse(text)
    if path.kind == SAMPLER_WEIGHTS:
        raise without_training_state(path)
    return path


def _load(state: ServerState, access: Access, row: ModelRow, body: LoadWeightsRequest) -> Work:
    if body.session_id is not None:
        raise malformed("model_id", message="must be given, or session_id, but not both")
    path = _training_path(body.path)

    async def work() -> bytes:
        # looked up only now, since the request before may save it
        saved = _find(access, path)
        _check_fit(path, access.run_of(saved), row, optimizer=body.optimizer)
        with state.folders.hold(saved.folder) as folder:
            await state.lanes.call(digests.check, folder)
            await state.lanes.call(
                state.engine.load_model, row.model_id, folder, optimizer=body.optimizer
            )
        state.recovery.note_state(row.model_id, path, optimizer=body.optimizer, seq_id=body.seq_id)
        note_origin(state.store, row.model_id, saved)
        return encode(_loaded(path, row.model_id))

    return work


def _find(access: Access, path: CheckpointPath) -> CheckpointRow:
    """Returns a checkpoint. Raises `InvalidRequest` for one that the caller cannot read."""
    try:
        return access.checkpoint(path)
    except Refused as refusal:
        raise InvalidRequest(str(refusal.detail)) from refusal


def _loaded_model(
    state: ServerState,
    access: Access,
    body: LoadWeightsRequest,
    path: CheckpointPath,
    identity: RequestIdentity,
) -> NewModel:
    """Returns a new model with the shape of a checkpoint, over the same base model or another that
    the weights fit. If the optimizer's state is loaded, its kind is the checkpoint's too.
    """
    run = access.run_of(access.checkpoint(path))
    optimizer = run.optimizer if body.optimizer else optimizer_kind(body.optimizer_config)
    lora = evolve(run.lora, seed=None)  # its weights come from the checkpoint, not from a seed
    row = new_model_row(
        state,
        access,
        identity,
        base_model=body.base_model or run.base_model,
        lora=lora,
        optimizer=optimizer,
        metadata=body.user_metadata,
    )
    create = partial(_create_loaded, state, access, row, path, optimizer=body.optimizer)
    return NewModel(row, create, _loaded(path, row.model_id), path, body.optimizer)


async def _create_loaded(
    state: ServerState, access: Access, row: ModelRow, path: CheckpointPath, *, optimizer: bool
) -> Sequence[str]:
    saved = _find(access, path)
    with state.folders.hold(saved.folder) as folder:
        warnings = await state.lanes.call(
            create_and_load, state.engine, row, folder, optimizer=optimizer
        )
    note_origin(state.store, row.model_id, saved)
    return warnings


def _loaded(path: CheckpointPath, model_id: str) -> Mapping[str, Any]:
    return LoadWeightsResponse(str(path), model_id, "load_weights").to_dict()


def _check_fit(path: CheckpointPath, saved: ModelRow, into: ModelRow, *, optimizer: bool) -> None:
    """Raises `InvalidRequest`, with all differences, unless both models have the same shape, and if
    `optimizer`, the same kind of optimizer.
    """
    ours, theirs = _shape(into), _shape(saved)
    if optimizer:
        ours, theirs = (
            {**ours, "optimizer": into.optimizer},
            {**theirs, "optimizer": saved.optimizer},
        )
    wrong = [
        f"{name} {theirs[name]!r} and not {ours[name]!r}"
        for name in ours
        if theirs[name] != ours[name]
    ]
    if wrong:
        raise InvalidRequest(f"{path} does not fit {into.model_id!r}: it has {', '.join(wrong)}")


def _shape(row: ModelRow) -> Mapping[str, object]:
    lora = row.lora
    return {
        "base_model": row.base_model,
        "rank": lora.rank,
        "train_attn": lora.train_attn,
        "train_mlp": lora.train_mlp,
        "train_unembed": lora.train_unembed,
    }


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
