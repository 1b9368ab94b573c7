"""`Fingerprints`: proves by its effect that a load brought back what was saved.

Several servers answer a load with success and hold other weights then. So a save is followed by a
forward of one small datum, whose logprobs are kept, and a load by the same forward. A forward
changes nothing in a model; where it might, none is sent.
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
from tinkex.training.encoded_requests import BodiesByEncoding
from tinkex.training.submission_queue import Look, SubmissionQueue
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

MOST_TOKENS = 64
_ALWAYS_THERE = list(range(2, 18))
"""Tokens of any vocabulary, for a model that was not trained yet."""
ROUNDING = 0.02
"""Nats a token by which two forwards of equal weights may differ, by the mean: bfloat16, in other
company, stays below it.
"""
_NOISES = 4.0
"""By how many times the difference of two equal forwards other weights must differ to be called so.
"""
_FINAL = (APIStatusError, RequestFailedError, UnsupportedByServer)
"""Errors by which the server says that it does not do it."""
_OF_OTHERS = (ClientClosedError, ClientPoisonedError, RequestSkippedError)
"""Errors that say nothing of the forward itself."""
NO_FINGERPRINT = (
    "a forward that was to show what is saved failed, so that loads are not checked; its error is in the log at level info, "
    "and Config(verify_checkpoints=False) sends none"
)


def are_taken(dialect: Dialect, wanted: bool | None) -> bool:
    """Returns whether a save is followed by a forward: by default where loads were not measured to
    be true, and a forward is known to have no effect. Where it may have one, never.
    """
    if wanted is False or dialect.forwards_by_zero_weights or len(dialect.encodings) > 1:
        return False
    # of a forward_backward, which a server may not know
    by_flag = dialect.encodings == ("protobuf",)
    if by_flag:
        return wanted is True and dialect.name != UNKNOWN.name
    return not dialect.lacks("forward") and (wanted is True or not dialect.loads_are_true)


class Fingerprints:
    """Takes those of one model's saves, and compares them after loads. They are kept with the
    session, by path.
    """

    def __init__(self, session: Session, model_id: str, line: SubmissionQueue) -> None:
        self._session = session
        self._server = session.transport.server
        self._model_id = model_id
        self._line = line
        self._trained: Datum | None = None
        self._looks: set[asyncio.Task[Fingerprint | None]] = set()
        self._in_vain = False

    def saw_batch(self, data: Sequence[Datum]) -> None:
        """Keeps a datum that the model is trained on, which shows best what it learns."""
        self._trained = next((datum for datum in data if _is_plain(datum)), self._trained)

    def follow(self, save: AsyncAPIFuture[SaveWeightsResponse], *, gradients_wait: bool) -> None:
        """Has a look at the model right after a save in the order of its calls. The save does not
        wait for it, and does not fail by it.

        Args:
            gradients_wait: whether there are some that no step has applied, beside which nothing is
                sent.
        """
        wanted = self._session.transport.config.verify_checkpoints
        takes = not gradients_wait and not self._in_vain and are_taken(self._server.dialect, wanted)
        taken = self._begin() if takes else None

        def note(task: asyncio.Future[SaveWeightsResponse]) -> None:
            if task.cancelled() or task.exception():
                return
            path = task.result().path
            self._session.fingerprints.pop(path, None)  # of what was overwritten
            if taken is not None:
                self._session.fingerprints[path] = taken

        save.task.add_done_callback(note)

    async def mismatch(
        self, path: str, look: Look[ForwardBackwardOutput] | None = None
    ) -> CheckpointMismatchError | None:
        """Looks at the model that was loaded from `path`; returns what is wrong with it, None where
        nothing is or nothing is known.
        """
        taken = self._session.fingerprints.get(path)
        saved = await asyncio.shield(taken) if taken else None
        if saved is None:
            return None
        try:
            return await self._compared(path, saved, look or self._line.looked)
        except TinkexError as error:
            self._failed(error)
            return None

    async def _compared(
        self, path: str, saved: Fingerprint, look: Look[ForwardBackwardOutput]
    ) -> CheckpointMismatchError | None:
        now = await self._logprobs(saved.datum, look)
        if now is None or _apart(saved.logprobs, now) <= ROUNDING:
            return None
        again = await self._logprobs(saved.datum, look)  # some servers drop out parts of an adapter
        noise = 0.0 if again is None else _apart(now, again)
        if _apart(saved.logprobs, now) <= max(ROUNDING, _NOISES * noise):
            return None
        return mismatch_error(path, saved.logprobs, now, noise)

    def _begin(self) -> asyncio.Task[Fingerprint | None]:
        datum = short(self._trained) if self._trained else _made_up()
        looked = self._line.looked(self._submit(datum), read_batch)
        task = asyncio.create_task(self._taken(datum, looked), name="tinkex fingerprint")
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)
        return task

    async def _taken(
        self, datum: Datum, looked: asyncio.Task[ForwardBackwardOutput]
    ) -> Fingerprint | None:
        try:
            logprobs = self._read(datum, await looked)
        except TinkexError as error:
            self._failed(error)
            return None
        return (
            None
            if logprobs is None or not np.isfinite(logprobs).all()
            else Fingerprint(datum, logprobs)
        )

    async def _logprobs(self, datum: Datum, look: Look[ForwardBackwardOutput]) -> Logprobs | None:
        return self._read(datum, await look(self._submit(datum), read_batch))

    def _submit(self, datum: Datum) -> BodiesByEncoding:
        return batch_bodies(
            "forward", self._model_id, [datum], "cross_entropy", None, self._server.dialect
        )

    def _read(self, datum: Datum, output: ForwardBackwardOutput) -> Logprobs | None:
        """Returns the logprobs of the datum's targets; None where the server gives no such ones."""
        if len(output.loss_fn_outputs) != 1 or "logprobs" not in output.loss_fn_outputs[0]:
            return None
        if self._server.dialect.pads_logprobs:
            output = without_padding([datum], output)
        logprobs = np.asarray(output.loss_fn_outputs[0]["logprobs"].to_numpy(), np.float64).reshape(
            -1
        )
        return logprobs if len(logprobs) == len(datum.loss_fn_inputs["target_tokens"]) else None

    def _failed(self, error: TinkexError) -> None:
        """Says once that there is none, and sends no more where that would come to the same."""
        if isinstance(error, _OF_OTHERS):
            return
        self._in_vain = self._in_vain or (isinstance(error, _FINAL) and not error.retryable)
        self._server.warn_once(NO_FINGERPRINT)
        logger.info("no fingerprint: %s", error)


def short(datum: Datum) -> Datum:
    """Returns the end of a datum, where its answer is; each token of it counts."""
    targets = np.asarray(datum.loss_fn_inputs["target_tokens"].to_numpy(), np.int64)
    return _scored(datum.model_input.tokens_np[-MOST_TOKENS:], targets[-MOST_TOKENS:])


def _made_up() -> Datum:
    return _scored(np.array(_ALWAYS_THERE[:-1]), np.array(_ALWAYS_THERE[1:]))


def _scored(tokens: NDArray[np.int64], targets: NDArray[np.int64]) -> Datum:
    inputs = {"target_tokens": targets.copy(), "weights": np.ones(len(targets), np.float32)}
    return Datum(ModelInput.from_ints(tokens.copy()), inputs)


def _is_plain(datum: Datum) -> bool:
    """Returns whether a datum is text with one target a token."""
    targets = datum.loss_fn_inputs.get("target_tokens")
    return (
        targets is not None
        and targets.sparse_crow_indices is None
        and targets.to_numpy().ndim == 1
        and all(isinstance(chunk, EncodedTextChunk) for chunk in datum.model_input.chunks)
        and datum.model_input.length > 0
    )


def _apart(one: Logprobs, other: Logprobs) -> float:
    """Returns the mean difference in nats a token; infinity where one is not a number."""
    apart = float(np.mean(np.abs(one - other)))
    return apart if np.isfinite(apart) else float("inf")


def mismatch_error(
    path: str, saved: Logprobs, now: Logprobs, noise: float
) -> CheckpointMismatchError:
    """Returns the error for a model that was to hold what was saved."""
    return CheckpointMismatchError(
        f"the server says that it has loaded {path}, and the model holds other weights: it gives {len(saved)} tokens of the training "
        f"data a mean logprob of {np.mean(now):.4f}, and gave them {np.mean(saved):.4f} when that was saved; token by token they are "
        f"{_apart(saved, now):.3g} nats apart (two equal forwards: {noise:.2g})",
        path=path,
        expected=tuple(saved.tolist()),
        seen=tuple(now.tolist()),
        operation="load_weights",
        advice="Do not train or sample this model as if it were that one, and do not rely on this server's checkpoints: the same "
        "load gives the same again. Load another checkpoint, or go on with the model that was saved, if it is still there. "
        "Config(verify_checkpoints=False) turns this check off.",
    )
