"""`AsyncServiceClient`: the way in; makes the other clients."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from attrs import evolve
from tinkex_api.api.models import create_model, get_weights_info
from tinkex_api.api.server import get_server_capabilities
from tinkex_api.api.weights import load_weights
from tinkex_api.models import CreateModelRequest, CreateModelResponse, LoadWeightsRequest, WeightsInfoRequest

from tinkex.config import Config
from tinkex.errors import ClientClosedError, InvalidInputError
from tinkex.futures.poller import send_and_wait
from tinkex.rest.client import AsyncRestClient
from tinkex.sampling.client import AsyncSamplingClient
from tinkex.session import Outcome, Session
from tinkex.training.client import AsyncTrainingClient
from tinkex.transport.http import Transport
from tinkex.types import GetServerCapabilitiesResponse, LoadWeightsResponse, LoraConfig, OptimizerConfig
from tinkex.wire import json


class AsyncServiceClient:
    """A connection to a server, and the session in which its models and samplers live.

    Nothing is sent until it is needed. Leave it as a context manager, or call `close`, to end the session.

    Example:
        async with AsyncServiceClient(base_url="http://127.0.0.1:8765") as service:
            trainer = await service.create_lora_training_client("tinkex/tiny", rank=16)

    Args:
        base_url: where the server is; by default `TINKER_BASE_URL`, else the hosted service.
        api_key: by default `TINKER_API_KEY`.
        user_metadata: facts of your own, kept with the session.
        config: all settings; `base_url` and `api_key` go before its own.

    Raises:
        ConfigError: a setting is missing or wrong.
    """

    config: Config

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        user_metadata: Mapping[str, str] | None = None,
        config: Config | None = None,
    ) -> None:
        given: dict[str, Any] = {name: value for name, value in (("base_url", base_url), ("api_key", api_key)) if value is not None}
        self.config = evolve(config, **given) if config else Config(**given)
        self._user_metadata = dict(user_metadata or {})
        self._transport: Transport | None = None
        self._session: Session | None = None
        self._beginning = asyncio.Lock()
        self._closed = False

    async def create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        *,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Mapping[str, str] | None = None,
        optimizer: OptimizerConfig | None = None,
    ) -> AsyncTrainingClient:
        """A new LoRA adapter over `base_model`, ready to be trained.

        Args:
            base_model: one of `get_server_capabilities`.
            rank: the adapter's rank.
            seed: fixes the adapter's initial weights.
            train_mlp, train_attn, train_unembed: which layers to train; at least one.
            user_metadata: facts of your own, kept with the training run.
            optimizer: its kind, by default AdamW.

        Raises:
            InvalidInputError: rank below 1, or nothing to train.
            BadRequestError, RequestFailedError: the server does not have the model, or not this shape.
            APIConnectionError: the server cannot be reached.
        """
        if rank < 1 or not (train_mlp or train_attn or train_unembed):
            raise InvalidInputError(f"rank must be 1 or more (got {rank}), and at least one of train_* true")
        shape = LoraConfig(rank=rank, seed=seed, train_mlp=train_mlp, train_attn=train_attn, train_unembed=train_unembed)
        return await self._create_model(base_model, shape, user_metadata, optimizer)

    async def create_training_client_from_state(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        weights_access_token: str | None = None,
        optimizer: OptimizerConfig | None = None,
    ) -> AsyncTrainingClient:
        """A new model with saved weights and a new optimizer.

        Args:
            path: `tinker://…/weights/…`, as `save_state` gave it.
            base_model: by default the one that the weights were trained on.
            user_metadata: facts of your own, kept with the training run.
            weights_access_token: a right to read weights of others.
            optimizer: its kind, by default AdamW.

        Raises:
            NotFoundError, BadRequestError, RequestFailedError: there are no such weights, or they do not fit.
            APIConnectionError: the server cannot be reached.
        """
        return await self._create_from_state(path, base_model, user_metadata, weights_access_token, optimizer, with_optimizer=False)

    async def create_training_client_from_state_with_optimizer(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        weights_access_token: str | None = None,
    ) -> AsyncTrainingClient:
        """A new model with saved weights and the state of their optimizer, to go on where `save_state` was called.

        Takes and raises what `create_training_client_from_state` does.
        """
        return await self._create_from_state(path, base_model, user_metadata, weights_access_token, None, with_optimizer=True)

    async def create_sampling_client(
        self, model_path: str | None = None, base_model: str | None = None, *, record_stability_info: bool = False
    ) -> AsyncSamplingClient:
        """A client that samples from saved weights, or from a base model.

        Args:
            model_path: where the weights are, in the server's own form: `tinker://…`, on some servers another scheme, or a folder.
            base_model: the model to sample; with `model_path` the one below it, whose tokenizer is wanted.
            record_stability_info: whether the server is to keep what the loss stable_reinforce needs.

        Raises:
            UnsupportedByServer: the server cannot sample these.
            InvalidInputError: neither is given.
            NotFoundError, BadRequestError: the server does not have it.
            APIConnectionError: the server cannot be reached.
        """
        if not (model_path or base_model):
            raise InvalidInputError("create_sampling_client needs model_path or base_model")
        return await AsyncSamplingClient.open(
            await self._begun(), base_model=base_model, model_path=model_path, record_stability_info=record_stability_info
        )

    def create_rest_client(self) -> AsyncRestClient:
        """A client for training runs and checkpoints. Begins no session."""
        return AsyncRestClient(self._connected())

    async def get_server_capabilities(self) -> GetServerCapabilitiesResponse:
        """The base models that the server can train and sample. Begins no session."""
        return await self._connected().send(get_server_capabilities.request())

    async def close(self, outcome: Outcome = "success", detail: str | None = None) -> None:
        """Ends the session, telling the server how it went, and the connections. Later calls raise `ClientClosedError`."""
        self._closed = True
        if self._session is not None:
            await self._session.finish(outcome, detail)
        if self._transport is not None:
            await self._transport.aclose()
        self._session = self._transport = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            await self.close()
        else:
            await self.close("errored" if isinstance(error, Exception) else "interrupted", type(error).__name__)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.config.base_url}{' closed' if self._closed else ''}>"

    def _connected(self) -> Transport:
        if self._closed:
            raise ClientClosedError("the service client was closed", advice="Make a new one.")
        if self._transport is None:
            self._transport = Transport(self.config)
        return self._transport

    async def _create_model(
        self, base_model: str, shape: LoraConfig, user_metadata: Mapping[str, str] | None, optimizer: OptimizerConfig | None
    ) -> AsyncTrainingClient:
        session = await self._begun()
        body = CreateModelRequest(session.session_id, next(session.model_numbers), base_model, shape, optimizer_config=optimizer)
        body.user_metadata = json.encode_metadata(user_metadata)
        model = CreateModelResponse.from_dict(await send_and_wait(session.transport, create_model.request(body=body)))
        return AsyncTrainingClient(session, model.model_id, base_model)

    async def _create_from_state(
        self,
        path: str,
        base_model: str | None,
        user_metadata: Mapping[str, str] | None,
        token: str | None,
        optimizer: OptimizerConfig | None,
        *,
        with_optimizer: bool,
    ) -> AsyncTrainingClient:
        """By one load_weights where the server has that; else by what makes a model that the weights fit, and loads them first."""
        session = await self._begun()
        saved = await session.transport.send(get_weights_info.request(body=WeightsInfoRequest(path)))
        if session.transport.server.dialect.resume != "by_session":
            shape = LoraConfig(
                rank=saved.lora_rank or LoraConfig().rank,
                train_unembed=saved.train_unembed is not False,
                train_mlp=saved.train_mlp is not False,
                train_attn=saved.train_attn is not False,
            )
            client = await self._create_model(base_model or saved.base_model, shape, user_metadata, optimizer)
            await (client.load_state_with_optimizer if with_optimizer else client.load_state)(path, token)
            return client
        number = next(session.model_numbers)
        body = LoadWeightsRequest(path, with_optimizer, session_id=session.session_id, model_seq_id=number)
        body.base_model, body.weights_access_token, body.optimizer_config = base_model, token, optimizer
        body.user_metadata = json.encode_metadata(user_metadata)
        loaded = LoadWeightsResponse.from_dict(await send_and_wait(session.transport, load_weights.request(body=body)))
        return AsyncTrainingClient(
            session, loaded.model_id or f"{session.session_id}:train:{number}", base_model or saved.base_model
        )

    async def _begun(self) -> Session:
        transport = self._connected()
        async with self._beginning:
            if self._session is None:
                self._session = await Session.begin(transport, self._user_metadata)
            return self._session
