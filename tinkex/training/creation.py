"""Creates models on the server: new ones, and from checkpoints, in the way that each server has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from attrs import frozen
from tinkex_api.api.models import create_model, get_weights_info
from tinkex_api.api.weights import load_weights
from tinkex_api.models import CreateModelRequest, LoadWeightsRequest, WeightsInfoRequest

from tinkex.errors import NotFoundError, ServerStateLostError, TinkexError, UnsupportedByServer
from tinkex.futures.poller import send_and_wait
from tinkex.session.session import Session
from tinkex.training.argument_checks import check_load
from tinkex.training.client import AsyncTrainingClient
from tinkex.training.unloading import unload_left_behind
from tinkex.transport.answers import required_text
from tinkex.transport.server import Server
from tinkex.types import LoadWeightsResponse, LoraConfig, OptimizerConfig
from tinkex.wire import json

T = TypeVar("T")


@frozen(kw_only=True)
class SavedState:
    """A checkpoint from which a model is made, and how it is loaded."""

    path: str
    with_optimizer: bool
    base_model: str | None = None
    rank: int | None = None
    weights_access_token: str | None = None


async def new_model(
    session: Session,
    base_model: str,
    shape: LoraConfig,
    user_metadata: Mapping[str, str] | None,
    optimizer: OptimizerConfig | None,
    checkpoint_path: str | None = None,
) -> AsyncTrainingClient:
    """Creates a model by create_model.

    Args:
        session: the session that the model belongs to.
        base_model: the name of the base model.
        shape: the rank and the layers of the LoRA adapter.
        user_metadata: texts of the user's own that are kept with the model.
        optimizer: the kind of optimizer; by default Adam.
        checkpoint_path: a checkpoint to load, for the one server whose create_model loads weights.
    """
    body = CreateModelRequest(
        session.session_id,
        next(session.model_numbers),
        base_model,
        shape,
        optimizer_config=optimizer,
    )
    body.user_metadata = json.encode_metadata(user_metadata)
    if checkpoint_path:
        body.additional_properties["checkpoint_path"] = checkpoint_path
    model_id = await send_and_wait(
        session.transport,
        create_model.request(body=body),
        _with_warnings(session.transport.server, lambda fields: required_text(fields, "model_id")),
    )
    return AsyncTrainingClient(session, model_id, base_model, shape)


def _with_warnings(
    server: Server, read: Callable[[Mapping[str, Any]], T]
) -> Callable[[Mapping[str, Any]], T]:
    """Returns `read`, extended so that it logs the `warnings` in an answer, each once for a
    server.
    """

    def read_all(fields: Mapping[str, Any]) -> T:
        value, warnings = read(fields), fields.get("warnings")
        for warning in cast("list[object]", warnings) if isinstance(warnings, list) else ():
            if isinstance(warning, str):
                server.warn_once(warning)
        return value

    return read_all


def require_recovery(server: Server) -> None:
    """Raises `UnsupportedByServer` where no model can be made that continues exactly from a
    checkpoint, with its optimizer.
    """
    require_resume(server)
    check_load(server.dialect, optimizer=True)


def require_resume(server: Server) -> None:
    """Raises `UnsupportedByServer` where the server cannot make a model from a checkpoint."""
    if server.dialect.resume == "never":
        server.require("load_weights")


async def model_from_state(
    session: Session,
    saved: SavedState,
    user_metadata: Mapping[str, str] | None,
    optimizer: OptimizerConfig | None,
) -> AsyncTrainingClient:
    """Creates a model with the weights of a checkpoint.

    Raises:
        UnsupportedByServer: the server cannot make a model from a checkpoint, or not in this way.
        CheckpointMismatchError: the model does not hold the weights that were saved.
    """
    dialect = session.transport.server.dialect
    check_load(dialect, optimizer=saved.with_optimizer)
    if dialect.resume == "by_session":
        return await _by_session(session, saved, user_metadata, optimizer)
    require_resume(session.transport.server)
    base_model, shape = await _shape_of(session, saved)
    if dialect.resume == "by_create":
        return await _verified(
            await new_model(session, base_model, shape, user_metadata, optimizer, saved.path),
            session,
            saved.path,
        )
    client = await new_model(session, base_model, shape, user_metadata, optimizer)
    load = client.load_state_with_optimizer if saved.with_optimizer else client.load_state
    try:
        # some servers load only as a model's first request
        await load(saved.path, saved.weights_access_token)
    except TinkexError as error:
        # it is the model that does not exist, if the checkpoint does
        if isinstance(error, NotFoundError) and await _is_there(session, saved.path):
            raise ServerStateLostError(
                f"the server lost the new model before {saved.path} was loaded: {error.message}",
                operation=error.operation,
                advice="The checkpoint is there: load it again.",
            ) from error
        await unload_left_behind(session, [client.model_id])
        raise
    return client


async def _is_there(session: Session, path: str) -> bool:
    """Returns whether the server says that it has the checkpoint."""
    try:
        await session.transport.send(get_weights_info.request(body=WeightsInfoRequest(path)))
    except TinkexError:
        return False
    return True


async def _by_session(
    session: Session,
    saved: SavedState,
    user_metadata: Mapping[str, str] | None,
    optimizer: OptimizerConfig | None,
) -> AsyncTrainingClient:
    """Creates a model by one load_weights, which makes the model and loads it."""
    base_model, shape = await _shape_of(session, saved)
    number = next(session.model_numbers)
    body = LoadWeightsRequest(
        saved.path, saved.with_optimizer, session_id=session.session_id, model_seq_id=number
    )
    body.base_model, body.weights_access_token = saved.base_model, saved.weights_access_token
    body.optimizer_config, body.user_metadata = optimizer, json.encode_metadata(user_metadata)
    read = _with_warnings(session.transport.server, LoadWeightsResponse.from_dict)
    loaded = await send_and_wait(session.transport, load_weights.request(body=body), read)
    model_id = loaded.model_id or f"{session.session_id}:train:{number}"
    return await _verified(
        AsyncTrainingClient(session, model_id, base_model, shape), session, saved.path
    )


async def _verified(
    client: AsyncTrainingClient, session: Session, path: str
) -> AsyncTrainingClient:
    """Returns the client of a model that was made from a checkpoint, if it holds its weights.

    Raises `CheckpointMismatchError` otherwise.
    """
    if error := await client.fingerprints.mismatch(path):
        await unload_left_behind(session, [client.model_id])
        raise error
    return client


async def _shape_of(session: Session, saved: SavedState) -> tuple[str, LoraConfig]:
    """Returns the base model and LoRA shape of a checkpoint: those known from this session, those
    given, or those that the server tells.
    """
    if known := session.saved_shapes.get(saved.path):
        return saved.base_model or known[0], known[1]
    if saved.base_model and saved.rank:
        return saved.base_model, LoraConfig(rank=saved.rank)
    try:
        info = await session.transport.send(
            get_weights_info.request(body=WeightsInfoRequest(saved.path))
        )
    except UnsupportedByServer as error:
        raise _no_shape(error.server, saved.path) from error
    if not (saved.rank or info.lora_rank) and not session.transport.server.dialect.tells_rank:
        raise _no_shape(session.transport.server.dialect.name, saved.path)
    shape = LoraConfig(
        rank=saved.rank or info.lora_rank or LoraConfig().rank,
        train_unembed=info.train_unembed is not False,
        train_mlp=info.train_mlp is not False,
        train_attn=info.train_attn is not False,
    )
    return saved.base_model or info.base_model, shape


def _no_shape(server: str, path: str) -> UnsupportedByServer:
    return UnsupportedByServer(
        f"{server} does not tell the LoRA shape of {path}",
        server=server,
        operation="get_weights_info",
        advice="Give base_model=… and rank=… with which the model was created.",
    )
