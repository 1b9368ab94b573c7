"""The training loop of the demo."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tinkex.portal.future import APIFuture
from tinkex.sync.training import TrainingClient
from tinkex.types import AdamParams, Datum, ForwardBackwardOutput, OptimStepResponse

BATCH = 8  # examples a step


class Step(NamedTuple):
    """A step that was applied."""

    loss: float
    """nats a token of the completions"""
    tokens: int
    """The number of tokens that the model read."""


class _SentStep(NamedTuple):
    """A step that was sent."""

    batch: Sequence[Datum]
    gradients: APIFuture[ForwardBackwardOutput]
    update: APIFuture[OptimStepResponse]

    def wait(self) -> Step:
        loss = self.gradients.result().metrics["loss:sum"]
        self.update.result()
        learned = sum(datum.loss_fn_inputs["weights"].tolist().count(1.0) for datum in self.batch)
        return Step(loss / learned, sum(datum.model_input.length for datum in self.batch))


def fine_tune(
    trainer: TrainingClient, data: Sequence[Datum], *, steps: int, learning_rate: float, seed: int
) -> Iterator[Step]:
    """Trains, and yields each step when it is done. The next one has been sent by then, so that the
    server never idles.

    Args:
        learning_rate: the rate of the first half; in the second half it falls to 0.
        seed: a seed for the batches.
    """
    rng, sent = random.Random(seed), deque[_SentStep]()
    for number in range(steps):
        batch = rng.sample(data, BATCH)
        rate = learning_rate * min(1.0, 2 * (1 - number / steps))
        gradients = trainer.forward_backward(batch, "cross_entropy")
        update = trainer.optim_step(AdamParams(learning_rate=rate))
        sent.append(_SentStep(batch, gradients, update))
        if len(sent) == 2:
            yield sent.popleft().wait()
    for step in sent:
        yield step.wait()
