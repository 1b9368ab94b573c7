"""Reinforcement learning: the model learns to write what a function of yours rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from attrs import define
from numpy.typing import NDArray

from tinkex.recipes.batches import BatchOrder
from tinkex.recipes.config import TrainConfig, setting
from tinkex.recipes.context import Context
from tinkex.recipes.functions import load_function
from tinkex.recipes.held_out import mean_score
from tinkex.recipes.loop import Goal
from tinkex.recipes.rollouts import Rollout, roll_out, sampling_seed
from tinkex.recipes.run_folder import Metrics
from tinkex.recipes.scoring import Scorer, scored


@define(kw_only=True)
class RlConfig(TrainConfig):
    """The settings of reinforcement learning.

    Example:
        config = RlConfig(data="numbers.jsonl", reward="rewards:correct", steps=50)
        result = train(config, service)
    """

    recipe: ClassVar[str] = "rl"

    reward: str = setting(
        "Function reward(row, answer) -> number, as module:function or file.py:function."
    )
    loss: str = setting(
        "Loss function.",
        "importance_sampling",
        choices=("importance_sampling", "ppo", "cispo"),
    )
    group_size: int = setting("Answers to each prompt, which are compared.", 8, least=2)
    max_tokens: int = setting("Most tokens of an answer.", 64, least=1)
    stop: list[str] = setting("Text that ends an answer, beside the end of text; repeatable.", [])


class Rl:
    """A step samples a group of answers to each prompt, and reinforces those that are better than
    the mean of their group.

    The advantage of an answer is its reward less that mean. A group of equal rewards teaches
    nothing, and is left out; a step of such groups leaves the model as it is.
    """

    goal: ClassVar = Goal("reward", lower_is_better=False)
    in_flight: ClassVar = 1  # each step samples from the weights that the last one made

    def __init__(self, config: RlConfig, context: Context) -> None:
        self._config, self._context = config, context
        self._reward: Scorer = load_function(config.reward)
        self._prompts = context.prompts(config.data, config.max_tokens)
        self.summary = f"{len(self._prompts):,} prompts"
        self.prompt = context.tokenizer.decode(self._prompts[0].tokens)
        self._held_out = (
            context.prompts(config.eval_data, config.max_tokens) if config.eval_data else ()
        )
        self._order = BatchOrder(len(self._prompts), config.batch_size, config.seed)
        self.total = config.total_steps(len(self._prompts))

    def begin(self, step: int) -> Callable[[], Metrics]:
        config, activity = self._config, self._context.activity
        count = config.batch_size * config.group_size
        activity.now(f"sampling {count} answers on the server")
        groups = roll_out(
            self._context.trainer.save_weights_and_get_sampling_client(),
            self._order.batch(step, self._prompts),
            config.group_size,
            max_tokens=config.max_tokens,
            stop=config.stop,
            seed=sampling_seed(config.seed, step, config.group_size),
        )
        activity.now(f"scoring {count} answers in this program")
        rewards = [self._rewards(group) for group in groups]
        activity.now(f"training step {step + 1} on the server")
        return lambda: self._learn(step, groups, rewards)

    def _learn(
        self,
        step: int,
        groups: Sequence[Sequence[Rollout]],
        rewards: Sequence[NDArray[np.float32]],
    ) -> Metrics:
        data = [
            rollout.datum(np.full(len(rollout.tokens), advantage, np.float32))
            for group, group_rewards in zip(groups, rewards, strict=True)
            for rollout, advantage in zip(group, group_relative(group_rewards), strict=True)
            if advantage != 0 and len(rollout.tokens)
        ]
        if data:
            trainer = self._context.trainer
            gradients = trainer.forward_backward(data, self._config.loss)
            update = trainer.optim_step(self._config.adam(step, self.total))
            gradients.result()
            update.result()
        rollouts = [rollout for group in groups for rollout in group]
        return {
            "reward": float(np.mean(np.concatenate(rewards))),
            "answer_tokens": float(np.mean([len(rollout.tokens) for rollout in rollouts])),
            "entropy": -float(np.mean(np.concatenate([each.logprobs for each in rollouts]))),
            "groups_without_signal": sum(not np.ptp(each) for each in rewards),
            "tokens": sum(len(rollout.whole) for rollout in rollouts),
        }

    def _rewards(self, group: Sequence[Rollout]) -> NDArray[np.float32]:
        decode = self._context.tokenizer.decode
        return np.array(
            [scored(self._reward, each.prompt, decode(each.tokens)) for each in group], np.float32
        )

    def evaluate(self, step: int) -> Metrics:
        config, context = self._config, self._context
        sampler = context.trainer.save_weights_and_get_sampling_client()
        reward = mean_score(
            self._reward, sampler, context.tokenizer, self._held_out, config.max_tokens, config.stop
        )
        return {"eval_reward": reward}


def group_relative(rewards: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the advantage of each answer of a group: its reward less the mean; all 0 where the
    rewards are equal, whatever rounding makes of their mean.
    """
    if not np.ptp(rewards):
        return np.zeros_like(rewards)
    return rewards - rewards.mean()
