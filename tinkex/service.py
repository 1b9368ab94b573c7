"""`AsyncServiceClient`: the way in; makes the other clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from tinkex.config import Config, RetrySettings, configured
from tinkex.config.recovery import RecoveryPolicy
from tinkex.dialects.detect import is_missing_route
from tinkex.dialects.dialect import Dialect
from tinkex.errors import (
    APIStatusError,
    ClientClosedError,
    InvalidInputError,
    RequestFailedError,
    UnsupportedByServer,
)
from tinkex.errors.hints import hinted
from tinkex.losses.handle import LossHandle, PerDatumLossFn, Rank
from tinkex.losses.upload import CustomLosses, traced
from tinkex.recovery.run import AsyncRecoverableRun
from tinkex.rest.client import AsyncRestClient
from tinkex.sampling.client import AsyncSamplingClient
from tinkex.session.lifecycle import Outcome
from tinkex.session.session import Session, SessionMetadata
from tinkex.threads import in_thread
from tinkex.training.client import AsyncTrainingClient
from tinkex.training.creation import SavedState, model_from_state, new_model, require_recovery
from tinkex.training.load_probe import probe_loads
from tinkex.training.repeat_probe import probe_repeats
from tinkex.training.unloading import unload_left_behind
from tinkex.transport.transport import Transport
from tinkex.types import GetServerCapabilitiesResponse, LoraConfig, OptimizerConfig
from tinkex.types.number_checks import check_int, check_optional_int

logger = logging.getLogger("tinkex")
C = TypeVar("C")


@hinted
class AsyncServiceClient:
    """A connection to a server, and the session in which its models and samplers live.

    Nothing is sent until it is needed. Leave it as a context manager, or call `close`, to end the
    session.

    Example:
        async with AsyncServiceClient(base_url="http://127.0.0.1:8765") as service:
            trainer = await service.create_lora_training_client("tinkex/tiny", rank=16)

    Args:
        base_url: where the server is; by default `TINKER_BASE_URL`, else the hosted service.
            "local" is an embedded server in this
            process, which the first call starts, and which ends with the process.
        api_key: by default `TINKER_API_KEY`.
        user_metadata: facts of your own, kept with the session, besides those of the settings.
        display_name: a name of the session for people, by which `RestClient.search_sessions` finds
            it. project_id, default_headers, timeout, max_retries: as in `Config`.
        default_headers_overrides: the same as `default_headers`.
        config: all settings; those that are given beside it go before its own.

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
        project_id: str | None = None,
        display_name: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        default_headers_overrides: Mapping[str, str] | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        config: Config | None = None,
    ) -> None:
        headers = (
            default_headers
            if default_headers_overrides is None
            else {**(default_headers or {}), **default_headers_overrides}
        )
        more = {
            "project_id": project_id,
            "default_headers": headers,
            "timeout": timeout,
            "max_retries": max_retries,
        }
        self.config = configured(config, base_url, api_key, more)
        self._facts = SessionMetadata(
            {**self.config.user_metadata, **(user_metadata or {})}, display_name
        )
        self._transport: Transport | None = None
        self._session: Session | None = None
        self._custom_losses = CustomLosses()
        self._beginning = asyncio.Lock()
        self._closed = False

    @property
    def server(self) -> Dialect:
        """What is known of the server's ways; all of it only once a session has begun."""
        return self._connected().server.dialect

    async def create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Mapping[str, str] | None = None,
        optimizer: OptimizerConfig | None = None,
    ) -> AsyncTrainingClient:
        """A new LoRA adapter over `base_model`, ready to be trained.

        Args:
            base_model: one of `get_server_capabilities`.
            rank: the adapter's rank; 0 trains all weights, on servers that can.
            seed: fixes the adapter's initial weights.
            train_mlp, train_attn, train_unembed: which layers to train; at least one.
            user_metadata: facts of your own, kept with the training run.
            optimizer: its kind, for example `OptimizerConfig("dimuon", version=1)`; by default
                AdamW.

        Raises:
            InvalidInputError: rank below 0, or nothing to train.
            BadRequestError, RequestFailedError: the server does not have the model, or not this
                shape.
            APIConnectionError: the server cannot be reached.
        """
        check_int("rank", rank, 0, 2**31 - 1)
        check_optional_int("seed", seed)
        if not (train_mlp or train_attn or train_unembed):
            raise InvalidInputError(
                "there is nothing to train: expected at least one of train_mlp, train_attn, "
                "train_unembed"
            )
        shape = LoraConfig(
            rank=rank,
            seed=seed,
            train_mlp=train_mlp,
            train_attn=train_attn,
            train_unembed=train_unembed,
        )
        return await self._in_session(
            lambda session: new_model(session, base_model, shape, user_metadata, optimizer)
        )

    async def create_training_client_from_state(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        weights_access_token: str | None = None,
        optimizer: OptimizerConfig | None = None,
        *,
        rank: int | None = None,
    ) -> AsyncTrainingClient:
        """A new model with saved weights and a new optimizer.

        Args:
            path: `tinker://…/weights/…`, as `save_state` gave it.
            base_model: by default the one that the weights were trained on.
            rank: the adapter's, as it was created, for a server that does not tell; a session knows
                it of what it saved itself.
            user_metadata: facts of your own, kept with the training run.
            weights_access_token: a right to read weights of others.
            optimizer: its kind, for example `OptimizerConfig("dimuon", version=1)`; by default
                AdamW.

        Raises:
            NotFoundError, BadRequestError, RequestFailedError: there are no such weights, or they
                do not fit.
            UnsupportedByServer: it has no way to make a model from a checkpoint, or none without
                the optimizer's state.
            CheckpointMismatchError: the server holds other weights than those that were saved
                (`Config.verify_checkpoints`).
            APIConnectionError: the server cannot be reached.
        """
        saved = SavedState(
            path=path,
            with_optimizer=False,
            base_model=base_model,
            rank=rank,
            weights_access_token=weights_access_token,
        )
        return await self._in_session(
            lambda session: model_from_state(session, saved, user_metadata, optimizer)
        )

    async def create_training_client_from_state_with_optimizer(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        weights_access_token: str | None = None,
        *,
        rank: int | None = None,
    ) -> AsyncTrainingClient:
        """A new model with saved weights and the state of their optimizer, to go on where
        `save_state` was called.

        Takes and raises what `create_training_client_from_state` does.
        """
        saved = SavedState(
            path=path,
            with_optimizer=True,
            base_model=base_model,
            rank=rank,
            weights_access_token=weights_access_token,
        )
        return await self._in_session(
            lambda session: model_from_state(session, saved, user_metadata, None)
        )

    async def create_sampling_client(
        self,
        model_path: str | None = None,
        base_model: str | None = None,
        retry_config: RetrySettings | None = None,
        record_stability_info: bool = False,
    ) -> AsyncSamplingClient:
        """A client that samples from saved weights, or from a base model.

        Args:
            model_path: where the weights are, in the server's own form: `tinker://…`, on some
                servers another scheme, or a folder.
            base_model: the model to sample; with `model_path` the one below it, whose tokenizer is
                wanted.
            retry_config: when its samples are asked for again, by default `Config.retry`.
            record_stability_info: whether the server is to keep what the loss stable_reinforce
                needs.

        Raises:
            UnsupportedByServer: the server cannot sample these.
            InvalidInputError: neither is given.
            NotFoundError, BadRequestError: the server does not have it.
            APIConnectionError: the server cannot be reached.
        """
        if not (model_path or base_model):
            raise InvalidInputError("create_sampling_client needs model_path or base_model")
        return await self._in_session(
            lambda session: AsyncSamplingClient.open(
                session,
                base_model=base_model,
                model_path=model_path,
                retry_config=retry_config,
                record_stability_info=record_stability_info,
            )
        )

    async def probe_server(self, base_model: str) -> Dialect:
        """Finds out what the server does with a repeated training request, which decides whether
        one whose answer was lost is sent again, and what a load brings back.

        Makes small models for it, takes steps, sends one once more under its numbers, saves twice
        and loads, with the optimizer and without; frees the models and deletes what was saved,
        where the server can. What was found, by its effect on the models, counts for all clients of
        this server in the process: a load that would not be what it says raises
        `UnsupportedByServer`. A server on which this was measured (docs/servers.md), or that says
        it itself, needs no probe; of any other no repeat is believed without one.

        Args:
            base_model: one of `get_server_capabilities`.

        Raises:
            RequestFailedError, APIStatusError: a model could not be made, or not be trained.
            UnsupportedByServer: it lacks a call that the probe needs.
            APIConnectionError: the server cannot be reached.
        """
        session = await self._begun()
        server = session.transport.server
        try:
            server.note_probed(seq_id_repeats=await probe_repeats(session, base_model))
            server.note_probed(**await probe_loads(session, base_model))
        except APIStatusError as error:
            if not is_missing_route(error.status_code, error.body):
                raise
            raise UnsupportedByServer(
                f"this server cannot be probed: it has no {error.operation}",
                server=server.dialect.name,
                operation="probe_server",
                advice="What cannot be trained and saved there needs no probe.",
            ) from error
        return self.server

    async def create_custom_loss(
        self, fn: PerDatumLossFn, input_ranks: Mapping[str, Rank]
    ) -> LossHandle:
        """A loss of your own for `forward_backward_custom`, which the server runs where it can, and
        the training client elsewhere.

        `fn` is called once, without data, and what it does is written down. A function that comes
        to a graph that this client has already gets the handle that was made then, so that a cell
        of a notebook can be run again.

        Example:
            >>> def clipped(logprobs, old_logprobs, advantages):
            ...     ratio = torch.exp(logprobs - old_logprobs)
            ...     loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).sum()
            ...     return loss, {"custom/ratio:mean": ratio.mean()}
            >>> loss_fn = service.create_custom_loss(clipped, {"logprobs": 1, "old_logprobs": 1, "advantages": 1})

        Args:
            fn: `fn(logprobs, *inputs) -> (loss, metrics)` for one datum: `logprobs` are its
                targets', the others its loss inputs of
                those names, 16 in all at most. A scalar, and a dict of scalars named
                `custom/<name>:sum` or `custom/<name>:mean`, which are summed or averaged over the
                datums. Only functions of torch, math and operator; no branch on a tensor.
            input_ranks: the rank of each parameter: 1 or 2 for `logprobs`, 0 to 2 for the others.

        Raises:
            InvalidInputError: `fn` breaks a rule; it says which, and in which line.
            RequestFailedError, BadRequestError: the server does not take it.
            APIConnectionError: the server cannot be reached.
        """
        loss = await in_thread(traced, fn, input_ranks)
        return await self._custom_losses.handle(await self._begun(), loss)

    async def copy_weights(
        self, path: str, *, ttl_seconds: int | None = None, weights_access_token: str | None = None
    ) -> str:
        """The path of a copy of saved weights in this client's project (`Config.project_id`).
        Begins no session.

        Args:
            path: `tinker://…`, of any kind of saved weights.
            ttl_seconds: how long the copy is kept; for ever by default.
            weights_access_token: a right to read weights of others.

        Raises:
            InvalidInputError: no project is configured.
            NotFoundError: there are no such weights, or the server has no such call.
        """
        rest = self.create_rest_client()
        return await rest.copy_weights(
            path, ttl_seconds=ttl_seconds, weights_access_token=weights_access_token
        )

    async def create_recoverable_run(
        self, trainer: AsyncTrainingClient, policy: RecoveryPolicy | None = None
    ) -> AsyncRecoverableRun:
        """A training run that goes on from its last saved state when the server loses the model.

        Saves the model as it is now, so that there is a state to go back to from the beginning.

        Args:
            trainer: the model, made by this service client; from now on used as `run.trainer`.
            policy: when to save, what to recover from, and when to give up; by default
                `Config.recovery`.

        Raises:
            UnsupportedByServer: it has no way to make a model from a checkpoint.
            TinkexError: whatever `save_state` raises.
        """
        transport = self._connected()
        require_recovery(transport.server)
        policy, rest = policy or self.config.recovery, self.create_rest_client()
        return await AsyncRecoverableRun.begin(
            trainer, policy, self._replace, rest, transport.clock
        )

    def create_rest_client(self) -> AsyncRestClient:
        """A client for training runs and checkpoints. Begins no session."""
        return AsyncRestClient.over(self._connected())

    async def get_server_capabilities(self) -> GetServerCapabilitiesResponse:
        """The base models that the server can train and sample. Begins no session."""
        return await self.create_rest_client().get_server_capabilities()

    async def close(self, status: Outcome = "success", detail: str | None = None) -> None:
        """Ends the session, telling the server how it went, and the connections. Later calls raise
        `ClientClosedError`.

        Works from any event loop. Where the one that the client was used on has ended, the session
        has ended with it.
        """
        self._closed = True
        if self._transport is not None:
            await self._transport.shut_down(partial(self._end, self._transport, status, detail))
        self._session = self._transport = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self.close(
                "errored" if isinstance(error, Exception) else "interrupted", type(error).__name__
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.config.base_url}{' closed' if self._closed else ''}>"

    async def _end(self, transport: Transport, outcome: Outcome, detail: str | None) -> None:
        if self._session is not None and not await self._session.lifecycle.finish(outcome, detail):
            await unload_left_behind(self._session, self._session.models)
        await transport.aclose()

    def _connected(self) -> Transport:
        if self._closed:
            raise ClientClosedError("the service client was closed", advice="Make a new one.")
        if self._transport is None:
            self._transport = Transport(self.config)
        return self._transport

    async def _begun(self) -> Session:
        transport = self._connected()
        async with self._beginning:
            if self._session is None or self._session.lifecycle.lost:
                self._session = await Session.begin(
                    transport, self._facts, instead_of=self._session
                )
            return self._session

    async def _in_session(self, create: Callable[[Session], Awaitable[C]]) -> C:
        """What `create` makes in the session; in a new one when it fails since the server does not
        know the session any more.
        """
        session = await self._begun()
        try:
            return await create(session)
        except (APIStatusError, RequestFailedError) as error:
            if not await session.lifecycle.is_lost():
                raise
            logger.warning(
                "session %s was lost, a new one is begun: %s", session.session_id, error.message
            )
        return await create(await self._begun())

    async def _replace(self, trainer: AsyncTrainingClient, path: str) -> AsyncTrainingClient:
        """A model with the state of `path`, in place of one that is given up."""
        await unload_left_behind(await self._begun(), [trainer.model_id])
        return await self.create_training_client_from_state_with_optimizer(path, trainer.base_model)
