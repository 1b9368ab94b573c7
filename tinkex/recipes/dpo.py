"""Direct preference optimization: the model learns to prefer one of two answers (Rafailov et al.
2023, arXiv:2305.18290).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from attrs import define, frozen
from numpy.typing import NDArray

from tinkex import Datum, NumpyLoss
from tinkex.data import Pair, load_pairs
from tinkex.recipes.batches import BatchOrder
from tinkex.recipes.config import TrainConfig, setting
from tinkex.recipes.context import Context, not_empty
from tinkex.recipes.held_out import chunks
from tinkex.recipes.loop import Goal
from tinkex.recipes.run_folder import Metrics
from tinkex.types import LossFnOutput

Floats: TypeAlias = NDArray[np.floating[Any]]


@define(kw_only=True)
class DpoConfig(TrainConfig):
    """The settings of direct preference optimization.

    Example:
        config = DpoConfig(data="pairs.jsonl", start_from=state_path, epochs=2)
        result = train(config, service)
    """

    recipe: ClassVar[str] = "dpo"

    beta: float = setting("Strength of the tie to the model that the run started from.", 0.1)


@frozen(eq=False)
class PreferenceLoss:
    """The loss of a batch of pairs: `-log sigmoid(beta * margin)` in the mean, where the margin
    says how much more the model prefers the chosen answer than the reference does, in nats.
    """

    beta: float
    reference: Floats
    """The logprobs of the answers under the reference, float64 `(B, 2)`: chosen and rejected."""

    def loss(self) -> NumpyLoss:
        """Returns the loss for `forward_backward_custom`, with its gradients."""
        return NumpyLoss(self._compute)

    def margins(self, data: Sequence[Datum], logprobs: Sequence[Floats]) -> Floats:
        """Returns `beta * margin` of each pair, `(B,)`. `data` has chosen and rejected in turn."""
        gain = _answer_logprobs(data, logprobs) - self.reference
        return self.beta * (gain[:, 0] - gain[:, 1])

    def _compute(
        self, data: list[Datum], logprobs: list[Floats]
    ) -> tuple[float, Sequence[Floats], dict[str, float]]:
        margins = self.margins(data, logprobs)
        pull = self.beta / len(margins) / (1 + np.exp(np.clip(margins, -500, 500)))
        gradients = [
            (-pull[place // 2] if place % 2 == 0 else pull[place // 2]) * _weights(datum)
            for place, datum in enumerate(data)
        ]
        return preference_loss(margins), gradients, {}


def preference_loss(margins: Floats) -> float:
    """Returns the mean of `-log sigmoid(margin)`."""
    return float(np.mean(np.logaddexp(0, -margins)))


class Dpo:
    """A step scores both answers of each pair, and widens the margin between them.

    The reference is the model as the run began. Its logprobs are computed once, and kept in the
    run's folder, since after the first step nobody has that model any more.
    """

    goal: ClassVar = Goal("margin", lower_is_better=False)
    in_flight: ClassVar = 1

    def __init__(self, config: DpoConfig, context: Context) -> None:
        self._config, self._context = config, context
        self._pairs = self._read(config.data)
        self.summary = f"{len(self._pairs):,} preference pairs"
        self.prompt = context.prompt_of(self._pairs[0].chosen)
        self._held_out = self._read(config.eval_data) if config.eval_data else ()
        self._order = BatchOrder(len(self._pairs), config.batch_size, config.seed)
        self.total = config.total_steps(len(self._pairs))
        self._reference = self._reference_logprobs()

    def _read(self, path: str) -> Sequence[Pair]:
        length = self._config.max_length or self._context.context_length
        tokenizer, template = self._context.tokenizer, self._context.template
        pairs = load_pairs(path, tokenizer, template=template, max_length=length)
        return not_empty(path, pairs)

    def _reference_logprobs(self) -> Floats:
        """Returns the logprobs of all answers under the reference, `(pairs, 2)`: those of the
        training data, then those held out.
        """
        path = self._context.folder.path / "reference.json"
        if path.is_file():
            return np.array(json.loads(path.read_text()))
        pairs = [*self._pairs, *self._held_out]
        self._context.activity.now(f"scoring {len(pairs)} pairs on the server, as the reference")
        logprobs = self._score(pairs)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(logprobs.tolist()))
        part.replace(path)
        return logprobs

    def _score(self, pairs: Sequence[Pair]) -> Floats:
        """Returns the logprobs of answers under the model as it is now, `(pairs, 2)`."""
        data = _data(pairs)
        passes = [self._context.trainer.forward(part, "cross_entropy") for part in chunks(data)]
        outputs = (values for each in passes for values in each.result().loss_fn_outputs)
        return _answer_logprobs(data, _logprobs(outputs))

    def begin(self, step: int) -> Callable[[], Metrics]:
        places = self._order.places(step)
        data = _data([self._pairs[place] for place in places])
        loss = PreferenceLoss(self._config.beta, self._reference[places])
        trainer = self._context.trainer
        gradients = trainer.forward_backward_custom(data, loss.loss())
        update = trainer.optim_step(self._config.adam(step, self.total))

        def finish() -> Metrics:
            outputs = gradients.result().loss_fn_outputs
            update.result()
            margins = loss.margins(data, _logprobs(outputs))
            tokens = sum(datum.model_input.length for datum in data)
            return {**_metrics(margins), "tokens": tokens}

        return finish

    def evaluate(self, step: int) -> Metrics:
        reference = self._reference[len(self._pairs) :]
        gain = self._score(self._held_out) - reference
        margins = self._config.beta * (gain[:, 0] - gain[:, 1])
        return {f"eval_{name}": value for name, value in _metrics(margins).items()}


def _metrics(margins: Floats) -> dict[str, float]:
    return {
        "loss": preference_loss(margins),
        "margin": float(np.mean(margins)),
        "accuracy": float(np.mean(margins > 0)),
    }


def _data(pairs: Iterable[Pair]) -> list[Datum]:
    return [answer.datum() for pair in pairs for answer in (pair.chosen, pair.rejected)]


def _logprobs(outputs: Iterable[LossFnOutput]) -> list[Floats]:
    return [np.asarray(values["logprobs"].to_numpy(), np.float64) for values in outputs]


def _weights(datum: Datum) -> Floats:
    return np.asarray(datum.loss_fn_inputs["weights"].to_numpy(), np.float64)


def _answer_logprobs(data: Sequence[Datum], logprobs: Sequence[Floats]) -> Floats:
    """Returns the logprob of each answer, the sum of those of its tokens, `(B, 2)`."""
    sums = [
        float(_weights(datum) @ np.asarray(values, np.float64))
        for datum, values in zip(data, logprobs, strict=True)
    ]
    return np.array(sums).reshape(-1, 2)
