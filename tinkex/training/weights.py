"""`AsyncModelWeights`: saving, loading and sampling the weights of a model in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from tinkex_api.api.weights import (
    load_weights,
    save_weights,
    save_weights_external,
    save_weights_for_sampler,
)
from tinkex_api.models import (
    LoadWeightsRequest,
    SaveWeightsExternalRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
    UntypedAPIFuture,
)
from tinkex_api.types import Request

from tinkex.config import RetrySettings, as_retry_settings
from tinkex.errors import InvalidInputError
from tinkex.errors.hints import hinted
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.futures.poller import of_fields
from tinkex.sampling.client import AsyncSamplingClient
from tinkex.session.session import Session
from tinkex.training.argument_checks import (
    SamplerKind,
    check_inflight,
    check_kind,
    check_load,
    check_name,
    check_save,
    late_load_advice,
)
from tinkex.training.batch_calls import BatchCalls
from tinkex.training.encoded_requests import BuildRequest
from tinkex.training.fingerprint import Fingerprints
from tinkex.training.submission_queue import SubmissionQueue
from tinkex.transport.answers import required_text
from tinkex.types import (
    LoadWeightsResponse,
    LoraConfig,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
)
from tinkex.types.number_checks import check_optional_int
from tinkex.wire import json

T = TypeVar("T")


@hinted
class AsyncModelWeights:
    """The weights of a model in training: the part of `AsyncTrainingClient` that saves and loads.

    Each save holds the weights as they are after the calls made before it.
    """

    model_id: str
    """The server's name for the model, and for its training run."""
    base_model: str
    """The name of the base model, such as `"Qwen/Qwen3-8B"`."""

    def __init__(self, session: Session, model_id: str, base_model: str, shape: LoraConfig) -> None:
        self.model_id = model_id
        self.base_model = base_model
        self._shape = shape
        self._session = session
        self._transport = session.transport
        self._queue = SubmissionQueue(session, model_id)
        self.fingerprints = Fingerprints(session, model_id, self._queue)
        self._batches = BatchCalls(session, model_id, self._queue, self.fingerprints)
        self._saves = 0

    def save_state(
        self,
        name: str,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: Mapping[str, str] | None = None,
    ) -> AsyncAPIFuture[SaveWeightsResponse]:
        """Saves the weights and the optimizer's state, to continue the training later.

        Gradients that no `optim_step` has applied yet are not saved.

        Args:
            name: the checkpoint's name: letters, digits, `-`, `_` and `.`; no `/`.
            ttl_seconds: the time to live in seconds; by default the checkpoint does not expire.
            overwrite: whether an existing checkpoint of that name may be replaced.
            user_metadata: texts of your own that are kept with the checkpoint.

        Returns:
            A future. Its result has the checkpoint's `path`, for `load_state` and
            `AsyncServiceClient.create_training_client_from_state`.

        Raises:
            InvalidInputError: at the call: the name is empty or holds a `/`.
            UnsupportedByServer: at the call: the server would keep an earlier state in the place of
                this one.
            RequestFailedError: when awaited: the name is in use.

        Example:
            saving = trainer.save_state("step-20", overwrite=True)
            path = (await saving).path
            resumed = await service.create_training_client_from_state_with_optimizer(path)
        """
        check_name(name)
        check_save(self._transport.server.dialect, self._saves)
        self._saves += 1
        check_optional_int("ttl_seconds", ttl_seconds, 0)
        metadata = json.encode_metadata(user_metadata)

        def build(seq_id: int) -> Request[UntypedAPIFuture]:
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
            self._transport.server.observe_path(saved.path)
            return saved

        save = self._run("save_weights", build, parse)
        has_gradients = self._batches.unapplied_gradients > 0
        self.fingerprints.follow(save, unapplied_gradients=has_gradients)
        return save

    def load_state(
        self, path: str, weights_access_token: str | None = None
    ) -> AsyncAPIFuture[LoadWeightsResponse]:
        """Loads saved weights into this model, and resets its optimizer.

        Several servers load only as a model's first request;
        `AsyncServiceClient.create_training_client_from_state` works on all. Calls made before the
        load is done are sent after it, and are skipped if it fails.

        Args:
            path: `tinker://…/weights/…`, as `save_state` returned it.
            weights_access_token: a token that grants access to weights of another user.

        Raises:
            UnsupportedByServer: at the call: the server would load the optimizer's state as well.
            RequestFailedError, APIStatusError: when awaited: there are no such weights, or they do
                not fit the model.
            CheckpointMismatchError: when awaited: the model does not hold the weights that were
                saved (`Config.verify_checkpoints`).

        Example:
            loading = trainer.load_state(path)
            fb = trainer.forward_backward(data, "cross_entropy")  # sent once the load is done
            await loading
            loss = (await fb).metrics["loss:sum"]
        """
        return self._load(path, weights_access_token, optimizer=False)

    def load_state_with_optimizer(
        self, path: str, weights_access_token: str | None = None
    ) -> AsyncAPIFuture[LoadWeightsResponse]:
        """Loads saved weights and the optimizer's state. Takes and raises what `load_state`
        does.

        Example:
            saving = trainer.save_state("before-risky-step")
            path = (await saving).path
            loading = trainer.load_state_with_optimizer(path)
            await loading
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
        """Saves the weights for sampling. The result has their `path`, for
        `create_sampling_client`.

        Args:
            name: the checkpoint's name: letters, digits, `-`, `_` and `.`; no `/`.
            ttl_seconds: the time to live in seconds; by default the weights do not expire.
            user_metadata: texts of your own that are kept with the weights.
            path: the same as `name`, under the name that the field has in the API.
            sampling_session_seq_id: a number, in place of a name. Opens a sampling session on
                weights that last as long as it does; the result has its `sampling_session_id`. Each
                number can be used once in a session of a service client.

        Raises:
            InvalidInputError: at the call: the name is empty or holds a `/`, or not exactly one of
                `name`, `path` and `sampling_session_seq_id` is given.

        Example:
            saving = trainer.save_weights_for_sampler("step-20", ttl_seconds=24 * 3600)
            path = (await saving).path
            sampler = await service.create_sampling_client(model_path=path)
        """
        if [name, path, sampling_session_seq_id].count(None) != 2:
            raise InvalidInputError(
                "give exactly one of name, path (the same as name) and sampling_session_seq_id"
            )
        if sampling_session_seq_id is None:
            check_name(name or path or "")
        check_optional_int("sampling_session_seq_id", sampling_session_seq_id)
        check_optional_int("ttl_seconds", ttl_seconds, 0)
        metadata = json.encode_metadata(user_metadata)

        def build(seq_id: int) -> Request[UntypedAPIFuture]:
            body = SaveWeightsForSamplerRequest(
                self.model_id, seq_id, path=name or path, ttl_seconds=ttl_seconds
            )
            body.sampling_session_seq_id = sampling_session_seq_id
            body.user_metadata = metadata
            return save_weights_for_sampler.request(body=body)

        return self._run("save_weights_for_sampler", build, self._saved_for_sampler)

    def save_weights_external(
        self,
        name: str,
        ttl_seconds: int | None = None,
        age_encryption_recipients: Sequence[str] | None = None,
    ) -> AsyncAPIFuture[SaveWeightsExternalResponse]:
        """Saves the weights as files that can be downloaded.

        Args:
            name: the files' name: letters, digits, `-`, `_` and `.`; no `/`.
            ttl_seconds: the time to live in seconds; by default the files do not expire.
            age_encryption_recipients: public keys of age, for which the files are encrypted.

        Raises:
            InvalidInputError: at the call: the name is empty or holds a `/`.
            NotFoundError: when awaited: this server has no such call.
        """
        check_name(name)
        check_optional_int("ttl_seconds", ttl_seconds, 0)
        recipients = list(age_encryption_recipients) if age_encryption_recipients else None

        def build(seq_id: int) -> Request[UntypedAPIFuture]:
            body = SaveWeightsExternalRequest(self.model_id, name, seq_id, ttl_seconds=ttl_seconds)
            body.age_encryption_recipients = recipients
            return save_weights_external.request(body=body)

        def parse(result: Mapping[str, object]) -> SaveWeightsExternalResponse:
            required_text(result, "path")
            return SaveWeightsExternalResponse.from_dict(result)

        return self._run("save_weights_external", build, parse)

    async def save_weights_and_get_sampling_client(
        self,
        name: str | None = None,
        retry_config: RetrySettings | None = None,
        record_stability_info: bool = False,
        kind: SamplerKind = "snapshot",
    ) -> AsyncSamplingClient:
        """Saves the weights, and returns a client that samples from them. Later steps do not change
        what it samples from.

        Args:
            name: ignored, since these weights last as long as the session;
                `save_weights_for_sampler` saves under a name.
            retry_config: when the client retries a sample; by default `Config.retry`.
            record_stability_info: whether the server keeps what the loss stable_reinforce needs.
            kind: `"snapshot"` for weights that do not change. `"inflight"` for weights that all
                in-flight clients of this model share: each such save replaces them, for the older
                clients as well as for the new one.

        Raises:
            InvalidInputError: an unknown kind.
            UnsupportedByServer: the server does not have that kind.

        Example:
            sampler = await trainer.save_weights_and_get_sampling_client()
            params = SamplingParams(max_tokens=8)
            sampling = sampler.sample("Once upon a time", sampling_params=params)
            tokens = (await sampling).sequences[0].tokens
        """
        retry_config = as_retry_settings(retry_config)
        check_kind(kind)
        check_inflight(self._transport.server.dialect, kind)
        number = next(self._session.sampler_numbers)

        def build(seq_id: int) -> Request[UntypedAPIFuture]:
            body = SaveWeightsForSamplerRequest(
                self.model_id, seq_id, sampling_session_seq_id=number
            )
            body.kind = None if kind == "snapshot" else kind  # older servers do not know the field
            return save_weights_for_sampler.request(body=body)

        saved = await self._run("save_weights_for_sampler", build, self._saved_for_sampler)
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
        """Returns a client that samples from saved weights of this base model.

        Args:
            model_path: `tinker://…/sampler_weights/…`, as `save_weights_for_sampler` returned it.
            retry_config: when the client retries a sample; by default `Config.retry`.
            record_stability_info: whether the server keeps what the loss stable_reinforce needs.

        Raises:
            NotFoundError: there are no such weights.
        """
        return await AsyncSamplingClient.open(
            self._session,
            base_model=self.base_model,
            model_path=model_path,
            retry_config=retry_config,
            record_stability_info=record_stability_info,
        )

    def _saved_for_sampler(self, result: Mapping[str, object]) -> SaveWeightsForSamplerResponse:
        saved = SaveWeightsForSamplerResponse.from_dict(result)
        required_text(
            result, "path" if saved.sampling_session_id is None else "sampling_session_id"
        )
        self._transport.server.observe_path(saved.path or "")
        return saved

    def _load(
        self, path: str, token: str | None, *, optimizer: bool
    ) -> AsyncAPIFuture[LoadWeightsResponse]:
        if not path:
            raise InvalidInputError(
                "the path is empty", advice="Give the one that save_state returned."
            )
        check_load(self._transport.server.dialect, optimizer=optimizer)

        def build(seq_id: int) -> Request[UntypedAPIFuture]:
            body = LoadWeightsRequest(
                path, optimizer, model_id=self.model_id, seq_id=seq_id, weights_access_token=token
            )
            return load_weights.request(body=body)

        return self._queue.run_checked(
            "load_weights",
            {"json": build},
            of_fields(LoadWeightsResponse.from_dict),
            partial(self.fingerprints.mismatch, path),
            late_load_advice,
        )

    def _run(
        self, operation: str, build: BuildRequest, parse: Callable[[Mapping[str, object]], T]
    ) -> AsyncAPIFuture[T]:
        return self._queue.run(
            operation, [{"json": build}], of_fields(parse), lambda results: results[0]
        )
