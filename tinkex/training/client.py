"""`AsyncTrainingClient`: one model in training."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal, NoReturn

from tinkex_api.api.models import get_info
from tinkex_api.api.training import optim_step
from tinkex_api.models import GetInfoRequest, OptimStepRequest, UntypedAPIFuture
from tinkex_api.types import Request

from tinkex.errors import ArgumentError, InvalidInputError, NotFoundError, UnsupportedByServer
from tinkex.errors.hints import hinted
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.futures.poller import of_fields, wait_for_result
from tinkex.losses.batch_checks import LossName
from tinkex.losses.custom import CustomLoss
from tinkex.losses.handle import LossHandle
from tinkex.session.model_tokenizer import model_tokenizer
from tinkex.session.session import Session
from tinkex.tokenizer import Tokenizer, names_of_tokenizer
from tinkex.training import chunking
from tinkex.training.argument_checks import checked_optimizer
from tinkex.training.run_metrics import add_metrics
from tinkex.training.unloading import unload
from tinkex.training.weights import AsyncModelWeights
from tinkex.types import (
    AdamParams,
    Datum,
    DimuonParams,
    ForwardBackwardOutput,
    GetInfoResponse,
    LoraConfig,
    OptimStepResponse,
    SgdParams,
    TrainStepOutput,
)
from tinkex.waiting.wait import RequestState


@hinted
class AsyncTrainingClient(AsyncModelWeights):
    """One model in training. Made by `AsyncServiceClient.create_lora_training_client`.

    The methods that change the model return a future at once. **Their order is fixed by the order
    of the calls**, whenever they are awaited.

    Call `forward_backward` and `optim_step` before awaiting
    either, and both are under way at the same time.

    Example:
        fb = trainer.forward_backward(data, "cross_entropy")
        step = trainer.optim_step(AdamParams(learning_rate=1e-4))
        loss = (await fb).metrics["loss:sum"]
        await step
    """

    def __init__(self, session: Session, model_id: str, base_model: str, shape: LoraConfig) -> None:
        super().__init__(session, model_id, base_model, shape)
        self._tokenizer: Tokenizer | None = None
        session.models.add(model_id)

    def forward_backward(
        self,
        data: Sequence[Datum],
        loss_fn: LossName,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        """Computes the loss of a batch, and adds its gradients to those that `optim_step` applies.

        A batch over the server's limits is split into several requests, whose results are joined.

        Args:
            data: the batch. Each datum has N input tokens and, in `loss_fn_inputs`, arrays of the
                shape `(N,)`: `target_tokens` (int64), for `"cross_entropy"` also `weights`
                (float32, by default all 1), for the losses of reinforcement learning `logprobs` and
                `advantages` (float32). With K targets a position, `target_tokens` and `weights` are
                `(N, K)`.
            loss_fn: `"cross_entropy"`, `"importance_sampling"`, `"ppo"`, `"cispo"`, `"dro"`,
                `"gspo"`, or another loss that the server has.
            loss_fn_config: the loss's settings, such as `{"clip_low_threshold": 0.8}`.

        Returns:
            A future. Its result's `metrics` holds `loss:sum`, the sum of the loss over the batch
            (for `"cross_entropy"` in nats), and other metrics that the server gives, such as
            `tokens:sum`; each is named `name:reduction`. Its `loss_fn_outputs` holds one mapping
            per datum, in order, with the targets' `logprobs` (float32, of their shape, in nats).

        Raises:
            InvalidInputError: at the call: an empty batch, or a loss input that is missing or
                unknown; or when awaited: a number that was changed in a large batch cannot be sent.
            RequestFailedError: when awaited: the server could not compute it, for example because
                of a token outside its vocabulary.
            StepOutcomeUnknown: when awaited: nobody knows whether it was applied.

        Example:
            fb = trainer.forward_backward(data, "cross_entropy")
            step = trainer.optim_step(AdamParams(learning_rate=1e-4))
            loss = (await fb).metrics["loss:sum"]
            logprobs = (await fb).loss_fn_outputs[0]["logprobs"].to_numpy()
            await step
        """
        return self._batches.run("forward_backward", data, loss_fn, loss_fn_config)

    def forward(
        self,
        data: Sequence[Datum],
        loss_fn: LossName,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        """Computes the loss of a batch without gradients. Takes, returns and raises what
        `forward_backward` does.

        Example:
            scoring = trainer.forward(data, "cross_entropy")
            outputs = (await scoring).loss_fn_outputs
            logprobs = outputs[0]["logprobs"].to_numpy()  # float32 (N,)
        """
        return self._batches.run("forward", data, loss_fn, loss_fn_config)

    def forward_backward_custom(
        self,
        data: Sequence[Datum],
        loss_fn: CustomLoss | LossHandle,
        *,
        loss_type_input: Literal["logprobs"] | None = None,
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        """Computes a loss of your own, and adds its gradients to those that `optim_step` applies.

        A loss that the server has (`create_custom_loss`) is computed there, by one request. Any
        other loss is computed in this process, between a forward pass that gives the targets'
        logprobs and a backward pass that carries the gradient to the weights.

        Args:
            data: the batch, with `target_tokens` of the shape `(N,)` or `(N, K)`. Other loss inputs
                are only for your function.
            loss_fn: `loss_fn(data, logprobs) -> (loss, metrics)` in torch, where `logprobs` is a
                list of float32 tensors, one per datum, of the shape of its `target_tokens`; or a
                `NumpyLoss`, which gives the gradients itself; or what `create_custom_loss`
                returned.
            loss_type_input: the kind of values that the function takes. `"logprobs"` is the only
                one.

        Returns:
            A future. Its result's `metrics` holds `loss:sum`, your loss; `surrogate_loss:sum`, the
            loss of the backward pass on the server, if your loss was computed in this process; the
            server's other metrics; and yours.

        Raises:
            InvalidInputError: at the call: the batch is wrong, or the loss belongs to another
                session; or when awaited: your function returned something wrong.
            RequestFailedError: when awaited: the server could not compute the loss.
            StepOutcomeUnknown: when awaited: nobody knows whether it was applied.

        Example:
            def cross_entropy(data, logprobs):
                weights = [datum.loss_fn_inputs["weights"].to_torch() for datum in data]
                return -sum((w * x).sum() for w, x in zip(weights, logprobs)), {}

            fb = trainer.forward_backward_custom(data, cross_entropy)
            loss = (await fb).metrics["loss:sum"]
        """
        if loss_type_input not in (None, "logprobs"):
            raise InvalidInputError(
                f"loss_type_input must be 'logprobs', found {loss_type_input!r}"
            )
        return self._batches.run_custom(data, loss_fn)

    def optim_step(
        self,
        optim_params: AdamParams | DimuonParams | SgdParams | None = None,
        *,
        adam_params: AdamParams | None = None,
    ) -> AsyncAPIFuture[OptimStepResponse]:
        """Applies the gathered gradients, and clears them.

        Args:
            optim_params: the settings of the optimizer that the model was created with. Only the
                embedded server takes `SgdParams`.
            adam_params: the same as `optim_params`, under its older name.

        Returns:
            A future. Its result's `metrics` holds what the server tells of the step, such as
            `grad_norm`, the L2 norm of the gradients before clipping, and `learning_rate`. Some
            servers tell nothing.

        Raises:
            InvalidInputError: at the call: neither or both arguments are given, or one has another
                type or a number out of range.
            StepOutcomeUnknown: when awaited: nobody knows whether it was applied.

        Example:
            fb = trainer.forward_backward(data, "cross_entropy")
            step = trainer.optim_step(AdamParams(learning_rate=1e-4, weight_decay=0.01))
            await fb
            metrics = (await step).metrics
        """
        params = _one_of(optim_params, adam_params)
        server = self._transport.server
        if self._batches.unapplied_gradients > 1 and not server.dialect.splits_batches:
            server.warn_once(chunking.NOT_SUMMED)
        self._batches.unapplied_gradients = 0

        def build(seq_id: int) -> Request[UntypedAPIFuture]:
            body = OptimStepRequest(self.model_id, seq_id)
            match params:
                case AdamParams():
                    body.adam_params = params
                case DimuonParams():
                    body.optimizer_params = params
                case SgdParams():
                    body.sgd_params = params
            return optim_step.request(body=body)

        return self._run("optim_step", build, OptimStepResponse.from_dict)

    def train_step(
        self,
        data: Sequence[Datum],
        loss_fn: LossName,
        optim_params: AdamParams | DimuonParams | SgdParams,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> AsyncAPIFuture[TrainStepOutput]:
        """Calls `forward_backward` and `optim_step`, and returns one future of both results.

        Takes and raises what they do. The result has theirs as `forward_backward` and `optim_step`.

        Example:
            adam = AdamParams(learning_rate=1e-4)
            step = trainer.train_step(data, "cross_entropy", adam)
            loss = (await step).forward_backward.metrics["loss:sum"]
        """
        params = _one_of(optim_params, None)
        gradients = self.forward_backward(data, loss_fn, loss_fn_config)
        update = self.optim_step(params)

        async def both() -> TrainStepOutput:
            # the future of both gives their errors to the user
            gradients.error_retrieved = update.error_retrieved = True
            await asyncio.wait([gradients.task, update.task])
            # the error of the first one causes that of the second one, whichever comes first
            return TrainStepOutput(gradients.task.result(), update.task.result())

        return AsyncAPIFuture(both(), gradients.state, self._session.failures)

    async def unload_model(self) -> None:
        """Frees the model on the server, after the calls made before. Its checkpoints stay.

        Raises:
            UnsupportedByServer, NotFoundError: this server has no such call, for example the hosted
                one.

        Example:
            spare = await service.create_lora_training_client("Qwen/Qwen3-8B", rank=4)
            await spare.unload_model()
        """
        async with self._queue.turn("unload_model"):
            request_id = await unload(self._transport, self.model_id)
        if request_id is not None:
            await wait_for_result(
                self._transport, RequestState("unload_model", request_id), of_fields(dict)
            )
        self._session.models.discard(self.model_id)

    async def add_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> int:
        """Adds values that this program computes, such as a reward, to a step of the run, for its
        page on the server. Returns the number of the step.

        Only the embedded server keeps them: `service.server.keeps_metrics` says so.

        Args:
            metrics: 1 to 32 finite numbers by name; not `step`, `loss` or `at`.
            step: the number of the step, from 1: how many times `optim_step` was called. By default
                the newest that the server has begun. The number after the newest makes a step that
                trains nothing, for one in which there was nothing to learn.

        Raises:
            UnsupportedByServer: the server is not known to keep metrics.
            InvalidInputError, UnprocessableEntityError: a value is no finite number, or a name is
                taken.
            BadRequestError: there is no such step.
            NotFoundError: the server does not have the run.

        Example:
            trainer.forward_backward(data, "cross_entropy")
            step = trainer.optim_step(AdamParams(learning_rate=1e-4))
            await step
            if service.server.keeps_metrics:
                await trainer.add_metrics({"reward": 0.7})
        """
        return await add_metrics(self._transport, self.model_id, metrics, step)

    async def get_info(self) -> GetInfoResponse:
        """Returns what the server tells of the model: its base model, LoRA rank and tokenizer.

        Example:
            info = await trainer.get_info()
            print(info.model_data.model_name, info.lora_rank)
        """
        return await self._transport.send(get_info.request(body=GetInfoRequest(self.model_id)))

    async def get_tokenizer(self) -> Tokenizer:
        """Returns the model's tokenizer. Raises `TokenizerError` when it cannot be found.

        Example:
            tokenizer = await trainer.get_tokenizer()
            tokens = tokenizer.encode("two = 2")
        """
        if self._tokenizer is None:
            self._tokenizer = await model_tokenizer(
                self._transport, self.base_model, await self._tokenizer_names()
            )
        return self._tokenizer

    async def _tokenizer_names(self) -> Sequence[str]:
        """Returns the names under which to look for the tokenizer: those that the server tells,
        else the base model's.
        """
        try:
            info = await self.get_info()
        except (UnsupportedByServer, NotFoundError):
            return names_of_tokenizer(None, [self.base_model])
        data = info.model_data
        return names_of_tokenizer(
            data.tokenizer_id, [data.model_name, info.model_name, self.base_model]
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a training client cannot be pickled: one process keeps the order of its steps. Make "
            "one in the other process from a saved state, by "
            "create_training_client_from_state_with_optimizer(path)"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model_id} over {self.base_model}>"


def _one_of(optim_params: object, adam_params: object) -> AdamParams | DimuonParams | SgdParams:
    if optim_params is not None and adam_params is not None:
        raise InvalidInputError("optim_params and adam_params are the same; give one of them")
    params = optim_params if optim_params is not None else adam_params
    if not isinstance(params, (AdamParams, DimuonParams, SgdParams)):
        raise ArgumentError(
            f"optim_params is {type(params).__name__}, not AdamParams, DimuonParams or SgdParams"
        )
    return checked_optimizer(params)
