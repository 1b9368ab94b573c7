"""Several models at once, in an asyncio application: adapters with different learning rates are
trained side by side, and the best one is kept.
"""

import asyncio
import os

from tinkex import AdamParams, AsyncServiceClient, AsyncTrainingClient, Datum, ModelInput

RATES = (3e-4, 1e-3, 3e-3)


async def main() -> None:
    url = os.environ.get("TINKER_BASE_URL", "local")
    async with AsyncServiceClient(base_url=url) as service:
        trainers = await asyncio.gather(
            *(service.create_lora_training_client("tinkex/tiny", rank=8, seed=0) for _ in RATES)
        )
        losses = await asyncio.gather(
            *(trained(trainer, rate) for trainer, rate in zip(trainers, RATES, strict=True))
        )
        for rate, loss in zip(RATES, losses, strict=True):
            print(f"learning rate {rate:g}: loss {loss:.2f}")
        best = losses.index(min(losses))
        saved = await trainers[best].save_weights_for_sampler("best")
        print(f"kept {RATES[best]:g}: {saved.path}")


async def trained(trainer: AsyncTrainingClient, learning_rate: float) -> float:
    """Trains a model, and returns its last loss."""
    tokens = (await trainer.get_tokenizer()).encode("red stop")
    data = [Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:]})]
    adam = AdamParams(learning_rate=learning_rate)
    # the order of the calls is the order of the steps, so that all can be sent at once
    steps = [trainer.train_step(data, "cross_entropy", adam) for _ in range(6)]
    outputs = await asyncio.gather(*steps)
    return outputs[-1].forward_backward.metrics["loss:sum"]


if __name__ == "__main__":
    asyncio.run(main())
