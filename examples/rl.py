"""Reinforcement learning, in an asyncio application: the model learns to write vowels.

Each step samples a group of answers to a prompt, and reinforces those whose reward is above the
mean of the group. `tinkex train rl` does the same for a file and a function of your own.
"""

import asyncio
import os

import numpy as np

from tinkex import AdamParams, AsyncServiceClient, Datum, ModelInput, SampledSequence

PROMPT, GROUP, STEPS = "a = ", 16, 4


async def main() -> None:
    url = os.environ.get("TINKER_BASE_URL", "local")
    async with AsyncServiceClient(base_url=url) as service:
        trainer = await service.create_lora_training_client("tinkex/tiny", rank=8, seed=0)
        tokenizer = await trainer.get_tokenizer()
        prompt = tokenizer.encode(PROMPT)
        for step in range(STEPS):
            sampler = await trainer.save_weights_and_get_sampling_client()
            params = {"max_tokens": 4, "seed": step * GROUP}
            answers = (await sampler.sample(prompt, GROUP, params)).sequences
            rewards = np.array([reward(tokenizer.decode(each.tokens)) for each in answers])
            print(f"step {step}: mean reward {rewards.mean():.2f}")
            advantages = rewards - rewards.mean()
            data = [datum(prompt, *pair) for pair in zip(answers, advantages, strict=True)]
            gradients = trainer.forward_backward(data, "importance_sampling")
            update = trainer.optim_step(AdamParams(learning_rate=3e-3))
            await gradients
            await update


def reward(answer: str) -> float:
    return sum(letter in "aeiou" for letter in answer) / max(1, len(answer))


def datum(prompt: list[int], answer: SampledSequence, advantage: float) -> Datum:
    """Makes a datum in which only the tokens of the answer have an advantage."""
    tokens, read = prompt + answer.tokens, len(prompt) - 1
    assert answer.logprobs is not None
    inputs = {
        "target_tokens": tokens[1:],
        "logprobs": [0.0] * read + answer.logprobs,
        "advantages": [0.0] * read + [advantage] * len(answer.tokens),
    }
    return Datum(ModelInput.from_ints(tokens[:-1]), inputs)


if __name__ == "__main__":
    asyncio.run(main())
