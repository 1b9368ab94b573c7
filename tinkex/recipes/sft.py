"""Supervised fine-tuning: the model learns to write the completions of a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from attrs import define

from tinkex.recipes.batches import BatchOrder
from tinkex.recipes.config import TrainConfig, setting
from tinkex.recipes.context import Context
from tinkex.recipes.held_out import loss_per_token, trainer_loss
from tinkex.recipes.loop import Goal
from tinkex.recipes.run_folder import Metrics


@define(kw_only=True)
class SftConfig(TrainConfig):
    """The settings of supervised fine-tuning.

    Example:
        config = SftConfig(data="numbers.jsonl", model="tinkex/tiny", steps=100)
        result = train(config, service)
    """

    recipe: ClassVar[str] = "sft"

    pack: bool = setting("Put several examples together, up to --max-length.", False)


class Sft:
    """A step computes the cross entropy of a batch, and applies its gradient. The next step is sent
    before the last one has ended, so that the server never waits for this program.
    """

    goal: ClassVar = Goal("loss", lower_is_better=True)
    in_flight: ClassVar = 2

    def __init__(self, config: SftConfig, context: Context) -> None:
        self._config, self._trainer = config, context.trainer
        data = context.examples(config.data, config.max_length, packed=config.pack)
        self.summary = str(data)
        self.prompt = context.prompt_of(data.examples[0])
        self._examples = data.examples
        self._held_out = (
            context.examples(config.eval_data, config.max_length).examples
            if config.eval_data
            else ()
        )
        self._order = BatchOrder(len(data.examples), config.batch_size, config.seed)
        self.total = config.total_steps(len(data.examples))

    def begin(self, step: int) -> Callable[[], Metrics]:
        batch = self._order.batch(step, self._examples)
        data = [example.datum() for example in batch]
        gradients = self._trainer.forward_backward(data, "cross_entropy")
        update = self._trainer.optim_step(self._config.adam(step, self.total))

        def finish() -> Metrics:
            loss = loss_per_token(data, [gradients.result()])
            update.result()
            return {
                "loss": loss,
                "tokens": sum(len(example.tokens) - 1 for example in batch),
                "loss_tokens": sum(example.loss_tokens for example in batch),
            }

        return finish

    def evaluate(self, step: int) -> Metrics:
        return {"eval_loss": trainer_loss(self._trainer, self._held_out)}
