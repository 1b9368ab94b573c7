"""On-policy distillation: the model learns from its own answers to write as a teacher would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from attrs import define
from numpy.typing import NDArray

from tinkex import InvalidInputError, SamplingClient
from tinkex.data import PromptRow
from tinkex.recipes.batches import BatchOrder
from tinkex.recipes.config import TrainConfig, setting
from tinkex.recipes.context import Context
from tinkex.recipes.loop import Goal
from tinkex.recipes.rollouts import Rollout, roll_out, sampling_seed
from tinkex.recipes.run_folder import Metrics


@define(kw_only=True)
class DistillConfig(TrainConfig):
    """The settings of on-policy distillation.

    Example:
        config = DistillConfig(data="prompts.jsonl", teacher="Qwen/Qwen3-8B", steps=50)
        result = train(config, service)
    """

    recipe: ClassVar[str] = "distill"

    teacher: str = setting("Base model, or path of weights for sampling, to learn from.")
    group_size: int = setting("Answers to each prompt.", 4, least=1)
    max_tokens: int = setting("Most tokens of an answer.", 64, least=1)
    stop: list[str] = setting("Text that ends an answer, beside the end of text; repeatable.", [])


class Distill:
    """A step samples answers, and lets the teacher score each of their tokens.

    The advantage of a token is the teacher's logprob less the model's own, so that the expected
    gradient lowers the reverse KL divergence from the model to the teacher. Their mean is
    subtracted, which changes the gradient's variance and not its expectation. `kl` is the estimate
    of that divergence by these samples, in nats per token.
    """

    goal: ClassVar = Goal("kl", lower_is_better=True)
    in_flight: ClassVar = 1  # each step samples from the weights that the last one made

    def __init__(self, config: DistillConfig, context: Context) -> None:
        self._config, self._context = config, context
        self._prompts = context.prompts(config.data, config.max_tokens)
        self.summary = f"{len(self._prompts):,} prompts"
        self.prompt = context.tokenizer.decode(self._prompts[0].tokens)
        self._held_out = (
            context.prompts(config.eval_data, config.max_tokens) if config.eval_data else ()
        )
        self._order = BatchOrder(len(self._prompts), config.batch_size, config.seed)
        self.total = config.total_steps(len(self._prompts))
        self._teacher = self._open_teacher(config.teacher)

    def _open_teacher(self, name: str) -> SamplingClient:
        """Returns a client of the teacher. Raises `InvalidInputError` if it has other tokens."""
        service = self._context.service
        if "://" in name:
            return service.create_sampling_client(name, self._config.model)
        teacher = service.create_sampling_client(base_model=name)
        if teacher.get_tokenizer().get_vocab() != self._context.tokenizer.get_vocab():
            raise InvalidInputError(
                f"the teacher {name} has other tokens than {self._config.model}, so that it cannot "
                "score them",
                advice="Choose a teacher of the same family of models.",
            )
        return teacher

    def begin(self, step: int) -> Callable[[], Metrics]:
        rollouts = self._sample(step, self._order.batch(step, self._prompts))
        gaps = self._gaps(rollouts)
        self._context.activity.now(f"training step {step + 1} on the server")
        return lambda: self._learn(step, rollouts, gaps)

    def _sample(self, step: int, prompts: Sequence[PromptRow]) -> list[Rollout]:
        config = self._config
        count = len(prompts) * config.group_size
        self._context.activity.now(f"sampling {count} answers on the server")
        groups = roll_out(
            self._context.trainer.save_weights_and_get_sampling_client(),
            prompts,
            config.group_size,
            max_tokens=config.max_tokens,
            stop=config.stop,
            seed=sampling_seed(config.seed, step, config.group_size),
        )
        return [rollout for group in groups for rollout in group if len(rollout.tokens)]

    def _gaps(self, rollouts: Sequence[Rollout]) -> list[NDArray[np.float32]]:
        """Returns the model's logprob less the teacher's for each token of each answer."""
        self._context.activity.now(f"scoring {len(rollouts)} answers by the teacher on the server")
        scoring = [self._teacher.compute_logprobs(each.whole) for each in rollouts]
        return [
            rollout.logprobs - np.array(future.result()[len(rollout.prompt.tokens) :], np.float32)
            for rollout, future in zip(rollouts, scoring, strict=True)
        ]

    def _learn(
        self, step: int, rollouts: Sequence[Rollout], gaps: Sequence[NDArray[np.float32]]
    ) -> Metrics:
        kl = np.float32(np.mean(np.concatenate(gaps)))
        data = [rollout.datum(kl - gap) for rollout, gap in zip(rollouts, gaps, strict=True)]
        trainer = self._context.trainer
        gradients = trainer.forward_backward(data, "importance_sampling")
        update = trainer.optim_step(self._config.adam(step, self.total))
        gradients.result()
        update.result()
        return {
            "kl": float(kl),
            "answer_tokens": float(np.mean([len(rollout.tokens) for rollout in rollouts])),
            "tokens": sum(len(rollout.whole) for rollout in rollouts),
        }

    def evaluate(self, step: int) -> Metrics:
        gaps = self._gaps(self._sample(0, self._held_out))
        return {"eval_kl": float(np.mean(np.concatenate(gaps)))}
