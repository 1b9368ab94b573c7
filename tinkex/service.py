"""`AsyncServiceClient`: the entry point, which creates the other clients.

Its methods import what they need themselves, so that a program imports only what it uses.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar

from tinkex.config import Config, configured
from tinkex.errors import (
    APIStatusError,
    ClientClosedError,
    InvalidInputError,
    RequestFailedError,
    UnsupportedByServer,
)
from tinkex.errors.hints import hinted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from tinkex.config import RetrySettings
    from tinkex.config.recovery import RecoveryPolicy
    from tinkex.dialects.dialect import Dialect
    from tinkex.losses.handle import LossHandle, PerDatumLossFn, Rank
    from tinkex.losses.upload import CustomLosses
    from tinkex.recovery.run import AsyncRecoverableRun
    from tinkex.rest.client import AsyncRestClient
    from tinkex.sampling.client import AsyncSamplingClient
    from tinkex.session.lifecycle import Outcome
    from tinkex.session.session import Session
    from tinkex.training.client import AsyncTrainingClient
    from tinkex.transport.transport import Transport
    from tinkex.types import GetServerCapabilitiesResponse, OptimizerConfig

logger = logging.getLogger("tinkex")
C = TypeVar("C")


@hinted
class AsyncServiceClient:
    """A connection to a server, and the session in which its models and samplers live.

    The client connects when a call needs it to. To end the session, use the client as a context
    manager, or call `close`.

    Example:
        async with AsyncServiceClient(base_url="http://127.0.0.1:8765") as service:
            trainer = await service.create_lora_training_client("tinkex/tiny", rank=16)
            losses = trainer.forward_backward(data, "cross_entropy")
            update = trainer.optim_step(AdamParams(learning_rate=1e-4))
            print((await losses).metrics["loss:sum"])
            sampler = await trainer.save_weights_and_get_sampling_client()

    Args:
        base_url: the URL of the server; by default `TINKER_BASE_URL`, else the hosted service.
            "local" is an embedded server in this process, which the first call starts and which
            ends with the process.
        api_key: an API key, or a function that returns one; by default `TINKER_API_KEY`.
        user_metadata: metadata of your own, kept with the session in addition to that of `Config`.
        project_id: as in `Config`.
        display_name: a name for people, by which `RestClient.search_sessions` finds the session.
        default_headers: as in `Config`.
        default_headers_overrides: headers that take precedence over `default_headers`.
        timeout: as in `Config`, in seconds.
        max_retries: as in `Config`.
        config: all settings; the other arguments take precedence over it.

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
        self._user_metadata = {**self.config.user_metadata, **(user_metadata or {})}
        self._display_name = display_name
        self._transport: Transport | None = None
        self._session: Session | None = None
        self._custom_losses: CustomLosses | None = None
        self._beginning = asyncio.Lock()
        self._closed = False

    @property
    def server(self) -> Dialect:
        """The dialect of the server, as far as it is known.

        It is complete only after the first call that needs a session.

        Raises:
            ClientClosedError: the client was closed.
        """
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
        """Creates a LoRA adapter on `base_model` and returns a client that trains it.

        Args:
            base_model: the name of a model that `get_server_capabilities` lists.
            rank: the rank of the adapter, 0 or more; 0 trains all weights, if the server supports
                it.
            seed: a seed for the initial weights of the adapter; by default the server chooses one.
            train_mlp, train_attn, train_unembed: the layers to train; at least one is required.
            user_metadata: metadata of your own, kept with the training run.
            optimizer: the kind of optimizer, for example `OptimizerConfig("dimuon", version=1)`; by
                default AdamW.

        Raises:
            InvalidInputError: the rank is below 0, or there are no layers to train.
            BadRequestError, RequestFailedError: the server does not have the model, or does not
                support this adapter.
            APIConnectionError: the server cannot be reached.

        Example:
            trainer = await service.create_lora_training_client("Qwen/Qwen3-8B", rank=8, seed=7)
            fb = trainer.forward_backward(data, "cross_entropy")
            loss = (await fb).metrics["loss:sum"]
        """
        from tinkex.training.creation import new_model
        from tinkex.types import LoraConfig
        from tinkex.types.number_checks import check_int, check_optional_int

        check_int("rank", rank, 0, 2**31 - 1)
        check_optional_int("seed", seed)
        if not (train_mlp or train_attn or train_unembed):
            raise InvalidInputError(
                "there is nothing to train: at least one of train_mlp, train_attn and "
                "train_unembed must be true"
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
        """Creates a model with saved weights and a new optimizer.

        Args:
            path: a path `tinker://…/weights/…`, as `save_state` returns it.
            base_model: the name of the base model; by default the one that the weights were trained
                on.
            user_metadata: metadata of your own, kept with the training run.
            weights_access_token: a token that permits reading the weights of another account.
            optimizer: the kind of optimizer, for example `OptimizerConfig("dimuon", version=1)`; by
                default AdamW.
            rank: the rank of the saved adapter. It is needed only if the server does not report it
                and this session did not save the weights itself.

        Raises:
            NotFoundError, BadRequestError, RequestFailedError: the weights do not exist, or do not
                fit the model.
            UnsupportedByServer: the server cannot create a model from a checkpoint, or only with
                the optimizer's state.
            CheckpointMismatchError: the model has other weights than those that were saved (see
                `Config.verify_checkpoints`).
            APIConnectionError: the server cannot be reached.

        Example:
            saving = trainer.save_state("fine-tuned")
            path = (await saving).path
            trainer = await service.create_training_client_from_state(path)
        """
        from tinkex.training.creation import SavedState, model_from_state

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
        """Creates a model with saved weights and the saved state of their optimizer.

        Training continues from the point at which `save_state` was called. Arguments and errors are
        those of `create_training_client_from_state`.

        Example:
            saving = trainer.save_state("step-100")
            path = (await saving).path
            trainer = await service.create_training_client_from_state_with_optimizer(path)
        """
        from tinkex.training.creation import SavedState, model_from_state

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
        """Creates a client that samples from saved weights or from a base model.

        Args:
            model_path: the path of saved weights: `tinker://…`, or on some servers another scheme
                or a folder.
            base_model: the name of the model to sample from. Together with `model_path`, the base
                model of these weights, whose tokenizer the client uses.
            retry_config: when failed sampling requests are retried; by default `Config.retry`.
            record_stability_info: whether the server keeps the data that the loss function
                stable_reinforce needs.

        Raises:
            InvalidInputError: neither `model_path` nor `base_model` is given.
            UnsupportedByServer: the server cannot sample from these weights.
            NotFoundError, BadRequestError: the server does not have the weights or the model.
            APIConnectionError: the server cannot be reached.

        Example:
            saving = trainer.save_weights_for_sampler("fine-tuned")
            path = (await saving).path
            sampler = await service.create_sampling_client(model_path=path)
            base = await service.create_sampling_client(base_model="Qwen/Qwen3-8B")
        """
        from tinkex.sampling.client import AsyncSamplingClient

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
        """Measures how the server treats repeated training requests, and what a load restores.

        The probe creates small models, trains them, repeats a request with the same sequence
        numbers, saves twice, and loads with and without the optimizer's state. It then unloads the
        models and deletes the checkpoints, if the server allows it.

        The findings apply to all clients of this server in the process. A client repeats a training
        request whose answer was lost only if the server is known to apply it once. A load that
        would not restore what it promises raises `UnsupportedByServer`. A server in
        docs/servers.md, or one that describes its behaviour itself, needs no probe.

        Args:
            base_model: the name of a model that `get_server_capabilities` lists.

        Raises:
            RequestFailedError, APIStatusError: a model could not be created or trained.
            UnsupportedByServer: the server lacks a call that the probe needs.
            APIConnectionError: the server cannot be reached.

        Example:
            dialect = await service.probe_server("Qwen/Qwen3-8B")
            print(dialect)
        """
        from tinkex.dialects.detect import is_missing_route
        from tinkex.training.load_probe import probe_loads
        from tinkex.training.repeat_probe import probe_repeats

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
                advice="Only servers that can train and save models need a probe.",
            ) from error
        return self.server

    async def create_custom_loss(
        self, fn: PerDatumLossFn, input_ranks: Mapping[str, Rank]
    ) -> LossHandle:
        """Returns a loss function of your own for `forward_backward_custom`.

        The server runs the function if it can; otherwise the training client does. `fn` is called
        once, without data, to trace its operations. A function whose graph is already known to this
        client gets the existing handle, so that a notebook cell can be run again.

        Example:
            >>> def clipped(logprobs, old_logprobs, advantages):
            ...     ratio = torch.exp(logprobs - old_logprobs)
            ...     gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            ...     return -gain.sum(), {"custom/ratio:mean": ratio.mean()}
            >>> ranks = {"logprobs": 1, "old_logprobs": 1, "advantages": 1}
            >>> loss_fn = service.create_custom_loss(clipped, ranks)

        Args:
            fn: a function `fn(logprobs, *inputs) -> (loss, metrics)` of one datum. `logprobs` are
                those of the datum's targets; the other parameters, at most 16 in all, are its loss
                inputs of the same names. The loss is a scalar. The metrics are a dict of scalars
                named `custom/<name>:sum` or `custom/<name>:mean`, which are summed or averaged over
                the datums. The function may use only torch, math and operator, and must not branch
                on a tensor.
            input_ranks: the rank of each parameter's tensor: 1 or 2 for `logprobs`, 0 to 2 for the
                others.

        Raises:
            InvalidInputError: `fn` breaks one of these rules; the message names the rule and the
                line.
            RequestFailedError, BadRequestError: the server rejects the function.
            APIConnectionError: the server cannot be reached.
        """
        from tinkex.losses.upload import CustomLosses, traced
        from tinkex.threads import in_thread

        loss = await in_thread(traced, fn, input_ranks)
        if self._custom_losses is None:
            self._custom_losses = CustomLosses()
        return await self._custom_losses.handle(await self._begun(), loss)

    async def copy_weights(
        self, path: str, *, ttl_seconds: int | None = None, weights_access_token: str | None = None
    ) -> str:
        """Copies saved weights to this client's project and returns the path of the copy.

        The project is `Config.project_id`. This call does not begin a session.

        Args:
            path: a path `tinker://…` of saved weights of any kind.
            ttl_seconds: the lifetime of the copy in seconds; by default it does not expire.
            weights_access_token: a token that permits reading the weights of another account.

        Raises:
            InvalidInputError: no project is configured.
            NotFoundError: the weights do not exist, or the server does not offer this call.
            APIConnectionError: the server cannot be reached.
        """
        rest = self.create_rest_client()
        return await rest.copy_weights(
            path, ttl_seconds=ttl_seconds, weights_access_token=weights_access_token
        )

    async def create_recoverable_run(
        self, trainer: AsyncTrainingClient, policy: RecoveryPolicy | None = None
    ) -> AsyncRecoverableRun:
        """Returns a training run that continues from its last saved state if the server loses the
        model.

        The call saves the model first, so that the run can recover from the beginning.

        Args:
            trainer: a training client that this service client created. Afterwards, use
                `run.trainer` in its place.
            policy: when to save, what to recover from, and when to give up; by default
                `Config.recovery`.

        Raises:
            UnsupportedByServer: the server cannot create a model from a checkpoint.
            TinkexError: `save_state` failed.

        Example:
            policy = RecoveryPolicy(save_every_steps=20)
            run = await service.create_recoverable_run(trainer, policy=policy)
            sampler = await run.trainer.save_weights_and_get_sampling_client()
        """
        from tinkex.recovery.run import AsyncRecoverableRun
        from tinkex.training.creation import require_recovery

        transport = self._connected()
        require_recovery(transport.server)
        policy, rest = policy or self.config.recovery, self.create_rest_client()
        return await AsyncRecoverableRun.begin(
            trainer,
            policy,
            self._replace,
            rest,
            transport.clock,
            reports_state_loss=transport.server.dialect.reports_state_loss,
        )

    def create_rest_client(self) -> AsyncRestClient:
        """Returns a client for sessions, training runs and checkpoints. This begins no session.

        Raises:
            ClientClosedError: the client was closed.

        Example:
            rest = service.create_rest_client()
            page = await rest.list_training_runs(limit=5)
        """
        from tinkex.rest.client import AsyncRestClient

        return AsyncRestClient.over(self._connected())

    async def get_server_capabilities(self) -> GetServerCapabilitiesResponse:
        """Returns the base models that the server can train and sample. This begins no session.

        Raises:
            AuthenticationError: the server rejects the API key.
            APIConnectionError: the server cannot be reached.

        Example:
            capabilities = await service.get_server_capabilities()
            print([model.model_name for model in capabilities.supported_models])
        """
        return await self.create_rest_client().get_server_capabilities()

    async def close(self, status: Outcome = "success", detail: str | None = None) -> None:
        """Ends the session and closes the connections. Later calls raise `ClientClosedError`.

        The call works from any event loop. If the loop on which the client was used has ended, the
        session has ended with it.

        Args:
            status: the outcome that is reported to the server.
            detail: a reason for the outcome, such as the name of an error.

        Example:
            service = AsyncServiceClient(base_url="http://127.0.0.1:8765")
            trainer = await service.create_lora_training_client("Qwen/Qwen3-8B")
            await service.close("interrupted", "the machine is needed")
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

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a service client cannot be pickled: its connections belong to this process. Make one "
            "in the process that uses it; a sampling client can be passed to another"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.config.base_url}{' closed' if self._closed else ''}>"

    async def _end(self, transport: Transport, outcome: Outcome, detail: str | None) -> None:
        if self._session is not None and not await self._session.lifecycle.finish(outcome, detail):
            from tinkex.training.unloading import unload_left_behind

            await unload_left_behind(self._session, self._session.models)
        await transport.aclose()

    def _connected(self) -> Transport:
        if self._closed:
            raise ClientClosedError(
                "the service client was closed", advice="Create a new service client."
            )
        if self._transport is None:
            from tinkex.transport.transport import Transport

            self._transport = Transport(self.config)
        return self._transport

    async def _begun(self) -> Session:
        from tinkex.session.session import Session, SessionMetadata

        transport = self._connected()
        async with self._beginning:
            if self._session is None or self._session.lifecycle.lost:
                metadata = SessionMetadata(self._user_metadata, self._display_name)
                self._session = await Session.begin(transport, metadata, instead_of=self._session)
            return self._session

    async def _in_session(self, create: Callable[[Session], Awaitable[C]]) -> C:
        """Calls `create` in the session, and once more in a new session if the server has lost the
        first.
        """
        session = await self._begun()
        try:
            return await create(session)
        except (APIStatusError, RequestFailedError) as error:
            if not await session.lifecycle.is_lost():
                raise
            logger.warning(
                "the server lost session %s; beginning a new session: %s",
                session.session_id,
                error.message,
            )
        return await create(await self._begun())

    async def _replace(self, trainer: AsyncTrainingClient, path: str) -> AsyncTrainingClient:
        """Returns a model with the state at `path`, and unloads the model that it replaces."""
        from tinkex.training.unloading import unload_left_behind

        await unload_left_behind(await self._begun(), [trainer.model_id])
        return await self.create_training_client_from_state_with_optimizer(path, trainer.base_model)
