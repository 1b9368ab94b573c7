"""On-policy distillation, in an asyncio application: a new adapter learns from its own answers to
write as a trained one does.
"""

import asyncio
import os

import numpy as np

from tinkex import AdamParams, AsyncServiceClient, AsyncTrainingClient, Datum, ModelInput

TEXT, PROMPT, GROUP = "red stop", "red", 16


async def main() -> None:
    url = os.environ.get("TINKER_BASE_URL", "local")
    async with AsyncServiceClient(base_url=url) as service:
        teacher = await taught(
            await service.create_lora_training_client("tinkex/tiny", rank=8, seed=1)
        )
        trainer = await service.create_lora_training_client("tinkex/tiny", rank=8, seed=0)
        prompt = (await trainer.get_tokenizer()).encode(PROMPT)
        for step in range(4):
            student = await trainer.save_weights_and_get_sampling_client()
            params = {"max_tokens": 4, "seed": step * GROUP}
            answers = (await student.sample(prompt, GROUP, params)).sequences
            wholes = [prompt + answer.tokens for answer in answers]
            scores = await asyncio.gather(*(teacher.compute_logprobs(whole) for whole in wholes))
            gaps = [
                answer.logprobs_np - np.array(score[len(prompt) :], np.float32)
                for answer, score in zip(answers, scores, strict=True)
            ]
            kl = np.concatenate(gaps).mean()
            print(f"step {step}: KL to the teacher {kl:.3f} nats a token")
            data = [
                Datum(
                    ModelInput.from_ints(whole[:-1]),
                    {
                        "target_tokens": whole[1:],
                        "logprobs": np.pad(answer.logprobs_np, (len(prompt) - 1, 0)),
                        "advantages": np.pad(kl - gap, (len(prompt) - 1, 0)),
                    },
                )
                for whole, answer, gap in zip(wholes, answers, gaps, strict=True)
            ]
            await trainer.train_step(data, "importance_sampling", AdamParams(learning_rate=3e-3))


async def taught(trainer: AsyncTrainingClient):
    """Returns a sampler of a model that knows the text."""
    tokens = (await trainer.get_tokenizer()).encode(TEXT)
    data = [Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:]})]
    for _ in range(6):
        await trainer.train_step(data, "cross_entropy", AdamParams(learning_rate=3e-3))
    return await trainer.save_weights_and_get_sampling_client()


if __name__ == "__main__":
    asyncio.run(main())
