"""`Fingerprints`: checks that a load brought back the weights that were saved.

Several servers answer a load with success, but the model then holds other weights. So a save is
followed by a forward pass of one small datum, whose logprobs are kept as the fingerprint, and a
load by the same forward pass. A forward pass changes nothing in a model; on servers where it might,
none is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinkex.dialects.dialect import Dialect
from tinkex.dialects.table import UNKNOWN
from tinkex.errors import (
    APIStatusError,
    CheckpointMismatchError,
    ClientClosedError,
    ClientPoisonedError,
    RequestFailedError,
    RequestSkippedError,
    TinkexError,
    UnsupportedByServer,
)
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.losses.named import without_padding
from tinkex.session.session import Session
from tinkex.training.batch_requests import batch_bodies, read_batch
from tinkex.training.encoded_requests import RequestBuilders
from tinkex.training.submission_queue import SendForward, SubmissionQueue
from tinkex.types import (
    Datum,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ModelInput,
    SaveWeightsResponse,
)
from tinkex.types.fingerprint import Fingerprint

logger = logging.getLogger("tinkex")
Logprobs: TypeAlias = NDArray[np.float64]

MAX_TOKENS = 64
_COMMON_TOKENS = list(range(2, 18))
"""Token ids that any vocabulary has, for a model that was not trained yet."""
ROUNDING = 0.02
"""The mean difference, in nats a token, that two forward passes of equal weights may have. bfloat16
in batches of other sizes stays below it.
"""
_NOISE_FACTOR = 4.0
"""The factor by which a mismatch must exceed the difference of two equal forward passes."""
_REFUSALS = (APIStatusError, RequestFailedError, UnsupportedByServer)
"""Errors which mean that the server does not run the forward pass."""
_UNRELATED = (ClientClosedError, ClientPoisonedError, RequestSkippedError)
"""Errors that have another cause than the forward pass."""
NO_FINGERPRINT = (
    "the forward pass after a save failed, so loads of that checkpoint are not checked; its error "
    "is in the log at level INFO, and Config(verify_checkpoints=False) turns these checks off"
)


def are_taken(dialect: Dialect, wanted: bool | None) -> bool:
    """Returns whether a save is followed by a forward pass.

    By default it is where loads were not measured to be true and a forward pass is known to have no
    effect. It never is where a forward pass may change the model.
    """
    if wanted is False or dialect.forwards_by_zero_weights or len(dialect.encodings) > 1:
        return False
    # a forward is then a flag of forward_backward, which a server may not know
    by_flag = dialect.encodings == ("protobuf",)
    if by_flag:
        return wanted is True and dialect.name != UNKNOWN.name
    return not dialect.lacks("forward") and (wanted is True or not dialect.loads_are_true)


class Fingerprints:
    """The fingerprints of one model's saves, which are compared after loads.

    They are kept in the session, by path.
    """

    def __init__(self, session: Session, model_id: str, queue: SubmissionQueue) -> None:
        self._session = session
        self._server = session.transport.server
        self._model_id = model_id
        self._queue = queue
        self._trained: Datum | None = None
        self._tasks: set[asyncio.Task[Fingerprint | None]] = set()
        self._is_refused = False

    def note_batch(self, data: Sequence[Datum]) -> None:
        """Keeps a datum that the model is trained on, whose logprobs change most."""
        self._trained = next((datum for datum in data if _is_plain(datum)), self._trained)

    def follow(
        self, save: AsyncAPIFuture[SaveWeightsResponse], *, unapplied_gradients: bool
    ) -> None:
        """Takes a fingerprint right after a save, in the order of the calls.

        The save does not wait for it, and does not fail when it does.

        Args:
            save: the save.
            unapplied_gradients: whether the model has gradients that no step has applied; then no
                forward pass is sent.
        """
        wanted = self._session.transport.config.verify_checkpoints
        takes = not unapplied_gradients and not self._is_refused
        takes = takes and are_taken(self._server.dialect, wanted)
        taken = self._take() if takes else None

        def note(task: asyncio.Future[SaveWeightsResponse]) -> None:
            if task.cancelled() or task.exception():
                return
            path = task.result().path
            self._session.fingerprints.pop(path, None)  # that of a checkpoint it overwrote
            if taken is not None:
                self._session.fingerprints[path] = taken

        save.task.add_done_callback(note)

    async def mismatch(
        self, path: str, send_forward: SendForward[ForwardBackwardOutput] | None = None
    ) -> CheckpointMismatchError | None:
        """Compares the model that was loaded from `path` with the fingerprint of the save.

        Returns the error to raise; None where they agree, or there is nothing to compare.
        """
        taken = self._session.fingerprints.get(path)
        saved = await asyncio.shield(taken) if taken else None
        if saved is None:
            return None
        try:
            return await self._compare(path, saved, send_forward or self._queue.send_forward)
        except TinkexError as error:
            self._note_failure(error)
            return None

    async def _compare(
        self, path: str, saved: Fingerprint, send_forward: SendForward[ForwardBackwardOutput]
    ) -> CheckpointMismatchError | None:
        now = await self._logprobs(saved.datum, send_forward)
        if now is None or _difference(saved.logprobs, now) <= ROUNDING:
            return None
        # some servers apply dropout to the adapter
        again = await self._logprobs(saved.datum, send_forward)
        noise = 0.0 if again is None else _difference(now, again)
        if _difference(saved.logprobs, now) <= max(ROUNDING, _NOISE_FACTOR * noise):
            return None
        return mismatch_error(path, saved.logprobs, now, noise)

    def _take(self) -> asyncio.Task[Fingerprint | None]:
        datum = shortened(self._trained) if self._trained else _default_datum()
        forward = self._queue.send_forward(self._body(datum), read_batch)
        task = asyncio.create_task(self._finish(datum, forward), name="tinkex fingerprint")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _finish(
        self, datum: Datum, forward: asyncio.Task[ForwardBackwardOutput]
    ) -> Fingerprint | None:
        try:
            logprobs = self._read(datum, await forward)
        except TinkexError as error:
            self._note_failure(error)
            return None
        return (
            None
            if logprobs is None or not np.isfinite(logprobs).all()
            else Fingerprint(datum, logprobs)
        )

    async def _logprobs(
        self, datum: Datum, send_forward: SendForward[ForwardBackwardOutput]
    ) -> Logprobs | None:
        return self._read(datum, await send_forward(self._body(datum), read_batch))

    def _body(self, datum: Datum) -> RequestBuilders:
        return batch_bodies(
            "forward", self._model_id, [datum], "cross_entropy", None, self._server.dialect
        )

    def _read(self, datum: Datum, output: ForwardBackwardOutput) -> Logprobs | None:
        """Returns the logprobs of the datum's targets; None where the server does not give them."""
        if len(output.loss_fn_outputs) != 1 or "logprobs" not in output.loss_fn_outputs[0]:
            return None
        if self._server.dialect.pads_logprobs:
            output = without_padding([datum], output)
        logprobs = np.asarray(output.loss_fn_outputs[0]["logprobs"].to_numpy(), np.float64).reshape(
            -1
        )
        return logprobs if len(logprobs) == len(datum.loss_fn_inputs["target_tokens"]) else None

    def _note_failure(self, error: TinkexError) -> None:
        """Warns once that a fingerprint failed, and takes no more if the server refuses them."""
        if isinstance(error, _UNRELATED):
            return
        if isinstance(error, _REFUSALS) and not error.retryable:
            self._is_refused = True
        self._server.warn_once(NO_FINGERPRINT)
        logger.info("the fingerprint of a save failed: %s", error)


def shortened(datum: Datum) -> Datum:
    """Returns the end of a datum, where the answer usually is, with all weights 1."""
    targets = np.asarray(datum.loss_fn_inputs["target_tokens"].to_numpy(), np.int64)
    return _weighted(datum.model_input.tokens_np[-MAX_TOKENS:], targets[-MAX_TOKENS:])


def _default_datum() -> Datum:
    return _weighted(np.array(_COMMON_TOKENS[:-1]), np.array(_COMMON_TOKENS[1:]))


def _weighted(tokens: NDArray[np.int64], targets: NDArray[np.int64]) -> Datum:
    inputs = {"target_tokens": targets.copy(), "weights": np.ones(len(targets), np.float32)}
    return Datum(ModelInput.from_ints(tokens.copy()), inputs)


def _is_plain(datum: Datum) -> bool:
    """Returns whether a datum is text with one target per token."""
    targets = datum.loss_fn_inputs.get("target_tokens")
    return (
        targets is not None
        and targets.sparse_crow_indices is None
        and targets.to_numpy().ndim == 1
        and all(isinstance(chunk, EncodedTextChunk) for chunk in datum.model_input.chunks)
        and datum.model_input.length > 0
    )


def _difference(one: Logprobs, other: Logprobs) -> float:
    """Returns the mean difference in nats a token; infinity where a value is not a number."""
    difference = float(np.mean(np.abs(one - other)))
    return difference if np.isfinite(difference) else float("inf")


def mismatch_error(
    path: str, saved: Logprobs, now: Logprobs, noise: float
) -> CheckpointMismatchError:
    """Returns the error for a model that does not hold the weights of a checkpoint.

    Args:
        path: the checkpoint.
        saved: the logprobs after the save, `(N,)`.
        now: the logprobs after the load, `(N,)`.
        noise: the mean difference of two equal forward passes, in nats a token.
    """
    return CheckpointMismatchError(
        f"the server reports that it loaded {path}, but the model holds other weights: "
        f"it gives {len(saved)} tokens of the training data a mean logprob of {np.mean(now):.4f}, "
        f"which was {np.mean(saved):.4f} when the checkpoint was saved; the mean difference is "
        f"{_difference(saved, now):.3g} nats a token (two equal forward passes: {noise:.2g})",
        path=path,
        expected=tuple(saved.tolist()),
        seen=tuple(now.tolist()),
        operation="load_weights",
        advice="Do not train or sample this model, and do not rely on this server's checkpoints: "
        "a repeated load gives the same result. Load another checkpoint, or continue with the "
        "model that was saved, if it is still loaded. Config(verify_checkpoints=False) turns this "
        "check off.",
    )
