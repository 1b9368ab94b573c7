"""`BatchCalls`: the forward and backward passes of one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tinkex.errors import InvalidInputError
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.losses import custom
from tinkex.losses.batch_checks import (
    LossName,
    as_batch,
    check_form,
    check_values,
    checked_settings,
)
from tinkex.losses.custom import CustomLoss
from tinkex.losses.handle import LossHandle, chosen_inputs, run_here
from tinkex.losses.named import (
    check_loss,
    forwards_without_weights,
    warn_of_mask,
    weighted,
    with_cross_entropy,
    without_padding,
)
from tinkex.session.session import Session
from tinkex.training import chunking, metrics
from tinkex.training.batch_requests import batch_bodies, read_batch
from tinkex.training.encoded_requests import RequestBuilders
from tinkex.training.fingerprint import Fingerprints
from tinkex.training.submission_queue import SubmissionQueue
from tinkex.types import Datum, ForwardBackwardOutput

_READ_AT_ONCE = 8 << 20
"""The most bytes of loss inputs whose numbers are checked in the call, where the event loop stands
still meanwhile, for some milliseconds. The numbers of larger batches are checked in a thread.
"""


class BatchCalls:
    """The calls of one model that take a batch: they check it, split it, and join the results."""

    def __init__(
        self, session: Session, model_id: str, queue: SubmissionQueue, fingerprints: Fingerprints
    ) -> None:
        self._session = session
        self._server = session.transport.server
        self._model_id = model_id
        self._queue = queue
        self._fingerprints = fingerprints
        self.unapplied_gradients = 0
        """The number of batches whose gradients no step has applied yet."""

    def run(
        self,
        operation: str,
        data: Sequence[Datum],
        loss_fn: LossName,
        config: Mapping[str, float | str] | None,
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        """Runs a `forward` or a `forward_backward` by a loss that the server has."""
        data = as_batch(data)  # the caller may change its list afterwards
        check_form(data, loss_fn)
        is_large = sum(datum.input_bytes for datum in data) > _READ_AT_ONCE
        if not is_large:
            check_values(data)
        settings = checked_settings(config)
        check_loss(self._server, loss_fn)
        warn_of_mask(self._server, data, loss_fn)
        data, dialect = list(weighted(data, loss_fn)), self._server.dialect
        needs_loss = operation == "forward" and forwards_without_weights(dialect, loss_fn)

        def join(results: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
            output = self._joined(data, results)
            return with_cross_entropy(data, output) if needs_loss else output

        bodies = self._bodies(operation, data, loss_fn, settings)
        if operation == "forward_backward":
            self._note_gradients(data)
        check = partial(check_values, data) if is_large else None
        return self._queue.run(operation, bodies, read_batch, join, check)

    def run_custom(
        self, data: Sequence[Datum], loss_fn: CustomLoss | LossHandle
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        """Runs a `forward_backward` by a loss of the user's own, on the server if it can."""
        data = as_batch(data)
        if isinstance(loss_fn, LossHandle):
            data = chosen_inputs(loss_fn, data)
            if loss_fn.loss_id is not None:
                self._check_session(loss_fn)
                settings = {"loss_id": loss_fn.loss_id}
                return self.run("forward_backward", data, "custom", settings)
            loss_fn = run_here(loss_fn)
        return self._run_here(data, loss_fn)

    def _run_here(
        self, data: list[Datum], loss_fn: CustomLoss
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        """Computes the loss in this process, between a forward and a backward pass."""

        def backward_pass(
            results: Sequence[ForwardBackwardOutput],
        ) -> tuple[
            Sequence[RequestBuilders],
            Callable[[Sequence[ForwardBackwardOutput]], ForwardBackwardOutput],
        ]:
            outputs = self._joined(data, results).loss_fn_outputs
            evaluated = custom.evaluate(data, outputs, loss_fn)
            if self._server.dialect.divides_by_weights:
                surrogate = "importance_sampling"
                batch = custom.linearized_by_ratios(data, evaluated.gradients, outputs)
            else:
                surrogate = "cross_entropy"
                batch = custom.linearized(data, evaluated.gradients)
            bodies = self._bodies("forward_backward", batch, surrogate, None)
            return bodies, lambda results: custom.custom_output(metrics.combine(results), evaluated)

        self._note_gradients(data)
        forward_pass = self._bodies("forward", custom.forward_data(data), "cross_entropy", None)
        return self._queue.run_two_passes(
            "forward_backward", forward_pass, read_batch, backward_pass
        )

    def _check_session(self, loss: LossHandle) -> None:
        if loss.session_id != self._session.session_id:
            raise InvalidInputError(
                f"the custom loss {loss.name} belongs to the session {loss.session_id}, not to "
                f"this model's {self._session.session_id}",
                advice=(
                    "Make it by create_custom_loss of the service client that made this training "
                    "client."
                ),
            )

    def _joined(
        self, data: Sequence[Datum], results: Sequence[ForwardBackwardOutput]
    ) -> ForwardBackwardOutput:
        output = metrics.combine(results)
        return without_padding(data, output) if self._server.dialect.pads_logprobs else output

    def _note_gradients(self, data: Sequence[Datum]) -> None:
        self.unapplied_gradients += 1
        self._fingerprints.note_batch(data)

    def _bodies(
        self,
        operation: str,
        data: Sequence[Datum],
        loss_fn: LossName,
        config: Mapping[str, float | str] | None,
    ) -> Sequence[RequestBuilders]:
        """Returns the requests of a batch, which is split where it is over the server's limits."""
        dialect = self._server.dialect
        given = self._session.transport.config.chunk_limits
        chunks = chunking.split(data, chunking.limits(given, dialect))
        if len(chunks) > 1 and not dialect.splits_batches:
            self._server.warn_once(chunking.SENT_WHOLE)
            chunks = [data]
        return [
            batch_bodies(operation, self._model_id, chunk, loss_fn, config, dialect)
            for chunk in chunks
        ]
