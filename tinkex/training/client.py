"""`AsyncTrainingClient`: one model in training."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, TypeVar

from tinkex_api.api.models import get_info
from tinkex_api.api.training import optim_step
from tinkex_api.api.weights import (
    load_weights,
    save_weights,
    save_weights_external,
    save_weights_for_sampler,
)
from tinkex_api.models import (
    GetInfoRequest,
    LoadWeightsRequest,
    OptimStepRequest,
    SaveWeightsExternalRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
    UntypedAPIFuture,
)
from tinkex_api.types import Request

from tinkex.config import RetrySettings, as_retry_settings
from tinkex.errors import InvalidInputError, NotFoundError, UnsupportedByServer
from tinkex.errors.hints import hinted
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.futures.poller import RequestState, of_fields, wait_for_result
from tinkex.losses import custom
from tinkex.losses.batch_checks import LossName, as_batch, check_batch, checked_settings
from tinkex.losses.custom import CustomLoss
from tinkex.losses.handle import LossHandle, chosen_inputs, run_here
from tinkex.losses.named import (
    check_loss,
    made_up_forward,
    warn_of_mask,
    weighted,
    with_cross_entropy,
    without_padding,
)
from tinkex.sampling.client import AsyncSamplingClient
from tinkex.session.model_tokenizer import model_tokenizer
from tinkex.session.session import Session
from tinkex.tokenizer import Tokenizer, names_of_tokenizer
from tinkex.training import chunking, metrics
from tinkex.training.argument_checks import (
    SamplerKind,
    check_inflight,
    check_kind,
    check_load,
    check_name,
    check_save,
    checked_optimizer,
    late_load_advice,
)
from tinkex.training.batch_requests import batch_bodies, read_batch
from tinkex.training.encoded_requests import BodiesByEncoding, BuildRequest
from tinkex.training.fingerprint import Fingerprints
from tinkex.training.submission_queue import SubmissionQueue
from tinkex.training.unloading import unload
from tinkex.transport.answers import required_text
from tinkex.types import (
    AdamParams,
    Datum,
    DimuonParams,
    ForwardBackwardOutput,
    GetInfoResponse,
    LoadWeightsResponse,
    LoraConfig,
    OptimStepResponse,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
    SgdParams,
    TrainStepOutput,
)
from tinkex.types.number_checks import check_optional_int
from tinkex.wire import json

T = TypeVar("T")


@hinted
class AsyncTrainingClient:
    """One model in training. Made by `AsyncServiceClient.create_lora_training_client`.

    The methods that change the model return at once; **their order is fixed by the order of the
    calls**, whenever they are awaited. Call `forward_backward` and `optim_step` before awaiting
    either, and both are under way together:

        fb = client.forward_backward(batch, "cross_entropy")
        step = client.optim_step(AdamParams(learning_rate=1e-4))
        loss = (await fb).metrics["loss:sum"]
        await step
    """

    model_id: str
    """The server's name for the model, and for its training run."""
    base_model: str

    def __init__(self, session: Session, model_id: str, base_model: str, shape: LoraConfig) -> None:
        self.model_id = model_id
        self.base_model = base_model
        self._shape = shape
        self._session = session
        self._transport = session.transport
        self._line = SubmissionQueue(session)
        self._tokenizer: Tokenizer | None = None
        self._saves = 0
        self._gradients = 0
        """Batches whose gradients no step has applied yet."""
        self.fingerprints = Fingerprints(session, model_id, self._line)
        session.models.add(model_id)

    def forward_backward(
        self,
        data: Sequence[Datum],
        loss_fn: LossName,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        """Computes the loss of a batch and adds its gradients to the model's, until `optim_step`
        applies them.

        A batch over the server's limits is split into several requests, and the results are put
        together again.

        Args:
            data: the batch.
            loss_fn: `"cross_entropy"`, `"importance_sampling"`, `"ppo"`, `"cispo"`, `"dro"`,
                `"gspo"`, or another that the server has.
            loss_fn_config: the loss's settings, for example `{"clip_low_threshold": 0.8}`.

        Raises:
            InvalidInputError: at the call: an empty batch, or a loss input that is missing or
                unknown.
            RequestFailedError: when awaited: the server could not do it, for example for a token
                out of its vocabulary.
            StepOutcomeUnknown: when awaited: nobody knows whether it was applied.
        """
        return self._run_batch("forward_backward", data, loss_fn, loss_fn_config)

    def forward(
        self,
        data: Sequence[Datum],
        loss_fn: LossName,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        """Computes what `forward_backward` does, and no gradients. Takes and raises the same."""
        return self._run_batch("forward", data, loss_fn, loss_fn_config)

    def forward_backward_custom(
        self,
        data: Sequence[Datum],
        loss_fn: CustomLoss | LossHandle,
        *,
        loss_type_input: Literal["logprobs"] | None = None,
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        """Computes a loss of your own, and adds its gradients to the model's on the server.

        A loss that the server has (`create_custom_loss`) is computed there, by one request. Any
        other is computed here: one forward pass gives the logprobs of the targets; your function
        makes the loss of them; one backward pass brings its gradient to the weights
        (`tinkex.losses.custom`). `loss:sum` of the result is your loss, `surrogate_loss:sum` the
        server's.

        Args:
            data: the batch, with `target_tokens`; other loss inputs are for your function alone.
            loss_fn: `loss_fn(data, logprobs) -> (loss, metrics)` in torch, or a `NumpyLoss`, which
                gives the gradients itself, or what
                `create_custom_loss` made.
            loss_type_input: what the function is given: "logprobs", which is all there is.

        Raises:
            InvalidInputError: at the call: the batch is wrong, or the loss is another session's; or
                when awaited: what your
                function returned is.
            RequestFailedError: when awaited: the server could not compute the loss.
            StepOutcomeUnknown: when awaited: nobody knows whether it was applied.
        """
        if loss_type_input not in (None, "logprobs"):
            raise InvalidInputError(
                f"loss_type_input must be 'logprobs', found {loss_type_input!r}"
            )
        data = as_batch(data)
        if isinstance(loss_fn, LossHandle):
            data = chosen_inputs(loss_fn, data)
            if loss_fn.loss_id is not None:
                return self._run_uploaded(loss_fn, loss_fn.loss_id, data)
            loss_fn = run_here(loss_fn)
        return self._run_custom(data, loss_fn)

    def optim_step(
        self,
        optim_params: AdamParams | DimuonParams | SgdParams | None = None,
        *,
        adam_params: AdamParams | None = None,
    ) -> AsyncAPIFuture[OptimStepResponse]:
        """Applies the gathered gradients, and clears them.

        Args:
            optim_params: of the optimizer that the model was created with. `SgdParams` are for the
                embedded server alone.
            adam_params: the same by the name that older programs use.

        Raises:
            InvalidInputError: at the call: neither or both are given, or another thing.
            StepOutcomeUnknown: when awaited: nobody knows whether it was applied.
        """
        params = _one_of(optim_params, adam_params)
        if self._gradients > 1 and not self._transport.server.dialect.splits_batches:
            self._transport.server.warn_once(chunking.NOT_SUMMED)
        self._gradients = 0

        def submit(seq_id: int) -> Request[UntypedAPIFuture]:
            body = OptimStepRequest(self.model_id, seq_id)
            match params:
                case AdamParams():
                    body.adam_params = params
                case DimuonParams():
                    body.optimizer_params = params
                case SgdParams():
                    body.sgd_params = params
            return optim_step.request(body=body)

        return self._run("optim_step", submit, OptimStepResponse.from_dict)

    def train_step(
        self,
        data: Sequence[Datum],
        loss_fn: LossName,
        optim_params: AdamParams | DimuonParams | SgdParams,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> AsyncAPIFuture[TrainStepOutput]:
        """`forward_backward` and `optim_step`, both sent before either is waited for. Takes and
        raises what they do.
        """
        params = _one_of(optim_params, None)
        gradients = self.forward_backward(data, loss_fn, loss_fn_config)
        update = self.optim_step(params)

        async def both() -> TrainStepOutput:
            # by this future, which gives their errors to the user
            gradients.error_retrieved = update.error_retrieved = True
            await asyncio.wait([gradients.task, update.task])
            # the first one's error is the cause of the second one's, whichever of them comes first
            return TrainStepOutput(gradients.task.result(), update.task.result())

        return AsyncAPIFuture(both(), gradients.state, self._session.failures)

    def save_state(
        self,
        name: str,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: Mapping[str, str] | None = None,
    ) -> AsyncAPIFuture[SaveWeightsResponse]:
        """Saves the weights and the optimizer's state as they are after the calls so far, to go on
        training from the result's `path`.

        Gradients that no `optim_step` has applied yet are not saved.

        Args:
            name: letters, digits, `-`, `_` and `.`; no `/`.
            ttl_seconds: how long it is kept; for ever by default.
            overwrite: whether a checkpoint of that name may be replaced.
            user_metadata: facts of your own, kept with it.

        Raises:
            InvalidInputError: at the call: the name is empty or holds a `/`.
            UnsupportedByServer: at the call: the server would keep an earlier state in the place of
                this one.
            RequestFailedError: when awaited: the name is in use.
        """
        check_name(name)
        check_save(self._transport.server.dialect, self._saves)
        self._saves += 1
        check_optional_int("ttl_seconds", ttl_seconds, 0)
        metadata = json.encode_metadata(user_metadata)

        def submit(seq_id: int) -> Request[UntypedAPIFuture]:
            body = SaveWeightsRequest(
                self.model_id, name, seq_id, overwrite=overwrite or None, ttl_seconds=ttl_seconds
            )
            body.user_metadata = metadata
            if self._transport.server.dialect.asks_to_save_optimizer:
                body.additional_properties["include_optimizer"] = True
            return save_weights.request(body=body)

        def parse(result: Mapping[str, object]) -> SaveWeightsResponse:
            required_text(result, "path")
            saved = SaveWeightsResponse.from_dict(result)
            self._session.saved_shapes[saved.path] = (self.base_model, self._shape)
            self._transport.server.saw_path(saved.path)
            return saved

        save = self._run("save_weights", submit, parse)
        self.fingerprints.follow(save, gradients_wait=self._gradients > 0)
        return save

    def load_state(
        self, path: str, weights_access_token: str | None = None
    ) -> AsyncAPIFuture[LoadWeightsResponse]:
        """Loads saved weights into this model, and begins its optimizer anew.

        Several servers load only as a model's first request;
        `AsyncServiceClient.create_training_client_from_state` works everywhere. Calls made before
        the load is there are sent when it is, and skipped when it failed.

        Args:
            path: `tinker://…/weights/…`, as `save_state` gave it.
            weights_access_token: a right to read weights of others.

        Raises:
            UnsupportedByServer: at the call: the server would take over the optimizer's state as
                well.
            RequestFailedError, APIStatusError: when awaited: there are no such weights,
                or they do not fit.
            CheckpointMismatchError: when awaited: the server holds other weights than those that
                were saved (`Config.verify_checkpoints`).
        """
        return self._load(path, weights_access_token, optimizer=False)

    def load_state_with_optimizer(
        self, path: str, weights_access_token: str | None = None
    ) -> AsyncAPIFuture[LoadWeightsResponse]:
        """Loads saved weights with the optimizer's state. Takes and raises what `load_state`
        does.
        """
        return self._load(path, weights_access_token, optimizer=True)

    def save_weights_for_sampler(
        self,
        name: str | None = None,
        ttl_seconds: int | None = None,
        user_metadata: Mapping[str, str] | None = None,
        *,
        path: str | None = None,
        sampling_session_seq_id: int | None = None,
    ) -> AsyncAPIFuture[SaveWeightsForSamplerResponse]:
        """Saves the weights as they are after the calls so far; the result's `path` can be sampled
        from.

        Args:
            name: letters, digits, `-`, `_` and `.`; no `/`.
            ttl_seconds: how long they are kept; for ever by default.
            user_metadata: facts of your own, kept with them.
            path: the same as `name`, by the name that it has on the wire.
            sampling_session_seq_id: in place of a name: opens a sampling session of this number on
                weights that last as long as it
                does; the result has its `sampling_session_id`. A number is used once in a session
                of a service client.

        Raises:
            InvalidInputError: at the call: the name is empty or holds a `/`, or not one of the
                three is given.
        """
        if [name, path, sampling_session_seq_id].count(None) != 2:
            raise InvalidInputError(
                "give one of name, path (which is the same) and sampling_session_seq_id"
            )
        if sampling_session_seq_id is None:
            check_name(name or path or "")
        check_optional_int("sampling_session_seq_id", sampling_session_seq_id)
        check_optional_int("ttl_seconds", ttl_seconds, 0)
        metadata = json.encode_metadata(user_metadata)

        def submit(seq_id: int) -> Request[UntypedAPIFuture]:
            body = SaveWeightsForSamplerRequest(
                self.model_id, seq_id, path=name or path, ttl_seconds=ttl_seconds
            )
            body.sampling_session_seq_id = sampling_session_seq_id
            body.user_metadata = metadata
            return save_weights_for_sampler.request(body=body)

        return self._run("save_weights_for_sampler", submit, self._saved_for_sampler)

    def save_weights_external(
        self,
        name: str,
        ttl_seconds: int | None = None,
        age_encryption_recipients: Sequence[str] | None = None,
    ) -> AsyncAPIFuture[SaveWeightsExternalResponse]:
        """Saves the weights as files to be fetched.

        Args:
            name: letters, digits, `-`, `_` and `.`; no `/`.
            ttl_seconds: how long they are kept; for ever by default.
            age_encryption_recipients: public keys of age to encrypt the files for.

        Raises:
            InvalidInputError: at the call: the name is empty or holds a `/`.
            NotFoundError: when awaited: this server has no such call.
        """
        check_name(name)
        check_optional_int("ttl_seconds", ttl_seconds, 0)
        recipients = list(age_encryption_recipients) if age_encryption_recipients else None

        def submit(seq_id: int) -> Request[UntypedAPIFuture]:
            body = SaveWeightsExternalRequest(self.model_id, name, seq_id, ttl_seconds=ttl_seconds)
            body.age_encryption_recipients = recipients
            return save_weights_external.request(body=body)

        def parse(result: Mapping[str, object]) -> SaveWeightsExternalResponse:
            required_text(result, "path")
            return SaveWeightsExternalResponse.from_dict(result)

        return self._run("save_weights_external", submit, parse)

    async def save_weights_and_get_sampling_client(
        self,
        name: str | None = None,
        retry_config: RetrySettings | None = None,
        record_stability_info: bool = False,
        kind: SamplerKind = "snapshot",
    ) -> AsyncSamplingClient:
        """A client that samples from the weights as they are after the calls so far; later steps do
        not change them.

        Args:
            name: without effect, since these weights last as long as the session;
                `save_weights_for_sampler` gives them a name.
            retry_config: when its samples are asked for again, by default `Config.retry`.
            record_stability_info: whether the server is to keep what the loss stable_reinforce
                needs.
            kind: `"snapshot"` for weights that stay as they are. `"inflight"` for weights that all
                inflight clients of this model
                share: each such save puts newer ones in their place, for these clients and the one
                    that it gives.

        Raises:
            InvalidInputError: at the call: an unknown kind.
            UnsupportedByServer: the server does not have that kind.
        """
        retry_config = as_retry_settings(retry_config)
        check_kind(kind)
        check_inflight(self._transport.server.dialect, kind)
        number = next(self._session.sampler_numbers)

        def submit(seq_id: int) -> Request[UntypedAPIFuture]:
            body = SaveWeightsForSamplerRequest(
                self.model_id, seq_id, sampling_session_seq_id=number
            )
            body.kind = None if kind == "snapshot" else kind  # older servers do not know the field
            return save_weights_for_sampler.request(body=body)

        saved = await self._run("save_weights_for_sampler", submit, self._saved_for_sampler)
        if saved.sampling_session_id:
            return AsyncSamplingClient(
                self._session,
                saved.sampling_session_id,
                base_model=self.base_model,
                retry_config=retry_config,
                record_stability_info=record_stability_info,
            )
        return await self.create_sampling_client(
            saved.path or "", retry_config, record_stability_info
        )

    async def create_sampling_client(
        self,
        model_path: str,
        retry_config: RetrySettings | None = None,
        record_stability_info: bool = False,
    ) -> AsyncSamplingClient:
        """A client that samples from saved weights of this base model. Raises `NotFoundError` when
        there are none.

        Args:
            model_path: `tinker://…/sampler_weights/…`, as `save_weights_for_sampler` gave it.
            retry_config: when its samples are asked for again, by default `Config.retry`.
            record_stability_info: whether the server is to keep what the loss stable_reinforce
                needs.
        """
        return await AsyncSamplingClient.open(
            self._session,
            base_model=self.base_model,
            model_path=model_path,
            retry_config=retry_config,
            record_stability_info=record_stability_info,
        )

    async def unload_model(self) -> None:
        """Frees the model on the server, after the calls so far. What was saved stays.

        Raises:
            UnsupportedByServer, NotFoundError: this server has no such call, as the hosted one.
        """
        async with self._line.turn("unload_model"):
            request_id = await unload(self._transport, self.model_id)
        if request_id is not None:
            await wait_for_result(
                self._transport, RequestState("unload_model", request_id), of_fields(dict)
            )
        self._session.models.discard(self.model_id)

    async def get_info(self) -> GetInfoResponse:
        """What the server says of the model."""
        return await self._transport.send(get_info.request(body=GetInfoRequest(self.model_id)))

    async def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer, found by what the server says of the model. Raises
        `TokenizerError` when it cannot be had.
        """
        if self._tokenizer is None:
            self._tokenizer = await model_tokenizer(
                self._transport, self.base_model, await self._tokenizer_names()
            )
        return self._tokenizer

    async def _tokenizer_names(self) -> Sequence[str]:
        """By the server's words, where it has some; else by the base model that was asked for."""
        try:
            info = await self.get_info()
        except (UnsupportedByServer, NotFoundError):
            return names_of_tokenizer(None, [self.base_model])
        data = info.model_data
        return names_of_tokenizer(
            data.tokenizer_id, [data.model_name, info.model_name, self.base_model]
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model_id} over {self.base_model}>"

    def _saved_for_sampler(self, result: Mapping[str, object]) -> SaveWeightsForSamplerResponse:
        saved = SaveWeightsForSamplerResponse.from_dict(result)
        required_text(
            result, "path" if saved.sampling_session_id is None else "sampling_session_id"
        )
        self._transport.server.saw_path(saved.path or "")
        return saved

    def _run_batch(
        self,
        operation: str,
        data: Sequence[Datum],
        loss_fn: LossName,
        config: Mapping[str, float | str] | None,
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        data = as_batch(data)  # the caller may go on with its list
        check_batch(data, loss_fn)
        settings = checked_settings(config)
        check_loss(self._transport.server, loss_fn)
        warn_of_mask(self._transport.server, data, loss_fn)
        data, dialect = list(weighted(data, loss_fn)), self._transport.server.dialect
        made_up = operation == "forward" and made_up_forward(dialect, loss_fn)

        def join(results: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
            output = self._joined(data, results)
            return with_cross_entropy(data, output) if made_up else output

        submits = self._submits(operation, data, loss_fn, settings)
        if operation == "forward_backward":
            self._saw_gradients(data)
        return self._line.run(operation, submits, read_batch, join)

    def _joined(
        self, data: Sequence[Datum], results: Sequence[ForwardBackwardOutput]
    ) -> ForwardBackwardOutput:
        output = metrics.combine(results)
        return (
            without_padding(data, output)
            if self._transport.server.dialect.pads_logprobs
            else output
        )

    def _run_uploaded(
        self, loss: LossHandle, loss_id: str, data: Sequence[Datum]
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        if loss.session_id != self._session.session_id:
            raise InvalidInputError(
                f"the custom loss {loss.name} belongs to the session {loss.session_id}, not to "
                f"this model's {self._session.session_id}",
                advice=(
                    "Make it by create_custom_loss of the service client that made this training "
                    "client."
                ),
            )
        return self._run_batch("forward_backward", data, "custom", {"loss_id": loss_id})

    def _run_custom(
        self, data: list[Datum], loss_fn: CustomLoss
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:

        def backward(
            results: Sequence[ForwardBackwardOutput],
        ) -> tuple[
            Sequence[BodiesByEncoding],
            Callable[[Sequence[ForwardBackwardOutput]], ForwardBackwardOutput],
        ]:
            outputs = self._joined(data, results).loss_fn_outputs
            evaluated = custom.evaluate(data, outputs, loss_fn)
            if self._transport.server.dialect.divides_by_weights:
                surrogate, batch = (
                    "importance_sampling",
                    custom.linearized_by_ratios(data, evaluated.gradients, outputs),
                )
            else:
                surrogate, batch = (
                    "cross_entropy",
                    custom.linearized(data, evaluated.gradients),
                )
            submits = self._submits("forward_backward", batch, surrogate, None)
            return submits, lambda results: custom.custom_output(
                metrics.combine(results), evaluated
            )

        self._saw_gradients(data)
        forward_pass = self._submits("forward", custom.forward_data(data), "cross_entropy", None)
        return self._line.run_both("forward_backward", forward_pass, read_batch, backward)

    def _saw_gradients(self, data: Sequence[Datum]) -> None:
        self._gradients += 1
        self.fingerprints.saw_batch(data)

    def _submits(
        self,
        operation: str,
        data: Sequence[Datum],
        loss_fn: LossName,
        config: Mapping[str, float | str] | None,
    ) -> Sequence[BodiesByEncoding]:
        dialect = self._transport.server.dialect
        chunks = chunking.split(data, chunking.limits(self._transport.config.chunk_limits, dialect))
        if len(chunks) > 1 and not dialect.splits_batches:
            self._transport.server.warn_once(chunking.SENT_WHOLE)
            chunks = [data]
        return [
            batch_bodies(operation, self.model_id, chunk, loss_fn, config, dialect)
            for chunk in chunks
        ]

    def _load(
        self, path: str, token: str | None, *, optimizer: bool
    ) -> AsyncAPIFuture[LoadWeightsResponse]:
        if not path:
            raise InvalidInputError(
                "the path is empty", advice="Give the one that save_state returned."
            )
        check_load(self._transport.server.dialect, optimizer=optimizer)

        def submit(seq_id: int) -> Request[UntypedAPIFuture]:
            body = LoadWeightsRequest(
                path, optimizer, model_id=self.model_id, seq_id=seq_id, weights_access_token=token
            )
            return load_weights.request(body=body)

        read = of_fields(LoadWeightsResponse.from_dict)
        return self._line.run_checked(
            "load_weights",
            {"json": submit},
            read,
            partial(self.fingerprints.mismatch, path),
            late_load_advice,
        )

    def _run(
        self, operation: str, submit: BuildRequest, parse: Callable[[Mapping[str, object]], T]
    ) -> AsyncAPIFuture[T]:
        return self._line.run(
            operation, [{"json": submit}], of_fields(parse), lambda results: results[0]
        )


def _one_of(optim_params: object, adam_params: object) -> AdamParams | DimuonParams | SgdParams:
    if optim_params is not None and adam_params is not None:
        raise InvalidInputError("optim_params and adam_params are the same; give one of them")
    params = optim_params if optim_params is not None else adam_params
    if not isinstance(params, (AdamParams, DimuonParams, SgdParams)):
        raise InvalidInputError(
            f"optim_params is {type(params).__name__}, not AdamParams, DimuonParams or SgdParams"
        )
    return checked_optimizer(params)
